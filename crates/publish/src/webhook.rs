use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::event::Event;

/// The header with the event's number.
const HEADER_SEQUENCE: &str = "x-pgbaton-sequence";
/// The header with the event's name.
const HEADER_EVENT: &str = "x-pgbaton-event";
/// The header with the time of this attempt, in seconds since 1970.
const HEADER_TIMESTAMP: &str = "x-pgbaton-timestamp";
/// The header with `sha256=` and the HMAC of that time, a full stop and the body.
const HEADER_SIGNATURE: &str = "x-pgbaton-signature";

/// How long a server may go on speaking after its status has come.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

/// An HTTP server that events are posted to.
#[derive(Clone)]
pub struct WebhookSettings {
    /// Where: a URL with `http` or `https`. What follows its host may be secret, and is in no message.
    pub url: String,
    /// What requests are signed with.
    pub secret: Option<Secret>,
    /// The authorities that may have signed the server's certificate, in a PEM file; none: those that the system trusts.
    pub authority: Option<PathBuf>,
}

/// A secret, or where it is.
#[derive(Clone)]
pub enum Secret {
    /// The secret itself.
    Text(String),
    /// The file that holds it; a line's end at its end is no part of it.
    File(PathBuf),
}

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL is none.
    #[error("the URL cannot be used")]
    Url(#[source] hyper::http::uri::InvalidUri),
    /// The secret cannot be read.
    #[error("cannot read the secret in {}", .path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is nothing in the secret's file.
    #[error("there is no secret in {}", .path.display())]
    NoSecret {
        /// The file.
        path: PathBuf,
    },
    /// The certificates of the authorities cannot be read.
    #[error("cannot read certificates in {}", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// A certificate of an authority is not valid, or TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The certificates that the system trusts cannot be had.
    #[error("cannot read the certificates that this system trusts")]
    System(#[source] io::Error),
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// It does not fit into a request.
    #[error("no valid request")]
    Invalid(#[source] hyper::http::Error),
    /// There was no answer.
    #[error("no answer")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// There was none in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// The server does not take it.
    #[error("the server answers {0}")]
    Refused(StatusCode),
}

/// A webhook in use.
pub(crate) struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    key: Option<hmac::Key>,
}

impl Webhook {
    pub(crate) fn new(settings: &WebhookSettings) -> Result<Self, WebhookError> {
        let key = settings.secret.as_ref().map(key).transpose()?;
        let url: Uri = settings.url.parse().map_err(WebhookError::Url)?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls(settings, &url)?).https_or_http().enable_http1();
        // Events are rare: a connection that was kept would be found dead when it is needed.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector.build());
        Ok(Self { client, url, key })
    }

    /// Posts an event once. `now` is the time in seconds since 1970. Any answer between 200 and 299 means that it was taken.
    pub(crate) async fn post(&self, event: &Event, now: i64, within: Duration) -> Result<(), PostError> {
        // Names, numbers and texts: nothing in it can fail.
        let body = serde_json::to_vec(event).unwrap_or_default();
        let mut request = Request::post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("pgbaton/", env!("CARGO_PKG_VERSION")))
            .header(HEADER_SEQUENCE, event.sequence)
            .header(HEADER_EVENT, event.event.as_str())
            .header(HEADER_TIMESTAMP, now);
        if let Some(key) = &self.key {
            request = request.header(HEADER_SIGNATURE, signature(key, now, &body));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(PostError::Invalid)?;
        let answer = timeout(within, self.client.request(request)).await.map_err(|_| PostError::Slow(within))?;
        let answer = answer.map_err(|error| PostError::Failed(error.into()))?;
        let status = answer.status();
        let mut body = answer.into_body();
        // So that the server need not wonder. What it says besides matters to nobody, nor whether it comes to an end.
        let heard = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = timeout(HEARD_WITHIN, heard).await;
        if status.is_success() { Ok(()) } else { Err(PostError::Refused(status)) }
    }
}

fn key(secret: &Secret) -> Result<hmac::Key, WebhookError> {
    let text = match secret {
        Secret::Text(text) => text.clone(),
        Secret::File(path) => {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| WebhookError::Secret { path: path.clone(), source })?;
            let text = text.trim_end_matches(['\n', '\r']).to_owned();
            if text.is_empty() {
                return Err(WebhookError::NoSecret { path: path.clone() });
            }
            text
        }
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
}

fn signature(key: &hmac::Key, now: i64, body: &[u8]) -> String {
    let mut signed = hmac::Context::with_key(key);
    signed.update(format!("{now}.").as_bytes());
    signed.update(body);
    let tag = signed.sign();
    tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn tls(settings: &WebhookSettings, url: &Uri) -> Result<ClientConfig, WebhookError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut trusted = RootCertStore::empty();
    if let Some(path) = &settings.authority {
        let failed = |source| WebhookError::Authority { path: path.clone(), source };
        for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
            trusted.add(certificate.map_err(failed)?).map_err(WebhookError::Tls)?;
        }
    } else if url.scheme_str() == Some("https") {
        let found = rustls_native_certs::load_native_certs();
        // Those that cannot be used are some of many; without any, nothing can be trusted.
        let (usable, _) = trusted.add_parsable_certificates(found.certs);
        if usable == 0 {
            let why = found.errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("; ");
            return Err(WebhookError::System(io::Error::other(why)));
        }
    }
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(WebhookError::Tls)?.with_root_certificates(trusted).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_openssl_makes() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac s3cret
        let key = key(&Secret::Text("s3cret".to_owned())).unwrap();
        let wanted = "sha256=1698a50bc74d1ff1db85c4e0a5297c2ad9fdba245d5737cdb789e4cc6e098940";
        assert_eq!(signature(&key, 1_700_000_000, br#"{"a":1}"#), wanted);
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let said = |path: &PathBuf| key(&Secret::File(path.clone())).map(drop).unwrap_err().to_string();
        assert_eq!(said(&path), format!("cannot read the secret in {}", path.display()));
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(said(&path), format!("there is no secret in {}", path.display()));
        std::fs::write(&path, "s3cret\n").unwrap();
        let (file, text) = (key(&Secret::File(path)).unwrap(), key(&Secret::Text("s3cret".to_owned())).unwrap());
        assert_eq!(signature(&file, 1, b"x"), signature(&text, 1, b"x"));
    }
}
