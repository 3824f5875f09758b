use std::time::Duration;

use pgbaton_types::BootTime;

use crate::address;
use crate::decision::{Action, Decision, OperationKind};
use crate::memory::Memory;
use crate::observation::{Observation, Outcome};
use crate::report::{Finding, Step, Verdict};
use crate::settings::Settings;

/// A decision while it is being made: the steps write into it one after another.
pub(crate) struct Plan<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) seen: &'a Observation,
    pub(crate) memory: Memory,
    pub(crate) renew: bool,
    pub(crate) unfit: Option<String>,
    ends_reign: bool,
    actions: Vec<Action>,
    wake_at: BootTime,
    report: Vec<Finding>,
}

/// Whether the steps after this one are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// This step settles the matter.
    Settled,
    /// The next one is looked at.
    Pass,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(settings: &'a Settings, seen: &'a Observation) -> Self {
        Self {
            settings,
            seen,
            memory: seen.memory.clone(),
            renew: true,
            unfit: None,
            ends_reign: false,
            actions: Vec::new(),
            wake_at: seen.now + settings.loop_wait,
            report: Vec::new(),
        }
    }

    /// Adds an action.
    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// This member stops being the primary: clients shall not find it any more.
    pub(crate) fn end_reign(&mut self) {
        self.ends_reign = true;
    }

    /// Whether this member stops being the primary, or has nothing left to be it with.
    pub(crate) fn ends_reign(&self) -> bool {
        let leaves = |action: &Action| matches!(action, Action::ReleaseLease { .. } | Action::Exit { .. });
        self.ends_reign || self.actions.iter().any(leaves)
    }

    /// What is planned so far.
    pub(crate) fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Begins an operation in place of whatever is under way.
    pub(crate) fn begin(&mut self, kind: OperationKind) {
        if self.seen.operation.is_some() {
            self.actions.push(Action::CancelOperation);
        }
        self.actions.push(Action::Begin(kind));
    }

    /// Decide again at the latest after `wait`.
    pub(crate) fn wake_after(&mut self, wait: Duration) {
        self.wake_at_latest(self.seen.now + wait);
    }

    /// Decide again at the latest at `moment`.
    pub(crate) fn wake_at_latest(&mut self, moment: BootTime) {
        self.wake_at = self.wake_at.min(moment);
    }

    /// Why the operation before this one failed, if it was one of these and ended less than `pause` ago. It is not begun
    /// again before that: what fails at once would only fill logs and disks.
    pub(crate) fn failed_lately(&mut self, pause: Duration, which: impl Fn(&OperationKind) -> bool) -> Option<String> {
        let finished = self.seen.finished.as_ref().filter(|finished| which(&finished.kind))?;
        let Outcome::Failed(why) = &finished.outcome else { return None };
        let again = finished.at + pause;
        if self.seen.now.reached(again) {
            return None;
        }
        self.wake_at_latest(again);
        Some(format!("{} failed: {why}; tried again in a moment", finished.kind))
    }

    /// This step acts, and no other is looked at.
    pub(crate) fn taken(&mut self, step: Step, reason: impl Into<String>) -> Flow {
        self.report.push(Finding { step, verdict: Verdict::Taken(reason.into()) });
        Flow::Settled
    }

    /// This step would act but cannot, and no other is looked at.
    pub(crate) fn blocked(&mut self, step: Step, reason: impl Into<String>) -> Flow {
        self.report.push(Finding { step, verdict: Verdict::Blocked(reason.into()) });
        Flow::Settled
    }

    /// This step does not concern what was observed.
    pub(crate) fn pass(&mut self, step: Step, reason: impl Into<String>) -> Flow {
        self.report.push(Finding { step, verdict: Verdict::NotApplicable(reason.into()) });
        Flow::Pass
    }

    pub(crate) fn into_decision(self) -> Decision {
        Decision {
            address: address::of(&self),
            actions: self.actions,
            renew: self.renew,
            unfit: self.unfit,
            wake_at: self.wake_at,
            memory: self.memory,
            report: self.report,
        }
    }
}
