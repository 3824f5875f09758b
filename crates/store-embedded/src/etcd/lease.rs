//! etcd's service `Lease`.

use std::time::Duration;

use futures::{Stream, StreamExt};
use pgbaton_etcd_proto::etcdserverpb::lease_server::Lease;
use pgbaton_etcd_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use pgbaton_store::{Command, LeaseId, Refusal, StoreError};
use tonic::{Request, Response, Status, Streaming};

use super::refusal::{self, Mistake};
use super::{Face, REQUEST_TIME, unexpected, wire};
use crate::protocol::{Operation, Outcome};

/// The shortest lease, in seconds: etcd's at its default timers. A shorter one is made as long as this.
const TTL_MIN: i64 = 2;

/// The longest lease, in seconds: etcd's.
const TTL_MAX: i64 = 9_000_000_000;

/// What follows from asking about a lease that may not exist.
enum Found<T> {
    Lease(T),
    None,
}

impl Face {
    /// Asks the leader about a lease.
    async fn ask(&self, operation: Operation) -> Result<Found<Outcome>, Status> {
        match self.node.call(operation, REQUEST_TIME).await {
            Ok(outcome) => Ok(Found::Lease(outcome)),
            Err(StoreError::Refused(Refusal::LeaseNotFound(_) | Refusal::LeaseExpiring(_))) => Ok(Found::None),
            Err(error) => Err(refusal::status(&error)),
        }
    }

    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let lease = LeaseId(id.cast_unsigned());
        let kept = match self.ask(Operation::KeepAlive(lease)).await? {
            // What was granted never changes, and whoever renews may have asked a node that has not applied the grant yet.
            Found::Lease(_) => match self.ask(Operation::TimeToLive(lease)).await? {
                Found::Lease(Outcome::TimeToLive(granted)) => seconds(granted),
                Found::Lease(other) => return Err(unexpected(&other)),
                Found::None => 0,
            },
            Found::None => 0,
        };
        Ok(LeaseKeepAliveResponse { header: self.header(), id, ttl: kept })
    }
}

fn seconds(time: Duration) -> i64 {
    wire::signed(time.as_secs())
}

#[tonic::async_trait]
impl Lease for Face {
    type LeaseKeepAliveStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static>>;

    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let request = request.into_inner();
        if request.ttl > TTL_MAX {
            return Err(Mistake::LeaseTooLong.into());
        }
        let ttl = request.ttl.max(TTL_MIN);
        let id = match request.id {
            // As etcd's: positive, so that every client can show and type it.
            0 => (rand::random::<u64>() >> 1).max(1),
            id => id.cast_unsigned(),
        };
        let ttl_ms = ttl.cast_unsigned() * 1000;
        self.change(Command::LeaseGrant { id: LeaseId(id), ttl_ms }).await?;
        let (header, id) = (self.header(), id.cast_signed());
        Ok(Response::new(LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let id = LeaseId(request.into_inner().id.cast_unsigned());
        self.change(Command::LeaseRevoke { id }).await?;
        Ok(Response::new(LeaseRevokeResponse { header: self.header() }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let face = self.clone();
        let answers = request.into_inner().then(move |request| {
            let face = face.clone();
            async move { face.keep_alive(request?.id).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let id = LeaseId(request.id.cast_unsigned());
        let mut response = LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..LeaseTimeToLiveResponse::default() };
        match self.ask(Operation::LeaseStatus(id)).await? {
            Found::Lease(Outcome::LeaseStatus { granted, left, keys }) => {
                (response.ttl, response.granted_ttl) = (seconds(left), seconds(granted));
                response.keys = if request.keys { keys } else { Vec::new() };
            }
            Found::Lease(other) => return Err(unexpected(&other)),
            Found::None => {}
        }
        response.header = self.header();
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let leases = self.node.machine.locked().machine.leases().map(|(id, _)| id.0.cast_signed()).collect::<Vec<_>>();
        let leases = leases.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.header(), leases }))
    }
}
