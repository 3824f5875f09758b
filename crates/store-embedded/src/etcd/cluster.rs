//! etcd's services `Cluster` and `Maintenance`.

use openraft::async_runtime::WatchReceiver;
use pgbaton_etcd_proto::etcdserverpb::cluster_server::Cluster;
use pgbaton_etcd_proto::etcdserverpb::maintenance_server::Maintenance;
use pgbaton_etcd_proto::etcdserverpb::{
    DefragmentRequest, DefragmentResponse, Member, MemberAddRequest, MemberAddResponse, MemberListRequest,
    MemberListResponse, MemberRemoveRequest, MemberRemoveResponse, StatusRequest, StatusResponse,
};
use tonic::{Request, Response, Status};

use super::refusal::Mistake;
use super::{Face, unexpected, wire};
use crate::node::lock;
use crate::protocol::{Operation, Outcome};

/// The version of etcd's protocol that is spoken. Clients look at it before they use what is newer. The first of its releases whose
/// leader makes sure that it still leads before it keeps a lease alive, as is done here.
const VERSION: &str = "3.4.31";

impl Face {
    /// All members, as this node knows them.
    fn members(&self) -> Vec<Member> {
        let metrics = self.node.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.membership().clone();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, node)| {
            // Peers and clients share the port.
            let urls = vec![format!("{}://{}", self.scheme, node.addr)];
            Member {
                id: *id,
                name: node.addr.clone(),
                peer_ur_ls: urls.clone(),
                client_ur_ls: urls,
                is_learner: !voters.contains(id),
            }
        });
        members.collect()
    }
}

#[tonic::async_trait]
impl Cluster for Face {
    /// A member adds itself: its number is its own, and nobody else can know it.
    async fn member_add(&self, _request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(Status::unimplemented(
            "a member of the embedded store adds itself when it is started with this one in its list",
        ))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let node_id = request.into_inner().id;
        if !self.members().iter().any(|member| member.id == node_id) {
            return Err(Mistake::MemberNotFound.into());
        }
        match self.call(Operation::Dismiss { node_id }).await? {
            Outcome::Done => {
                let members = self.members().into_iter().filter(|member| member.id != node_id).collect();
                Ok(Response::new(MemberRemoveResponse { header: self.header(), members }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn member_list(&self, _request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        Ok(Response::new(MemberListResponse { header: self.header(), members: self.members() }))
    }
}

#[tonic::async_trait]
impl Maintenance for Face {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (live, remembered) = {
            let applied = self.node.machine.locked();
            let keyspace = applied.machine.keyspace();
            (keyspace.live_bytes(), keyspace.history_bytes())
        };
        let errors = lock(&self.node.fatal).clone().into_iter().collect();
        let metrics = self.node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_learner = !metrics.membership_config.membership().voter_ids().any(|id| id == self.node.id());
        Ok(Response::new(StatusResponse {
            header: self.header(),
            version: VERSION.to_owned(),
            db_size: wire::signed((live + remembered) as u64),
            leader: metrics.current_leader.unwrap_or(0),
            raft_index: metrics.last_log_index.unwrap_or(0),
            raft_term: metrics.current_term,
            raft_applied_index: metrics.last_applied.map_or(0, |log_id| log_id.index),
            errors,
            db_size_in_use: wire::signed(live as u64),
            is_learner,
        }))
    }

    /// There is nothing to do: what is forgotten takes no room on the disk after the next snapshot.
    async fn defragment(&self, _request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        Ok(Response::new(DefragmentResponse { header: self.header() }))
    }
}
