//! Who is a member of the store, and what keeps a member's disk in order: for those who look after it, not for agents.

use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use pgbaton_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use pgbaton_etcd_proto::etcdserverpb::{DefragmentRequest, MemberAddRequest, MemberRemoveRequest, StatusRequest};
use pgbaton_store::StoreError;

use crate::EtcdStore;
use crate::call::Effect;
use crate::convert::unsigned;

impl EtcdStore {
    /// Lets a new member in; its number. It votes as soon as it runs, and counts for the majority from now on.
    ///
    /// # Errors
    /// As of every call; the embedded store refuses, because there a member adds itself.
    pub async fn add_member(&self, peer_url: &str, deadline: Duration) -> Result<u64, StoreError> {
        let answer = self
            .caller
            .call(Effect::Change, None, deadline, |route| {
                let request = MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: false };
                let request = route.request(request);
                async move { Ok(ClusterClient::new(route.channel).member_add(request).await?.into_inner()) }
            })
            .await?;
        let added = answer.member.ok_or_else(|| StoreError::Invalid("the answer names no member".to_owned()))?;
        Ok(added.id)
    }

    /// Takes a member's vote away, for good.
    ///
    /// # Errors
    /// As of every call; the embedded store refuses to remove one that still answers.
    pub async fn remove_member(&self, id: u64, deadline: Duration) -> Result<(), StoreError> {
        self.caller
            .call(Effect::Change, None, deadline, |route| async move {
                let request = route.request(MemberRemoveRequest { id });
                Ok(ClusterClient::new(route.channel).member_remove(request).await?.into_inner())
            })
            .await
            .map(|_answer| ())
    }

    /// Has the endpoint in use give the room on its disk back that it does not use. It answers nobody else meanwhile.
    ///
    /// # Errors
    /// As of every call.
    pub async fn defragment(&self, deadline: Duration) -> Result<(), StoreError> {
        self.caller
            .call(Effect::Change, None, deadline, |route| async move {
                let request = route.request(DefragmentRequest {});
                Ok(MaintenanceClient::new(route.channel).defragment(request).await?.into_inner())
            })
            .await
            .map(|_answer| ())
    }

    /// How many bytes the endpoint in use has on its disk.
    ///
    /// # Errors
    /// As of every call.
    pub async fn bytes_on_disk(&self, deadline: Duration) -> Result<u64, StoreError> {
        let answer = self
            .caller
            .call(Effect::None, None, deadline, |route| async move {
                let request = route.request(StatusRequest {});
                Ok(MaintenanceClient::new(route.channel).status(request).await?.into_inner())
            })
            .await?;
        Ok(unsigned(answer.db_size))
    }
}
