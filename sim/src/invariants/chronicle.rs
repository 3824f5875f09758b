use pgbaton_types::Epoch;

use super::Moment;
use crate::host::Host;
use crate::operator_model::OperatorKind;
use crate::postgres_model::Process;
use crate::time::{Time, nanos};
use crate::world::World;

/// What several invariants need to know of the past.
#[derive(Debug)]
pub(crate) struct Chronicle {
    /// All grants of the lease.
    pub(crate) grants: Vec<Grant>,
    /// For each member the life of its server that ran while the cluster was paused: nobody enforces anything on it,
    /// until its guard is armed again after the pause.
    tainted: Vec<Option<u64>>,
    /// When the store was wiped last, or an older copy put in its place.
    pub(crate) wiped: Option<Time>,
    /// An older copy of the store was put in its place.
    pub(crate) restored: bool,
    /// When a directory was lost last.
    directory_lost: Option<Time>,
}

/// A grant of the lease by the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    /// To whom.
    pub(crate) member: usize,
    /// The reign.
    pub(crate) epoch: Epoch,
    /// When.
    pub(crate) at: Time,
    /// The former holder gave it to this member.
    pub(crate) handed_over: bool,
}

impl Chronicle {
    pub(super) fn new(members: usize) -> Self {
        Self { grants: Vec::new(), tainted: vec![None; members], wiped: None, restored: false, directory_lost: None }
    }

    /// What has to be known when the invariants look at the moment.
    pub(super) fn before(&mut self, moment: &Moment<'_>, world: &World) {
        match moment {
            Moment::Granted { member, epoch } => {
                let request = world.store.peek().cluster.failover.clone();
                let handed_over = request.is_some_and(|request| {
                    request.handed_over && request.candidate.as_ref() == Some(&world.names[*member])
                });
                self.grants.push(Grant { member: *member, epoch: *epoch, at: world.now, handed_over });
            }
            Moment::Operated(OperatorKind::WipeStore) => self.wiped = Some(world.now),
            Moment::Operated(OperatorKind::RestoreStore) => {
                self.wiped = Some(world.now);
                self.restored = true;
            }
            Moment::Operated(OperatorKind::LoseDirectory) => self.directory_lost = Some(world.now),
            Moment::Changed | Moment::Acknowledged { .. } => {
                let paused = world.scenario.settings[0].paused;
                for (tainted, host) in self.tainted.iter_mut().zip(&world.hosts) {
                    if paused && host.postgres.tree_alive() {
                        *tainted = Some(host.postgres.life);
                    } else if !paused && enforced(host, world.now) {
                        *tainted = None;
                    }
                }
            }
            _ => {}
        }
    }

    /// A directory was lost so lately that the others cannot know it: the lost one's member key lives as long as its
    /// session, which is renewed for one ttl and ends in another.
    pub(crate) fn directory_lost_lately(&self, world: &World) -> bool {
        let known_after = 2 * nanos(world.scenario.settings[0].ttl);
        self.directory_lost.is_some_and(|lost| world.now - lost <= known_after)
    }

    /// A directory was lost no longer ago than that.
    pub(crate) fn directory_lost_within(&self, world: &World, time: Time) -> bool {
        self.directory_lost.is_some_and(|lost| world.now - lost <= time)
    }

    /// The newest grant.
    pub(crate) fn last_grant(&self) -> Option<&Grant> {
        self.grants.last()
    }

    /// Whether the running server is one that nobody answers for: it ran while the cluster was paused and no guard has
    /// been armed for it since, or an operator started or promoted it himself.
    pub(crate) fn is_operators(&self, world: &World, member: usize) -> bool {
        let postgres = &world.hosts[member].postgres;
        // Orphans are what is left of the life before.
        let before = postgres.life - u64::from(matches!(postgres.process, Process::Dying { .. }));
        let tainted = self.tainted[member].is_some_and(|life| life == postgres.life || life == before);
        tainted || postgres.reign().is_none() || !postgres.guarded()
    }
}

/// The guard has a deadline to enforce that is still to come.
fn enforced(host: &Host, now: Time) -> bool {
    let now = host.clock.read(now);
    host.guard.alive && host.guard.armed.is_some_and(|armed| now < armed.deadline)
}
