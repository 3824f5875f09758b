//! etcd's service `Auth`, as far as a client needs it to come in.
//!
//! There is one password, `raft.password`, and whoever knows it may do everything, under whatever name. A token is made from the password
//! alone, so that every member takes it, also after a restart.

use pgbaton_etcd_proto::etcdserverpb::auth_server::Auth;
use pgbaton_etcd_proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use pgbaton_net::PeerKey;
use tonic::service::Interceptor;
use tonic::{Request, Response, Status};

use super::Face;

/// Where a client puts its token: etcd's name.
const TOKEN: &str = "token";

#[tonic::async_trait]
impl Auth for Face {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let request = request.into_inner();
        if !self.node.key.is_some() {
            return Err(Status::failed_precondition("etcdserver: authentication is not enabled"));
        }
        if request.name.is_empty() {
            return Err(Status::invalid_argument("etcdserver: user name is empty"));
        }
        // Deriving takes some ten milliseconds of a processor, which nobody else shall wait for.
        let derived = tokio::task::spawn_blocking(move || PeerKey::derive(Some(&request.password))).await;
        let derived = derived.map_err(|error| Status::internal(error.to_string()))?;
        let token = self.node.key.token(&request.name);
        if token.is_none() || derived.token(&request.name) != token {
            return Err(Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password"));
        }
        Ok(Response::new(AuthenticateResponse { header: self.header(), token: token.unwrap_or_default() }))
    }
}

/// Lets in who shows a token, where there is a password.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) key: PeerKey,
}

impl Interceptor for Door {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if !self.key.is_some() {
            return Ok(request);
        }
        match request.metadata().get(TOKEN).map(|token| token.to_str()) {
            None => Err(Status::invalid_argument("etcdserver: user name is empty")),
            Some(Ok(token)) if self.key.is_token(token) => Ok(request),
            Some(_) => Err(Status::unauthenticated("etcdserver: invalid auth token")),
        }
    }
}
