use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use pgbaton_api::{Reply, to_loose};
use serde::Serialize;

/// What names the program in each answer.
const SERVER_NAME: &str = concat!("pgbaton/", env!("CARGO_PKG_VERSION"));

/// An answer: status, type, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    code: u16,
    kind: Option<&'static str>,
    body: String,
}

impl Answer {
    /// A text. Patroni calls it HTML; clients look at the code and the words.
    pub(super) fn text(code: u16, text: impl Into<String>) -> Self {
        Self { code, kind: Some("text/html"), body: text.into() }
    }

    /// A document.
    pub(super) fn json<T: Serialize + ?Sized>(code: u16, document: &T) -> Self {
        match to_loose(document) {
            Ok(body) => Self { code, kind: Some("application/json"), body },
            Err(error) => Self::text(500, format!("the document cannot be written: {error}")),
        }
    }

    /// Text for Prometheus.
    pub(super) fn metrics(text: String) -> Self {
        Self { code: 200, kind: Some("text/plain"), body: text }
    }

    /// A code and nothing else.
    pub(super) fn bare(code: u16) -> Self {
        Self { code, kind: None, body: String::new() }
    }

    /// As it goes over the wire.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
        if let Some(kind) = self.kind {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if self.code == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Patroni\""));
        }
        response
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::text(reply.code(), reply.text())
    }
}
