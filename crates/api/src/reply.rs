use std::fmt;

/// How a member was asked to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// From a named leader, losing nothing.
    Switchover,
    /// To a named candidate, whatever the leader is.
    Failover,
}

impl Handover {
    /// The word in lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }

    fn capitalised(self) -> &'static str {
        match self {
            Self::Switchover => "Switchover",
            Self::Failover => "Failover",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Switchover => "switched over",
            Self::Failover => "failed over",
        }
    }

    fn done_capitalised(self) -> &'static str {
        match self {
            Self::Switchover => "Switched over",
            Self::Failover => "Failed over",
        }
    }
}

/// A reply that is a text with a status code. Clients match on both.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is what its text below says")]
pub enum Reply {
    // Times.
    TimezoneMissing {
        action: &'static str,
    },
    ScheduleInPast {
        action: &'static str,
    },
    ScheduleUnreadable,
    // Restart.
    RestartScheduleWhilePaused,
    RestartRoleInvalid,
    RestartVersionInvalid {
        message: String,
    },
    RestartTimeoutInvalid,
    RestartFilterUnknown {
        key: String,
    },
    RestartScheduled,
    RestartAlreadyScheduled,
    Restarted,
    RestartConditionsNotMet,
    StillStarting,
    RestartFailed,
    ScheduledRestartDeleted,
    NoScheduledRestart,
    /// Another task of the member runs; `task` as published.
    Busy {
        task: String,
    },
    // Reinitialize.
    ReinitializeStarted,
    ReinitializeWithoutLeader,
    ReinitializeLeader,
    // Switchover and failover.
    FailoverWithoutCandidate,
    SwitchoverWithoutLeader,
    FailoverScheduled,
    SwitchoverScheduledWhilePaused,
    SwitchoverWhilePausedWithoutCandidate,
    SameTargetAndSource,
    LeaderNameDoesNotMatch,
    CandidateDoesNotExist,
    NoMembersExceptLeader {
        handover: Handover,
    },
    NoGoodCandidates {
        handover: Handover,
    },
    FailoverKeyNotWritten,
    SwitchoverScheduled,
    HandedOver {
        handover: Handover,
        leader: String,
    },
    HandedOverToAnother {
        handover: Handover,
        leader: String,
        wanted: String,
    },
    /// The reason goes beyond the interface's text, after a colon; clients look at the beginning.
    HandoverFailed {
        handover: Handover,
        reason: Option<String>,
    },
    HandoverUnknown {
        handover: Handover,
        waited_s: u64,
    },
    ScheduledSwitchoverDeleted,
    NoSwitchoverScheduled,
    SwitchoverChangedMeanwhile,
    // All.
    ReloadScheduled,
    NoAuthorization,
    WrongAuthorization,
    /// The request body is no JSON object, or a value in it has the wrong type.
    BadRequest {
        reason: String,
    },
    /// The store's `config` key is missing or no JSON object; 503 for a change, 502 for reading.
    ConfigUnreadable {
        reading: bool,
    },
    ConfigChangedMeanwhile,
    /// The document would be ignored in part, or is impossible; with the reasons.
    ConfigRefused {
        reasons: String,
    },
    StoreUnavailable {
        reason: String,
    },
    NotImplemented,
}

