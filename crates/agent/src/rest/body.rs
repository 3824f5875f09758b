use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use pgbaton_api::Reply;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::answer::Answer;

/// The longest request body, in bytes: a configuration of many parameters has a few kB.
const BYTES_MAX: usize = 1 << 20;

/// How long a client may take to send its body.
const WITHIN: Duration = Duration::from_secs(10);

/// Reads the body whole.
pub(super) async fn read(request: Request<Incoming>) -> Result<Bytes, Answer> {
    match tokio::time::timeout(WITHIN, Limited::new(request.into_body(), BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(bad(format!("the request body cannot be read: {error}"))),
        Err(_) => Err(Answer::text(408, format!("the request body did not come within {} s", WITHIN.as_secs()))),
    }
}

/// A JSON object that must be there.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Answer> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(bad("the request body must be a JSON object".to_owned())),
        Err(error) => Err(bad(format!("the request body is no JSON: {error}"))),
    }
}

/// A JSON object; nothing is an empty one.
pub(super) fn object_or_nothing(body: &[u8]) -> Result<Map<String, Value>, Answer> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(Map::new()) } else { object(body) }
}

/// A message of another member.
pub(super) fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, Answer> {
    serde_json::from_slice(body).map_err(|error| bad(format!("the message cannot be read: {error}")))
}

fn bad(reason: String) -> Answer {
    Reply::BadRequest { reason }.into()
}
