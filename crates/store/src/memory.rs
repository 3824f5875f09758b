use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgbaton_types::{BootTime, Revision};

use crate::{
    BoxFuture, Command, EventRing, Health, Lease, LeaseId, LeaseTimes, Machine, Refusal, Renewal, Response, Snapshot,
    Store, StoreError, Txn, TxnResult, Voter, Watch,
};

/// How many changes the ring of a [`MemoryStore`] keeps: few, so that tests reach its end.
const EVENTS_MAX: usize = 256;

/// A clock that stands until it is moved. Clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    now: Arc<Mutex<BootTime>>,
}

impl ManualClock {
    /// The time.
    pub fn now(&self) -> BootTime {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = *now + by;
    }
}

/// A store in this process, for tests: the machine, lease times and watches without consensus, on an injected clock.
///
/// Leases end when the clock has moved and [`MemoryStore::tick`] or any call looks at it.
pub struct MemoryStore {
    clock: Box<dyn Fn() -> BootTime + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    machine: Machine,
    times: LeaseTimes,
    ring: EventRing,
    next_lease: u64,
    outage: Option<Outage>,
}

/// How a [`MemoryStore`] fails while a test wants it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Nothing gets through.
    Unavailable,
    /// Changes are applied but the answer is lost.
    AnswersLost,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store on this clock.
    pub fn new(clock: impl Fn() -> BootTime + Send + Sync + 'static) -> Self {
        let machine = Machine::new();
        let mut times = LeaseTimes::default();
        times.begin_term(1, clock(), &machine);
        let ring = EventRing::new(EVENTS_MAX, machine.revision());
        let state = State { machine, times, ring, next_lease: 1, outage: None };
        Self { clock: Box::new(clock), state: Mutex::new(state) }
    }

    /// Ends the leases that have run out.
    pub fn tick(&self) {
        drop(self.locked());
    }

    /// Begins an outage, or ends it with `None`.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.locked().outage = outage;
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.clock)();
        let ids = state.times.due(now);
        if !ids.is_empty() {
            let ended = state.apply(&Command::LeaseExpire { ids }, now);
            assert!(ended.is_ok(), "an expiry is never refused: {ended:?}");
        }
        state
    }

    fn read<T>(&self, read: impl FnOnce(&mut State) -> Result<T, Refusal>) -> Result<T, StoreError> {
        let mut state = self.locked();
        if state.outage.is_some() {
            return Err(StoreError::unavailable("the test's outage"));
        }
        read(&mut state).map_err(StoreError::from)
    }

    fn change(&self, command: &Command) -> Result<Response, StoreError> {
        let mut state = self.locked();
        if state.outage == Some(Outage::Unavailable) {
            return Err(StoreError::unavailable("the test's outage"));
        }
        let now = (self.clock)();
        let result = state.apply(command, now);
        if state.outage.is_some() {
            return Err(StoreError::indeterminate("the test's outage"));
        }
        result.map_err(StoreError::from)
    }
}

impl State {
    fn apply(&mut self, command: &Command, now: BootTime) -> Result<Response, Refusal> {
        let applied = self.machine.apply(command);
        self.times.follow(now, &self.machine);
        self.ring.publish(&applied.events);
        applied.result
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

fn unexpected(response: &Response) -> StoreError {
    StoreError::Invalid(format!("an answer of another kind: {response:?}"))
}

impl Store for MemoryStore {
    fn snapshot<'a>(&'a self, prefix: &'a str, _deadline: Duration) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        ready(
            self.read(|state| Ok(Snapshot { revision: state.machine.revision(), items: state.machine.range(prefix) })),
        )
    }

    fn txn(&self, txn: Txn, _deadline: Duration) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        ready(self.change(&Command::Txn(txn)).and_then(|response| match response {
            Response::Txn(result) => Ok(result),
            other => Err(unexpected(&other)),
        }))
    }

    fn lease_grant(&self, ttl: Duration, _deadline: Duration) -> BoxFuture<'_, Result<Lease, StoreError>> {
        let id = {
            let mut state = self.locked();
            state.next_lease += 1;
            LeaseId(state.next_lease)
        };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        ready(self.change(&Command::LeaseGrant { id, ttl_ms }).and_then(|response| match response {
            Response::Granted { id, ttl } => Ok(Lease { id, ttl }),
            other => Err(unexpected(&other)),
        }))
    }

    fn lease_revoke(&self, id: LeaseId, _deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(self.change(&Command::LeaseRevoke { id }).map(|_ended| ()))
    }

    fn lease_time_to_live(&self, id: LeaseId, _deadline: Duration) -> BoxFuture<'_, Result<Duration, StoreError>> {
        ready(self.read(|state| state.machine.lease_ttl(id).ok_or(Refusal::LeaseNotFound(id))))
    }

    fn renew(&self, renewal: Renewal, _deadline: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        ready(self.read(|state| {
            let barrier = state.times.arrive((self.clock)());
            state.machine.check_holder(&renewal.leader_key, renewal.epoch_create_revision, renewal.lease)?;
            state.times.extend(renewal.lease, barrier).unwrap_or(Err(Refusal::LeaseNotFound(renewal.lease)))?;
            Ok(renewal.lease)
        }))
    }

    fn keep_session(&self, session: Renewal, deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        let renewed = self.renew(session, deadline);
        Box::pin(async move { renewed.await.map(drop) })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from_revision: Revision,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<Watch, StoreError>> {
        ready(self.read(|state| Ok(state.ring.watch(prefix, from_revision))))
    }

    fn health(&self, _deadline: Duration) -> BoxFuture<'_, Result<Health, StoreError>> {
        ready(self.read(|state| {
            Ok(Health {
                leader: Some(1),
                is_leader: true,
                term: 1,
                voters: vec![Voter { id: 1, address: "memory".to_owned() }],
                revision: state.machine.revision(),
                fatal: None,
            })
        }))
    }
}
