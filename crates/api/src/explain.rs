use serde::{Deserialize, Serialize};

/// What `GET /explain` answers: why this member does what it does, and who would lead if the leader were gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    /// Who answers.
    pub member: String,
    /// Its role, as published.
    pub role: String,
    /// The reign that it knows of; none before the first.
    pub epoch: Option<u64>,
    /// Maintenance mode.
    pub paused: bool,
    /// The lease.
    pub lease: ExplainedLease,
    /// What a client may rely on.
    pub guarantee: Guarantee,
    /// The last decision, step by step.
    pub report: Vec<ExplainedStep>,
    /// Who would lead, as far as this member knows, best first.
    pub would_lead: Vec<Eligibility>,
    /// What weakens the guarantee on this host, such as a right that is missing.
    pub caveats: Vec<String>,
}

/// The lease as this member sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedLease {
    /// Who holds it.
    pub holder: Option<String>,
    /// Milliseconds until the deadline of the holder's own server; only on the holder.
    pub remaining_ms: Option<u64>,
    /// The guard of the server here.
    pub guard: ExplainedGuard,
}

/// The guard that kills the server when the lease has run out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedGuard {
    /// It answers.
    pub alive: bool,
    /// It enforces a deadline.
    pub armed: bool,
    /// How long killing the server may take, in milliseconds: what the deadline leaves room for.
    pub kill_ms: u64,
}

/// What keeps two servers from accepting writes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guarantee {
    /// Acknowledgements of a quorum: no clock matters.
    #[serde(rename = "quorum")]
    Quorum,
    /// The lease, and a device that switches a host off.
    #[serde(rename = "lease+stonith")]
    LeaseAndStonith,
    /// The lease: clocks that run at nearly the same rate.
    #[serde(rename = "lease")]
    Lease,
}

/// What came of one step of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedStep {
    /// The step.
    pub step: String,
    /// What came of it.
    pub outcome: StepOutcome,
    /// Why.
    pub reason: String,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It acts.
    Taken,
    /// It does not concern this state.
    NotApplicable,
    /// It would act, but something forbids it.
    Blocked,
}

/// Whether a member would lead if there were no leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eligibility {
    /// The member.
    pub member: String,
    /// Whether it may.
    pub eligible: bool,
    /// Why not; empty when it may.
    pub reasons: Vec<String>,
    /// Bytes of WAL that would be lost, as far as was published; none if its position is unknown.
    pub loss_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_compact;

    #[test]
    fn the_document_is_as_documented() {
        let explain = Explain {
            member: "a".to_owned(),
            role: "primary".to_owned(),
            epoch: Some(7),
            paused: false,
            lease: ExplainedLease {
                holder: Some("a".to_owned()),
                remaining_ms: Some(9000),
                guard: ExplainedGuard { alive: true, armed: true, kill_ms: 400 },
            },
            guarantee: Guarantee::Lease,
            report: vec![ExplainedStep {
                step: "pause".to_owned(),
                outcome: StepOutcome::NotApplicable,
                reason: "not paused".to_owned(),
            }],
            would_lead: vec![Eligibility {
                member: "b".to_owned(),
                eligible: true,
                reasons: Vec::new(),
                loss_bytes: Some(0),
            }],
            caveats: Vec::new(),
        };
        let text = to_compact(&explain).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"member":"a","role":"primary","epoch":7,"paused":false,"lease":{"holder":"a","remaining_ms":9000,"#,
                r#""guard":{"alive":true,"armed":true,"kill_ms":400}},"guarantee":"lease","#,
                r#""report":[{"step":"pause","outcome":"not_applicable","reason":"not paused"}],"#,
                r#""would_lead":[{"member":"b","eligible":true,"reasons":[],"loss_bytes":0}],"caveats":[]}"#
            )
        );
        assert_eq!(serde_json::from_str::<Explain>(&text).unwrap(), explain);
    }
}