impl Reply {
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Restarted
            | Self::ScheduledRestartDeleted
            | Self::ReinitializeStarted
            | Self::HandedOver { .. }
            | Self::HandedOverToAnother { .. }
            | Self::ScheduledSwitchoverDeleted => 200,
            Self::RestartScheduled | Self::SwitchoverScheduled | Self::ReloadScheduled => 202,
            Self::TimezoneMissing { .. }
            | Self::RestartRoleInvalid
            | Self::RestartVersionInvalid { .. }
            | Self::RestartTimeoutInvalid
            | Self::RestartFilterUnknown { .. }
            | Self::FailoverWithoutCandidate
            | Self::SwitchoverWithoutLeader
            | Self::FailoverScheduled
            | Self::SwitchoverScheduledWhilePaused
            | Self::SwitchoverWhilePausedWithoutCandidate
            | Self::SameTargetAndSource
            | Self::BadRequest { .. } => 400,
            Self::NoAuthorization | Self::WrongAuthorization => 401,
            Self::NoScheduledRestart | Self::NoSwitchoverScheduled => 404,
            Self::RestartAlreadyScheduled | Self::SwitchoverChangedMeanwhile | Self::ConfigChangedMeanwhile => 409,
            Self::LeaderNameDoesNotMatch
            | Self::CandidateDoesNotExist
            | Self::NoMembersExceptLeader { .. }
            | Self::NoGoodCandidates { .. } => 412,
            Self::ScheduleInPast { .. } | Self::ScheduleUnreadable | Self::ConfigRefused { .. } => 422,
            Self::RestartScheduleWhilePaused => 500,
            Self::NotImplemented => 501,
            Self::ConfigUnreadable { reading: true } => 502,
            Self::RestartConditionsNotMet
            | Self::StillStarting
            | Self::RestartFailed
            | Self::Busy { .. }
            | Self::ReinitializeWithoutLeader
            | Self::ReinitializeLeader
            | Self::FailoverKeyNotWritten
            | Self::HandoverFailed { .. }
            | Self::HandoverUnknown { .. }
            | Self::ConfigUnreadable { reading: false }
            | Self::StoreUnavailable { .. } => 503,
        }
    }

    /// The body.
    pub fn text(&self) -> String {
        self.to_string()
    }

    /// The text of those that are always the same.
    fn fixed(&self) -> Option<&'static str> {
        Some(match self {
            Self::ScheduleUnreadable => {
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601"
            }
            Self::RestartScheduleWhilePaused => "Can't schedule restart in the paused state",
            Self::RestartRoleInvalid => "PostgreSQL role should be either primary, standby_leader, or replica",
            Self::RestartTimeoutInvalid => "Timeout should be a positive number of seconds",
            Self::RestartScheduled => "Restart scheduled",
            Self::RestartAlreadyScheduled => "Another restart is already scheduled",
            Self::Restarted => "restarted successfully",
            Self::RestartConditionsNotMet => "restart conditions are not satisfied",
            Self::StillStarting => "postgres is still starting",
            Self::RestartFailed => "restart failed",
            Self::ScheduledRestartDeleted => "scheduled restart deleted",
            Self::NoScheduledRestart => "no restarts are scheduled",
            Self::ReinitializeStarted => "reinitialize started",
            Self::ReinitializeWithoutLeader => "Cluster has no leader, can not reinitialize",
            Self::ReinitializeLeader => "I am the leader, can not reinitialize",
            Self::FailoverWithoutCandidate => "Failover could be performed only to a specific candidate",
            Self::SwitchoverWithoutLeader => "Switchover could be performed only from a specific leader",
            Self::FailoverScheduled => "Failover can't be scheduled",
            Self::SwitchoverScheduledWhilePaused => "Can't schedule switchover in the paused state",
            Self::SwitchoverWhilePausedWithoutCandidate => {
                "Switchover is possible only to a specific candidate in a paused state"
            }
            Self::SameTargetAndSource => "Switchover target and source are the same",
            Self::LeaderNameDoesNotMatch => "leader name does not match",
            Self::CandidateDoesNotExist => "candidate does not exists",
            Self::FailoverKeyNotWritten => "failed to write failover key into DCS",
            Self::SwitchoverScheduled => "Switchover scheduled",
            Self::ScheduledSwitchoverDeleted => "scheduled switchover deleted",
            Self::NoSwitchoverScheduled => "no switchover is scheduled",
            Self::SwitchoverChangedMeanwhile => "the switchover was changed in the meantime",
            Self::ReloadScheduled => "reload scheduled",
            Self::NoAuthorization => "no auth header received",
            Self::WrongAuthorization => "not authenticated",
            Self::ConfigUnreadable { .. } => "the config key is missing or is not a JSON object",
            Self::ConfigChangedMeanwhile => "the configuration was changed in the meantime",
            Self::NotImplemented => "Server does not support this operation",
            _ => return None,
        })
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.fixed() {
            return formatter.write_str(text);
        }
        match self {
            Self::TimezoneMissing { action } => {
                write!(formatter, "Timezone information is mandatory for the scheduled {action}")
            }
            Self::ScheduleInPast { action } => write!(formatter, "Cannot schedule {action} in the past"),
            Self::RestartVersionInvalid { message } => formatter.write_str(message),
            Self::RestartFilterUnknown { key } => {
                write!(formatter, "Unknown filter for the scheduled restart: {key}")
            }
            Self::Busy { task } => write!(formatter, "{task} already in progress"),
            Self::NoMembersExceptLeader { handover } => {
                write!(formatter, "{} is not possible: cluster does not have members except leader", handover.word())
            }
            Self::NoGoodCandidates { handover } => {
                write!(formatter, "{} is not possible: no good candidates have been found", handover.word())
            }
            Self::HandedOver { handover, leader } => {
                write!(formatter, "Successfully {} to \"{leader}\"", handover.done())
            }
            Self::HandedOverToAnother { handover, leader, wanted } => {
                write!(formatter, "{} to \"{leader}\" instead of \"{wanted}\"", handover.done_capitalised())
            }
            Self::HandoverFailed { handover, reason } => {
                write!(formatter, "{} failed", handover.capitalised())?;
                reason.as_ref().map_or(Ok(()), |reason| write!(formatter, ": {reason}"))
            }
            Self::HandoverUnknown { handover, waited_s } => write!(
                formatter,
                "{} status unknown after {waited_s} seconds; operation may still be in progress",
                handover.capitalised()
            ),
            Self::BadRequest { reason } | Self::StoreUnavailable { reason } => formatter.write_str(reason),
            Self::ConfigRefused { reasons } => formatter.write_str(reasons),
            // Every other variant has a fixed text; a new one without any shows its name instead of nothing.
            other => write!(formatter, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_names_in_them() {
        let (handover, leader) = (Handover::Switchover, "b".to_owned());
        let failed = |reason: Option<&str>| Reply::HandoverFailed {
            handover: Handover::Failover,
            reason: reason.map(str::to_owned),
        };
        for (reply, code, text) in [
            (Reply::HandedOver { handover, leader: leader.clone() }, 200, "Successfully switched over to \"b\""),
            (
                Reply::HandedOverToAnother { handover: Handover::Failover, leader, wanted: "c".to_owned() },
                200,
                "Failed over to \"b\" instead of \"c\"",
            ),
            (failed(None), 503, "Failover failed"),
            (failed(Some("b lacks 8 bytes")), 503, "Failover failed: b lacks 8 bytes"),
            (
                Reply::HandoverUnknown { handover, waited_s: 20 },
                503,
                "Switchover status unknown after 20 seconds; operation may still be in progress",
            ),
            (
                Reply::NoGoodCandidates { handover },
                412,
                "switchover is not possible: no good candidates have been found",
            ),
            (Reply::Busy { task: "restart".to_owned() }, 503, "restart already in progress"),
        ] {
            assert_eq!((reply.code(), reply.text().as_str()), (code, text));
        }
    }
}
