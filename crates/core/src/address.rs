//! The virtual address: whose it is now, and how long the kernel may keep it without being told again.
//!
//! Nobody but the holder of the lease has it, and only once its server takes writes. A holder that dies or freezes cannot take it off
//! its interface any more: so it is put there with an end, by which nobody else can have been granted the lease.

use std::time::Duration;

use pgbaton_types::{BootTime, Epoch};

use crate::bugs::{Bug, Bugs};
use crate::decision::{Action, OperationKind};
use crate::memory::HandoverPhase;
use crate::observation::{Answer, Lease, Server};
use crate::plan::Plan;
use crate::settings::Settings;

/// The longest that Linux leaves an address on its interface after its lifetime: it looks at most once a second, and up to a quarter
/// of a second later than that, to wake seldom (`ADDRCONF_TIMER_FUZZ_MAX` and `ADDRCONF_TIMER_FUZZ`, for IPv4 and IPv6 alike). 1.26 s
/// were measured on Linux 6.18 while other addresses came and went, 0.5 s when none did. The rest is for a busy machine.
pub const OVERSTAY_MAX: Duration = Duration::from_millis(1500);

/// What is to become of the virtual address on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Address {
    /// It is this host's, for as long as the lease of this reign lasts. It is put on its interface if it is not there.
    Held {
        /// The reign.
        epoch: Epoch,
    },
    /// It stays where it is, as long as the lease of this reign lasts: a holder's server is silent for a moment, is started again in
    /// place, or is about to be stopped, before which the stop itself takes the address away.
    Kept {
        /// The reign.
        epoch: Epoch,
    },
    /// It is not this host's. It is taken away before any action is carried out.
    #[default]
    Gone,
}

/// By when the address must have gone from a host that does not renew its lease any more: K after the lease's deadline. By then the last
/// process of its server is dead as well, and until then nobody else is granted the lease.
pub fn end(deadline: BootTime, kill_time: Duration) -> BootTime {
    deadline + kill_time
}

/// The lifetime to give the address at `now`, in whole seconds as the kernel has it; none: too little is left, it is not put anywhere.
pub fn lifetime(now: BootTime, end: BootTime, bugs: Bugs) -> Option<Duration> {
    if bugs.has(Bug::Keepalived2361) {
        return Some(Duration::from_secs(u64::from(u16::MAX)));
    }
    let left = end.since(now).saturating_sub(OVERSTAY_MAX);
    Some(Duration::from_secs(left.as_secs())).filter(|lifetime| !lifetime.is_zero())
}

/// What follows from a decision for the address.
pub(crate) fn of(plan: &Plan<'_>) -> Address {
    let (settings, seen) = (plan.settings, plan.seen);
    let Some(lease) = seen.valid_lease(settings) else { return Address::Gone };
    if plan.ends_reign() || plan.memory.gave_up {
        return Address::Gone;
    }
    if let Some(handover) = &plan.memory.handover
        && matches!(handover.phase, HandoverPhase::Proving { .. } | HandoverPhase::Resuming)
    {
        return Address::Gone;
    }
    let Lease { epoch, .. } = lease;
    match &seen.local.server {
        Server::Running { answer: Answer::Standby(_), .. } => Address::Gone,
        Server::Running { answer: Answer::Primary(_), .. } if stops(plan) => Address::Kept { epoch },
        Server::Running { answer: Answer::Primary(_), .. } if seen.database().is_some() => Address::Held { epoch },
        // Clients who are refused at once are better off than those who get no answer.
        _ => Address::Kept { epoch },
    }
}

/// The server is being stopped, or will be by this very decision.
fn stops(plan: &Plan<'_>) -> bool {
    let stop = |kind: &OperationKind| matches!(kind, OperationKind::Stop { .. });
    plan.seen.operation.as_ref().is_some_and(|operation| stop(&operation.kind))
        || plan.actions().iter().any(|action| matches!(action, Action::Begin(kind) if stop(kind)))
}

/// The end for a lease that is held.
pub fn end_of(lease: &Lease, settings: &Settings) -> BootTime {
    end(lease.deadline, settings.kill_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn left(now_ms: u64, end_ms: u64) -> Option<u64> {
        let at = |ms: u64| BootTime(ms * 1_000_000);
        lifetime(at(now_ms), at(end_ms), Bugs::default()).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn the_kernel_has_removed_it_by_the_end() {
        for (now, end) in [(0, 4_990), (0, 9_980), (1_234, 30_000), (100, 2_600)] {
            let lifetime = left(now, end).unwrap();
            assert!(now + lifetime * 1000 + 1500 <= end && now + (lifetime + 1) * 1000 + 1500 > end);
        }
    }

    #[test]
    fn with_less_than_a_second_it_is_put_nowhere() {
        assert_eq!([left(0, 2_500), left(0, 2_499), left(0, 100), left(5_000, 100)], [Some(1), None, None, None]);
    }

    #[test]
    fn it_ends_with_the_last_process_of_the_server() {
        let kill_time = Duration::from_millis(500);
        assert_eq!(end(BootTime(4 * SECOND), kill_time), BootTime(4 * SECOND + SECOND / 2));
    }
}
