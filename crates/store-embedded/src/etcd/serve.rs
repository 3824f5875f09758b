//! The connections of etcd's clients, which come in on the peers' port.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt;
use pgbaton_etcd_proto::etcdserverpb::auth_server::AuthServer;
use pgbaton_etcd_proto::etcdserverpb::cluster_server::ClusterServer;
use pgbaton_etcd_proto::etcdserverpb::kv_server::KvServer;
use pgbaton_etcd_proto::etcdserverpb::lease_server::LeaseServer;
use pgbaton_etcd_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use pgbaton_etcd_proto::etcdserverpb::watch_server::WatchServer;
use pgbaton_net::{ClientConnection, Clients};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::Face;
use super::auth::Door;
use crate::node::Node;

/// The longest message in bytes that is read at all; what is longer than etcd takes is refused in etcd's words up to this.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Connections that were accepted and are not served yet.
const WAITING_MAX: usize = 64;

/// The certificates with which clients are served, in PEM format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The own certificate, and whatever leads from it to an authority.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// The authority that must have signed a client's certificate. Without it clients need none.
    pub authority: Option<Vec<u8>>,
}

/// Serves until dropped.
#[derive(Debug)]
pub(crate) struct EtcdServer {
    task: JoinHandle<()>,
}

impl EtcdServer {
    /// Serves the connections that come through the channels: with certificates, none in plain text.
    ///
    /// # Errors
    /// When the certificates are none.
    pub(crate) fn start(node: &Arc<Node>, tls: Option<&ServerTls>) -> Result<(Self, Clients), tonic::transport::Error> {
        let (sender, connections) = mpsc::channel(WAITING_MAX);
        let (server, clients) = match tls {
            None => (Server::builder(), Clients { plain: Some(sender), tls: None }),
            Some(tls) => {
                let mut config = ServerTlsConfig::new().identity(Identity::from_pem(&tls.certificate, &tls.key));
                if let Some(authority) = &tls.authority {
                    config = config.client_ca_root(Certificate::from_pem(authority));
                }
                (Server::builder().tls_config(config)?, Clients { plain: None, tls: Some(sender) })
            }
        };
        let face = Face { node: Arc::clone(node), scheme: if tls.is_some() { "https" } else { "http" } };
        let task = tokio::spawn(serve(server, face, connections));
        Ok((Self { task }, clients))
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut server: Server, face: Face, connections: mpsc::Receiver<io::Result<ClientConnection>>) {
    let door = Door { key: face.node.key.clone() };
    let connections = ReceiverStream::new(connections).map(|connection| connection.map(Client));
    let ended = server
        .add_service(AuthServer::new(face.clone()))
        .add_service(InterceptedService::new(
            KvServer::new(face.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            door.clone(),
        ))
        .add_service(InterceptedService::new(WatchServer::new(face.clone()), door.clone()))
        .add_service(InterceptedService::new(LeaseServer::new(face.clone()), door.clone()))
        .add_service(InterceptedService::new(ClusterServer::new(face.clone()), door.clone()))
        .add_service(InterceptedService::new(MaintenanceServer::new(face), door))
        .serve_with_incoming(connections)
        .await;
    if let Err(error) = ended {
        tracing::error!(%error, "etcd's protocol is not served any more");
    }
}

/// A client's connection, as the server wants it. Its place is free again when it ends.
struct Client(ClientConnection);

impl Connected for Client {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.stream.connect_info()
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_shutdown(context)
    }
}
