use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::memory_disk::MemoryDisk;
use crate::disk::Disk;
use crate::log::Log;
use crate::raft_types::TypeConfig;
use crate::state_machine::StateMachine;

struct Builder;

impl StoreBuilder<TypeConfig, Log, StateMachine, ()> for Builder {
    async fn build(&self) -> Result<((), Log, StateMachine), StorageError<TypeConfig>> {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let (log, _thread, snapshot) = Log::open(&disk, 64 * 1024).unwrap();
        let machine = StateMachine::new(log.clone(), snapshot).unwrap();
        Ok(((), log, machine))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    Suite::<TypeConfig, Log, StateMachine, Builder, ()>::test_all(Builder).await.unwrap();
}
