//! Rules that hold for every decision, written independently of the steps: a linter of plans.
//!
//! In the simulator a broken rule ends the run. In production the decision is replaced by one that does nothing but stop
//! a server that must not run, and an alarm is raised.

use std::fmt;

use crate::address::Address;
use crate::decision::{Action, Decision, OperationKind, QuarantineReason};
use crate::lease::soft_deadline;
use crate::observation::{Directory, Initialize, Lease, Observation, Server};
use crate::settings::Settings;

/// A rule that a decision breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsafe {
    /// A server would become a primary without a valid lease of that epoch.
    PrimaryWithoutLease,
    /// A server would become a primary while no deadline is enforced on it.
    PrimaryUnarmed,
    /// A server would become a primary just before its lease ends, only to be stopped again.
    PrimaryUnderEndingLease,
    /// A lease would be acquired while one is held, or while the view shows a holder.
    AcquireWhileHeld,
    /// A lease would be acquired by a server that is a primary already and not paused.
    AcquireAsPrimary,
    /// Work would be begun on the data directory while a process of the server is left.
    WorkUnderServer,
    /// A database would be put away without a holder to clone from.
    QuarantineOnlyCopy,
    /// A cluster would be made beside data, or in a store that knows it.
    BootstrapBesideData,
    /// Two operations would run at once.
    TwoOperations,
    /// The lease would be given back while the server is a primary, or may become one.
    ReleaseAsPrimary,
    /// The virtual address would be put on a host whose server is not a primary under a valid lease of that epoch.
    AddressWithoutLease,
    /// The lease would be given back while the virtual address stays.
    AddressOutlivesLease,
    /// The identity would be recorded by a member that does not hold the lease.
    RecordWithoutLease,
}

impl fmt::Display for Unsafe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PrimaryWithoutLease => "a server would become a primary without a valid lease",
            Self::PrimaryUnarmed => "a server would become a primary while no deadline is enforced on it",
            Self::PrimaryUnderEndingLease => "a server would become a primary under a lease that ends soon",
            Self::AcquireWhileHeld => "a lease would be acquired while somebody holds it",
            Self::AcquireAsPrimary => "a lease would be acquired by a server that is a primary already",
            Self::WorkUnderServer => "the data directory would be worked on under a server",
            Self::QuarantineOnlyCopy => "a database would be put away without a holder to clone from",
            Self::BootstrapBesideData => "a cluster would be made beside data",
            Self::TwoOperations => "two operations would run at once",
            Self::ReleaseAsPrimary => "the lease would be given back by a server that is a primary or may become one",
            Self::AddressWithoutLease => "the virtual address would be on a host that is not the primary",
            Self::AddressOutlivesLease => "the virtual address would stay on a host that gives the lease back",
            Self::RecordWithoutLease => "the identity would be recorded without the lease",
        })
    }
}

/// The rules that `decision` breaks; none for a sound one.
pub fn check(settings: &Settings, seen: &Observation, decision: &Decision) -> Vec<Unsafe> {
    let mut broken = Vec::new();
    check_address(settings, seen, decision, &mut broken);
    let mut busy = seen.operation.is_some();
    for action in &decision.actions {
        match action {
            Action::CancelOperation => busy = false,
            Action::Begin(kind) => {
                if std::mem::replace(&mut busy, true) {
                    broken.push(Unsafe::TwoOperations);
                }
                check_operation(settings, seen, kind, &mut broken);
            }
            Action::AcquireLease { .. } => {
                if seen.lease.is_some() || seen.store.cluster.leader.is_some() {
                    broken.push(Unsafe::AcquireWhileHeld);
                }
                if seen.primary().is_some() && !settings.paused {
                    broken.push(Unsafe::AcquireAsPrimary);
                }
            }
            // A successor is named for the proof that the last record was written.
            Action::ReleaseLease { successor: None, .. } => {
                let promoting = matches!(seen.local.server, Server::Running { promoting: true, .. });
                if (promoting || seen.primary().is_some()) && !seen.shut_down() && !settings.paused {
                    broken.push(Unsafe::ReleaseAsPrimary);
                }
            }
            Action::ClaimBootstrap => {
                let data = seen.local.directory != Directory::Empty;
                if data || seen.store.cluster.initialize != Initialize::Absent {
                    broken.push(Unsafe::BootstrapBesideData);
                }
            }
            Action::WithdrawClaim if seen.lease.is_some() || seen.primary().is_some() => {
                broken.push(Unsafe::BootstrapBesideData);
            }
            Action::RecordInitialize { epoch, .. } if seen.lease.is_none_or(|lease| lease.epoch != *epoch) => {
                broken.push(Unsafe::RecordWithoutLease);
            }
            _ => {}
        }
    }
    broken
}

fn check_address(settings: &Settings, seen: &Observation, decision: &Decision, broken: &mut Vec<Unsafe>) {
    let covered = |epoch| seen.valid_lease(settings).is_some_and(|lease| lease.epoch == epoch);
    match decision.address {
        Address::Held { epoch } if !covered(epoch) || seen.primary().is_none() => {
            broken.push(Unsafe::AddressWithoutLease);
        }
        Address::Kept { epoch } if !covered(epoch) => broken.push(Unsafe::AddressWithoutLease),
        _ => {}
    }
    let released = decision.actions.iter().any(|action| matches!(action, Action::ReleaseLease { .. }));
    if released && decision.address != Address::Gone {
        broken.push(Unsafe::AddressOutlivesLease);
    }
}

fn check_operation(settings: &Settings, seen: &Observation, kind: &OperationKind, broken: &mut Vec<Unsafe>) {
    match kind {
        OperationKind::StartPrimary { epoch } | OperationKind::Promote { epoch, .. } => {
            if seen.valid_lease(settings).is_none_or(|lease| lease.epoch != *epoch) {
                broken.push(Unsafe::PrimaryWithoutLease);
            }
            if !seen.guard.armed && !settings.paused {
                broken.push(Unsafe::PrimaryUnarmed);
            }
            let ends_soon = |lease: Lease| seen.now.reached(soft_deadline(lease.deadline, lease.granted));
            if seen.valid_lease(settings).is_some_and(ends_soon) && !settings.paused {
                broken.push(Unsafe::PrimaryUnderEndingLease);
            }
        }
        OperationKind::Initdb
        | OperationKind::Clone { .. }
        | OperationKind::Rewind { .. }
        | OperationKind::Quarantine { .. } => {
            if !matches!(seen.local.server, Server::Stopped { .. }) {
                broken.push(Unsafe::WorkUnderServer);
            }
            if matches!(kind, OperationKind::Initdb)
                && !matches!(seen.store.cluster.initialize, Initialize::UnderWay { mine: true })
            {
                broken.push(Unsafe::BootstrapBesideData);
            }
            let complete = matches!(seen.local.directory, Directory::Database(_));
            let proven = matches!(kind, OperationKind::Quarantine { why } if *why != QuarantineReason::Incomplete);
            if complete && proven && seen.other_holder().is_none() {
                broken.push(Unsafe::QuarantineOnlyCopy);
            }
        }
        _ => {}
    }
}
