use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// How long an idle connection is kept. A connection to a member that has restarted looks alive until it is used, so none is
/// kept for longer than a burst of calls.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a call gave no answer. An answer with a status of failure is an [`HttpResponse`].
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL, a header or the credentials cannot be written into a request.
    #[error("{method} {url} is not a valid request")]
    Invalid {
        /// The method.
        method: Method,
        /// The URL.
        url: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer before the deadline. Whether the request was acted on is not known.
    #[error("{method} {url}: no answer within {} ms", .after.as_millis())]
    Timeout {
        /// The method.
        method: Method,
        /// The URL.
        url: String,
        /// The deadline.
        after: Duration,
    },
    /// Nobody listens there: the request was certainly not acted on.
    #[error("{method} {url}: no connection")]
    Connect {
        /// The method.
        method: Method,
        /// The URL.
        url: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke after it was made. Whether the request was acted on is not known.
    #[error("{method} {url}: the connection broke")]
    Broken {
        /// The method.
        method: Method,
        /// The URL.
        url: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// An HTTP/1.1 client (no TLS) in which every call has one deadline over everything: connecting, sending, waiting, reading.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpClient {
    /// A client without credentials.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .retry_canceled_requests(false)
            .build(connector);
        Self { client, authorization: None }
    }

    /// The same client with basic authentication (RFC 7617); `None` when the credentials cannot stand in a header.
    #[must_use]
    pub fn with_basic_auth(mut self, user: &str, password: &str) -> Option<Self> {
        let text = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Some(self)
    }

    /// GET.
    pub async fn get(&self, url: &str, deadline: Duration) -> Result<HttpResponse, HttpError> {
        self.call(Method::GET, url, None, deadline).await
    }

    /// POST of a JSON body.
    pub async fn post(&self, url: &str, json: Vec<u8>, deadline: Duration) -> Result<HttpResponse, HttpError> {
        self.call(Method::POST, url, Some(json), deadline).await
    }

    /// PATCH with a JSON body.
    pub async fn patch(&self, url: &str, json: Vec<u8>, deadline: Duration) -> Result<HttpResponse, HttpError> {
        self.call(Method::PATCH, url, Some(json), deadline).await
    }

    /// DELETE.
    pub async fn delete(&self, url: &str, deadline: Duration) -> Result<HttpResponse, HttpError> {
        self.call(Method::DELETE, url, None, deadline).await
    }

    /// Any method, with or without a JSON body.
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        json: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<HttpResponse, HttpError> {
        let mut builder = Request::builder().method(method.clone()).uri(url);
        if json.is_some() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        let request = builder.body(Full::new(Bytes::from(json.unwrap_or_default()))).map_err(|source| {
            HttpError::Invalid { method: method.clone(), url: url.to_owned(), source: Box::new(source) }
        })?;
        tokio::time::timeout(deadline, self.exchange(request, &method, url)).await.unwrap_or_else(|_| {
            Err(HttpError::Timeout { method: method.clone(), url: url.to_owned(), after: deadline })
        })
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        method: &Method,
        url: &str,
    ) -> Result<HttpResponse, HttpError> {
        let response = self.client.request(request).await.map_err(|error| {
            let (method, url) = (method.clone(), url.to_owned());
            if error.is_connect() {
                HttpError::Connect { method, url, source: Box::new(error) }
            } else {
                HttpError::Broken { method, url, source: Box::new(error) }
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|source| HttpError::Broken { method: method.clone(), url: url.to_owned(), source })?
            .to_bytes();
        Ok(HttpResponse { status, body })
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let sextet = (group >> (18 - 6 * position)) & 0x3f;
            text.push(if position <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_the_standard_one() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("user:pass", "dXNlcjpwYXNz"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
