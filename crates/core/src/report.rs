//! Why a decision is what it is: for each step that was looked at, what came of it.

use std::fmt;

/// What came of one step of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The step.
    pub step: Step,
    /// What came of it.
    pub verdict: Verdict,
}

/// The steps, in the order in which they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// An end that was ordered.
    Terminate,
    /// A server that must not run as it does.
    Demotion,
    /// An operation under way.
    Operation,
    /// Maintenance mode.
    Pause,
    /// An operator's restart or re-initialisation of this member.
    Order,
    /// Data that belongs to another cluster.
    Identity,
    /// Making a new cluster.
    Bootstrap,
    /// Holding the lease.
    Leader,
    /// Handing over.
    Switchover,
    /// Nobody holds the lease.
    Race,
    /// Somebody else holds the lease.
    Follower,
    /// A data directory that cannot be followed with.
    Rejoin,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It acts, for this reason.
    Taken(String),
    /// It does not concern this state.
    NotApplicable(String),
    /// It would act, but for this.
    Blocked(String),
}

impl Step {
    /// The name as it stands in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminate => "terminate",
            Self::Demotion => "demotion",
            Self::Operation => "operation",
            Self::Pause => "pause",
            Self::Order => "order",
            Self::Identity => "identity",
            Self::Bootstrap => "bootstrap",
            Self::Leader => "leader",
            Self::Switchover => "switchover",
            Self::Race => "race",
            Self::Follower => "follower",
            Self::Rejoin => "rejoin",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, reason) = match &self.verdict {
            Verdict::Taken(reason) => ("taken", reason),
            Verdict::NotApplicable(reason) => ("not applicable", reason),
            Verdict::Blocked(reason) => ("blocked", reason),
        };
        write!(formatter, "{}: {word}: {reason}", self.step.name())
    }
}
