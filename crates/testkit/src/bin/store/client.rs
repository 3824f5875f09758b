//! What is asked of a store, in etcd's words.

use pgbaton_etcd_proto::etcdserverpb::kv_client::KvClient;
use pgbaton_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use pgbaton_etcd_proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::Outcome;

/// One connection to one voter.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
}

impl Client {
    /// Connects when it is first used.
    pub(crate) fn new(endpoint: &str) -> Outcome<Self> {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))?.tcp_nodelay(true).connect_lazy();
        Ok(Self { channel })
    }

    /// Writes a key; refused at once by a voter that knows of no leader.
    pub(crate) async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), Status> {
        let mut request = Request::new(PutRequest { key: key.as_bytes().to_vec(), value, ..PutRequest::default() });
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        KvClient::new(self.channel.clone()).put(request).await.map(|_answer| ())
    }

    /// Reads a key, linearizably.
    pub(crate) async fn get(&self, key: &str) -> Result<(), Status> {
        let request = RangeRequest { key: key.as_bytes().to_vec(), ..RangeRequest::default() };
        KvClient::new(self.channel.clone()).range(request).await.map(|_answer| ())
    }

    /// This voter's number, and that of the leader it knows; 0: of none.
    pub(crate) async fn who(&self) -> Result<(u64, u64), Status> {
        let status = MaintenanceClient::new(self.channel.clone()).status(StatusRequest {}).await?.into_inner();
        Ok((status.header.map_or(0, |header| header.member_id), status.leader))
    }
}
