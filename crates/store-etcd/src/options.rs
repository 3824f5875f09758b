use std::net::SocketAddr;
use std::path::PathBuf;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::endpoints::Place;

/// Where the store is and who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `host:port` of each endpoint; empty only if DNS names them. The first is asked first.
    pub endpoints: Vec<String>,
    /// Look endpoints up by DNS.
    pub srv: Option<Srv>,
    /// Use also the endpoints that the members of the store know of each other.
    pub discover: bool,
    /// Name and password, if the store wants them.
    pub user: Option<(String, String)>,
    /// Speak TLS with the endpoints that are written down.
    pub tls: Option<TlsFiles>,
}

/// Endpoints by records SRV (RFC 2782) below a domain: `_etcd-client-ssl._tcp`, `_etcd-client._tcp`, and what etcd called them before; the
/// first name that has any decides, also whether TLS is spoken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Srv {
    /// The domain.
    pub domain: String,
    /// Of several stores in one domain: `_etcd-client-SUFFIX._tcp`.
    pub suffix: Option<String>,
    /// Asked instead of the system's name servers.
    pub name_server: Option<SocketAddr>,
}

impl Options {
    /// The endpoints that are written down.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |address: &String| Place { address: address.clone(), secure: self.tls.is_some() };
        self.endpoints.iter().map(place).collect()
    }
}

/// Files in PEM format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that may have signed the store's certificate. Without it those that the system trusts.
    pub authority: Option<PathBuf>,
    /// The own certificate and its key, if the store wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What is wrong with [`Options`].
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// No endpoint is given.
    #[error("no endpoint of the store is given")]
    NoEndpoint,
    /// An endpoint is not `host:port`.
    #[error("the endpoint {endpoint:?} is not of the form host:port")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// The cause.
        source: tonic::transport::Error,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The files are not what they should be.
    #[error("the certificates for {endpoint} cannot be used")]
    Tls {
        /// For which endpoint.
        endpoint: String,
        /// The cause.
        source: tonic::transport::Error,
    },
}

impl TlsFiles {
    pub(crate) fn load(&self) -> Result<ClientTlsConfig, OptionsError> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|source| OptionsError::File { path: path.clone(), source });
        let mut config = ClientTlsConfig::new();
        config = match &self.authority {
            Some(authority) => config.ca_certificate(Certificate::from_pem(read(authority)?)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(config)
    }
}
