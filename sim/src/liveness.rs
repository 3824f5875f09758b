//! The second phase of a run: all faults are over, and the cluster has to prove itself.

use pgbaton_core::observation::{ControlState, Initialize, Work};
use pgbaton_types::Divergence;

use crate::event::Event;
use crate::invariants::Moment;
use crate::postgres_model::Role;
use crate::time::{MILLISECOND, SECOND, Time, nanos};
use crate::world::{World, trace};

/// How often the healed cluster is looked at.
const LOOK: Time = 500 * MILLISECOND;

/// How long leader and followers have to stay as they are until the run is over.
const STEADY: Time = 4 * SECOND;

/// When a run in which nobody need lead is over.
const GIVE_UP: Time = 60 * SECOND;

/// Hosts, guards and agents that were down are started within this time (`faults`, `server_model`).
const STARTED_WITHIN: Time = 3 * SECOND;

/// An agent that an operator ends just then stops its server for up to 8 s and is started again up to 10 s later.
const ENDED_FOR: Time = 18 * SECOND;

/// How the healed cluster fares.
#[derive(Debug, Clone)]
pub(crate) struct Healing {
    /// When the faults ended.
    pub(crate) since: Time,
    /// Exactly one server accepts writes since then.
    pub(crate) led_since: Option<Time>,
    /// By then somebody must lead.
    pub(crate) leader_by: Time,
    /// By then everybody must follow.
    pub(crate) followed_by: Time,
    followed_since: Option<Time>,
    /// This host stays off.
    pub(crate) left_out: Option<usize>,
    over: bool,
}

impl Healing {
    /// The bounds, from now on.
    pub(crate) fn begin(world: &World) -> Self {
        let settings = &world.scenario.settings[0];
        // The lease that may still run, with the ttl that it was granted; the time that whoever gave it back leaves to others; two
        // requests that got no answer; and what the servers of this run need for starting, stopping and promoting.
        let servers =
            2 * world.scenario.recovery_longest + world.scenario.promotion_longest + world.scenario.exit_longest;
        let ending = world.hosts.iter().any(|host| host.agent.orders.terminate);
        let starts = STARTED_WITHIN + if ending { ENDED_FOR } else { 0 };
        // Of a store that was wiped a member remembers the longest one that it has ever seen.
        let remembered = world.hosts.iter().map(|host| host.agent.memory.longest_ttl).max().unwrap_or_default();
        let leases = nanos(settings.ttl) + nanos(world.store.longest_ttl().max(settings.ttl).max(remembered));
        // A slow store takes its time for what has to be asked for.
        let questions = 2 * nanos(settings.retry_timeout) + 20 * world.scenario.store_slowness;
        let leader_by = world.now + leases + questions + servers + starts;
        let copies = 3 * world.scenario.copy_longest + world.scenario.checkpoint_longest;
        let followed_by = leader_by + 60 * SECOND + copies + servers;
        Self {
            since: world.now,
            led_since: None,
            leader_by,
            followed_by,
            followed_since: None,
            left_out: None,
            over: false,
        }
    }

    /// The cluster has proven itself.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
}

impl World {
    /// All faults end.
    pub(crate) fn heal(&mut self) {
        let left_out = self.dispensable();
        trace!(self, "the faults are over{}", if left_out.is_some() { ", one host stays off" } else { "" });
        self.damage.disturb(self.now + nanos(self.scenario.settings[0].ttl));
        self.heal_everything(left_out);
        let mut healing = Healing::begin(self);
        healing.left_out = left_out;
        self.healing = Some(healing);
        self.after(LOOK, Event::Settle);
    }

    /// A host that the others can do without, now and then.
    fn dispensable(&mut self) -> Option<usize> {
        if self.scenario.members < 3 || !self.rng.chance(300) {
            return None;
        }
        let member = self.rng.index(self.scenario.members);
        let done = matches!(self.store.peek().cluster.initialize, Initialize::Done(_));
        let others = (0..self.scenario.members).any(|other| other != member && could_lead(self, other));
        (done && others).then_some(member)
    }

