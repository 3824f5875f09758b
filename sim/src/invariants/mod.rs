//! What must hold, one file each. An invariant sees everything, at every moment that matters to it; it never acts.

pub(crate) mod a1;
pub(crate) mod a2;
mod chronicle;
pub(crate) mod l1;
pub(crate) mod l10;
pub(crate) mod l2;
pub(crate) mod l3;
pub(crate) mod l4;
pub(crate) mod l5;
pub(crate) mod l7;
pub(crate) mod l8;
pub(crate) mod l9;
pub(crate) mod s1;
pub(crate) mod s12;
pub(crate) mod s14;
pub(crate) mod s17;
pub(crate) mod s18;
pub(crate) mod s19;
pub(crate) mod s3;
pub(crate) mod s4;
pub(crate) mod s5;
pub(crate) mod s6;
pub(crate) mod s7;
pub(crate) mod s8;
pub(crate) mod s9;
#[cfg(test)]
mod testing;

use std::fmt;

use pgbaton_core::{Action, Decision, Observation};
use pgbaton_types::{Epoch, MemberName, TimelineId};

pub(crate) use self::chronicle::Chronicle;
use crate::operator_model::OperatorKind;
use crate::world::World;

/// Something that invariants may want to know of, at the moment when it happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment<'a> {
    /// A server, a guard or the mode of the cluster has changed.
    Changed,
    /// An agent has decided.
    Decided { member: usize, observation: &'a Observation, decision: &'a Decision },
    /// An action was checked and is about to be carried out.
    Executing { member: usize, action: &'a Action },
    /// The store has granted the lease.
    Granted { member: usize, epoch: Epoch },
    /// A server accepts writes on a new timeline.
    Promoted { member: usize, timeline: TimelineId },
    /// A client's commit was acknowledged.
    Acknowledged { member: usize },
    /// WAL has arrived at a standby.
    Streamed { member: usize, upstream: usize },
    /// An operator has done something.
    Operated(OperatorKind),
    /// Faults have ended some time ago.
    Settled,
}

/// An invariant that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.invariant, self.what)
    }
}

/// One thing that must hold.
pub(crate) trait Invariant: fmt::Debug {
    /// Looks at a moment.
    ///
    /// # Errors
    /// How it does not hold.
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String>;
}

/// All invariants with what they remember.
#[derive(Debug)]
pub(crate) struct Monitor {
    past: Chronicle,
    invariants: Vec<(&'static str, Box<dyn Invariant>)>,
}

impl Monitor {
    /// All invariants, at the beginning of a world with so many members.
    pub(crate) fn new(members: usize) -> Self {
        let invariants: Vec<(&'static str, Box<dyn Invariant>)> = vec![
            ("S1", Box::new(s1::OnePrimary::new(members))),
            ("S3", Box::new(s3::BoundedLoss)),
            ("S4", Box::new(s4::MostAdvanced)),
            ("S5", Box::new(s5::PromotionGate::new(members))),
            ("S6", Box::new(s6::NumbersOnce::default())),
            ("S7", Box::new(s7::OnePostmaster)),
            ("S8", Box::new(s8::ProofBeforeDestruction)),
            ("S9", Box::new(s9::OneIdentity)),
            ("S12", Box::new(s12::BornStandby::new(members))),
            ("S14", Box::new(s14::RejoinProven)),
            ("S17", Box::new(s17::OperatorsWord::default())),
            ("S18", Box::new(s18::GuardOutlives)),
            ("S19", Box::new(s19::LastProvenRole::new(members))),
            ("A1", Box::new(a1::OneAddress::new(members))),
            ("A2", Box::new(a2::AddressFollows)),
            ("L1", Box::new(l1::OneLeader)),
            ("L2", Box::new(l2::AllFollow)),
            ("L3", Box::new(l3::NoFlapping)),
            ("L4", Box::new(l4::NoSpuriousFailover)),
            ("L5", Box::new(l5::NoDeadEnd)),
            ("L7", Box::new(l7::RefusalsExplain)),
            ("L8", Box::new(l8::DemotionEnds)),
            ("L9", Box::new(l9::ShortRefusal::new(members))),
            ("L10", Box::new(l10::HeldForLittle)),
        ];
        Self { past: Chronicle::new(members), invariants }
    }

    /// Shows a moment to all of them; the first that is broken.
    pub(crate) fn witness(&mut self, moment: &Moment<'_>, world: &World) -> Option<Violation> {
        self.past.before(moment, world);
        for (invariant, check) in &mut self.invariants {
            if let Err(what) = check.check(moment, world, &self.past) {
                return Some(Violation { invariant, what });
            }
        }
        None
    }

    /// What has happened so far.
    pub(crate) fn past(&self) -> &Chronicle {
        &self.past
    }
}

/// A member's name for a report.
pub(crate) fn name(world: &World, member: usize) -> &MemberName {
    &world.names[member]
}