    /// Looks at the healed cluster.
    pub(crate) fn settle(&mut self) {
        let led = writable(self).len() == 1;
        let followed = led && stragglers(self).is_empty();
        let nobody_needs_to = !leader_must_exist(self);
        let now = self.now;
        let Some(healing) = &mut self.healing else { return };
        healing.led_since = led.then(|| healing.led_since.unwrap_or(now));
        healing.followed_since = followed.then(|| healing.followed_since.unwrap_or(now));
        let steady = healing.followed_since.is_some_and(|since| now - since >= STEADY);
        let hopeless = !led && nobody_needs_to && now - healing.since > GIVE_UP;
        let late = now > healing.followed_by + SECOND;
        healing.over = steady || hopeless || late;
        self.after(LOOK, Event::Settle);
        self.witness(&Moment::Settled);
    }
}

/// What a member does and waits for.
pub(crate) fn describe(world: &World, member: usize) -> String {
    let host = &world.hosts[member];
    let agent = if host.agent.alive { "" } else { ", no agent" };
    let why = host.agent.last_report.last().map(ToString::to_string).unwrap_or_default();
    format!("{}: {:?}{agent}, {why}", world.names[member], host.postgres.role())
}

/// Who accepts writes.
pub(crate) fn writable(world: &World) -> Vec<usize> {
    let accepts = |member: &usize| world.hosts[*member].can_acknowledge();
    (0..world.scenario.members).filter(accepts).collect()
}

/// Whether this member could lead by what is on its disk and in the store.
fn could_lead(world: &World, member: usize) -> bool {
    let host = &world.hosts[member];
    let cluster = &world.store.peek().cluster;
    let settings = &world.scenario.settings[member];
    let (Some(data), None) = (&host.postgres.data, host.postgres.incomplete) else { return false };
    let same = match cluster.initialize {
        Initialize::Done(system_id) => system_id == data.system_id,
        Initialize::Absent => host.postgres.reign().is_some(),
        Initialize::UnderWay { .. } => false,
    };
    let end = data.wal.end();
    let near = cluster.position.bytes_ahead_of(end) <= settings.maximum_lag_on_failover;
    let fits =
        cluster.history.as_ref().is_none_or(|history| history.divergence_of(&data.history, end) == Divergence::None);
    same && near && fits && !settings.nofailover && !host.unreadable
}

/// Whether somebody has to lead: a member that is there could, or nobody has any data and somebody may begin.
pub(crate) fn leader_must_exist(world: &World) -> bool {
    let left_out = world.healing.as_ref().and_then(|healing| healing.left_out);
    let there = |member: &usize| Some(*member) != left_out;
    if (0..world.scenario.members).filter(there).any(|member| could_lead(world, member)) {
        return true;
    }
    let cluster = &world.store.peek().cluster;
    let no_data = world.hosts.iter().all(|host| host.postgres.data.is_none() && host.postgres.incomplete.is_none());
    let willing = world.scenario.settings.iter().any(|settings| !settings.nofailover);
    no_data && left_out.is_none() && willing && cluster.initialize == Initialize::Absent
}

/// Who ought to stream from the one that accepts writes, and does not.
pub(crate) fn stragglers(world: &World) -> Vec<usize> {
    let [leader] = writable(world)[..] else { return Vec::new() };
    let Some(source) = &world.hosts[leader].postgres.data else { return Vec::new() };
    let left_out = world.healing.as_ref().and_then(|healing| healing.left_out);
    let ought = |member: &usize| *member != leader && Some(*member) != left_out;
    let follows = |member: usize| {
        let postgres = &world.hosts[member].postgres;
        postgres.running().is_some_and(|running| {
            running.role == Role::Standby && running.streaming && running.upstream == Some(leader)
        })
    };
    let excused = |member: usize| {
        let settings = &world.scenario.settings[member];
        let postgres = &world.hosts[member].postgres;
        if postgres.incomplete == Some(Work::Rewind) {
            return !settings.remove_data_on_rewind_failure;
        }
        let Some(data) = &postgres.data else { return false };
        // Two timelines of one number: by PostgreSQL's own means nobody can tell that this copy has parted from the
        // leader's. Members never make such a pair (S6), only an operator's promotion does, who has to rebuild the copy.
        if data.wal.parted_on_one_number(&source.wal) {
            return true;
        }
        let diverged = !source.wal.holds_all_of(&data.wal) && data.state != ControlState::InProduction;
        let rebuilt = settings.use_pg_rewind && data.rewindable || settings.remove_data_on_diverged;
        data.system_id != source.system_id || diverged && !rebuilt
    };
    (0..world.scenario.members).filter(ought).filter(|member| !follows(*member) && !excused(*member)).collect()
}
