use std::collections::BTreeMap;

use pgbaton_api::layout::PoolerRecord;
use pgbaton_api::{Explain, Guarantee, StepOutcome};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{Failure, Format, Members, Out, Role};
use crate::commands::select;

/// The document, with what the last handover came to.
#[derive(Debug, Deserialize)]
struct Shown {
    #[serde(flatten)]
    explain: Explain,
    last_handover: Option<String>,
    #[serde(default)]
    poolers: BTreeMap<String, PoolerRecord>,
}

/// `explain`.
pub(crate) async fn run(members: &Members, names: &[String], format: Format, out: &mut Out) -> Result<(), Failure> {
    let view = members.cluster(None).await?;
    let names = select::split(&view, names)?;
    let mut documents = Vec::new();
    let mut silent = Vec::new();
    for member in select::select(&view, names, Role::Any)? {
        match members.get(member.base_url(), "/explain").await {
            Ok(document) => documents.push(document),
            Err(failure) => silent.push((member.name.clone(), failure.message().unwrap_or_default())),
        }
    }
    if format == Format::Json {
        let silent = silent.iter().map(|(name, error)| json!({"member": name, "error": error}));
        out.json(&Value::Array(documents.iter().cloned().chain(silent).collect()))?;
    } else {
        for document in documents {
            let shown: Shown = serde_json::from_value(document)
                .map_err(|error| Failure::because("the member gave no explanation that can be read", error))?;
            out.line(&text(&shown))?;
        }
        for (name, error) in &silent {
            out.line(&format!("{name}: no answer: {error}"))?;
        }
    }
    if silent.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

/// One member's account.
fn text(shown: &Shown) -> String {
    let explain = &shown.explain;
    let mut text = format!("{} is {}", explain.member, article(&explain.role));
    let mut line = |words: String| {
        text.push_str("\n  ");
        text.push_str(&words);
    };
    let epoch = explain.epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
    match (&explain.lease.holder, explain.lease.remaining_ms) {
        (Some(holder), Some(left)) => {
            line(format!("lease: held by {holder}{epoch}; {:.1} s left", left as f64 / 1000.0));
        }
        (Some(holder), None) => line(format!("lease: held by {holder}{epoch}")),
        (None, _) => line("lease: held by nobody".to_owned()),
    }
    let guard = &explain.lease.guard;
    let armed = match (guard.alive, guard.armed, explain.paused) {
        (false, _, _) => "does not answer".to_owned(),
        (true, true, _) => format!("armed; the server is dead {} ms after the deadline at the latest", guard.kill_ms),
        (true, false, true) => "disarmed, because the cluster is paused: no deadline is enforced".to_owned(),
        (true, false, false) => "not armed: there is no primary here".to_owned(),
    };
    line(format!("guard: {armed}"));
    let guarantee = match explain.guarantee {
        Guarantee::Quorum => "quorum",
        Guarantee::LeaseAndStonith => "lease+stonith",
        Guarantee::Lease => "lease",
    };
    line(format!("guarantee: {guarantee}"));
    for caveat in &explain.caveats {
        line(format!("caveat: {caveat}"));
    }
    if let Some(reason) = &shown.last_handover {
        line(format!("last handover: {reason}"));
    }
    for (name, pooler) in &shown.poolers {
        line(match (&pooler.why, pooler.holds) {
            (Some(why), _) => format!("pooler {name}: could not hold its clients when it was asked last: {why}"),
            (None, true) => format!("pooler {name}: follows; it held its clients when it was asked last"),
            (None, false) => format!("pooler {name}: follows"),
        });
    }
    line("decision:".to_owned());
    for step in &explain.report {
        let (mark, word) = match step.outcome {
            StepOutcome::Taken => ('*', "taken"),
            StepOutcome::NotApplicable => ('-', "not applicable"),
            StepOutcome::Blocked => ('!', "blocked"),
        };
        line(format!("  {mark} {:<11} {word}: {}", step.step, step.reason));
    }
    line("if the leader were gone:".to_owned());
    if explain.would_lead.is_empty() {
        line("  nobody could lead: there is no other member".to_owned());
    }
    for entry in &explain.would_lead {
        let loss = match entry.loss_bytes {
            Some(bytes) => format!("{bytes} bytes behind the leader when both last said where they are"),
            None => "its position is not known".to_owned(),
        };
        let name = &entry.member;
        line(if entry.eligible {
            format!("  {name} may lead; {loss}")
        } else {
            format!("  {name} may not lead: {}", entry.reasons.join("; "))
        });
    }
    text
}

fn article(role: &str) -> String {
    match role {
        "primary" => "the primary".to_owned(),
        "replica" => "a standby".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_member_explains_itself() {
        let shown: Shown = serde_json::from_value(json!({
            "member": "a", "role": "primary", "epoch": 7, "paused": false,
            "lease": {"holder": "a", "remaining_ms": 8900, "guard": {"alive": true, "armed": true, "kill_ms": 1000}},
            "guarantee": "lease",
            "report": [{"step": "leader", "outcome": "taken", "reason": "it holds the lease"},
                       {"step": "switchover", "outcome": "blocked", "reason": "b does not stream"}],
            "would_lead": [{"member": "b", "eligible": true, "reasons": [], "loss_bytes": 0},
                           {"member": "c", "eligible": false, "reasons": ["it has the tag nofailover"], "loss_bytes": null}],
            "caveats": ["the guard lacks a right: real-time scheduling"],
            "last_handover": "b does not stream",
            "poolers": {"app": {"answered": 5, "holds": false, "why": "it is busy"}, "web": {"holds": false}}
        }))
        .unwrap();
        expect![[r"
            a is the primary
              lease: held by a, epoch 7; 8.9 s left
              guard: armed; the server is dead 1000 ms after the deadline at the latest
              guarantee: lease
              caveat: the guard lacks a right: real-time scheduling
              last handover: b does not stream
              pooler app: could not hold its clients when it was asked last: it is busy
              pooler web: follows
              decision:
                * leader      taken: it holds the lease
                ! switchover  blocked: b does not stream
              if the leader were gone:
                b may lead; 0 bytes behind the leader when both last said where they are
                c may not lead: it has the tag nofailover"]]
        .assert_eq(&text(&shown));
    }
}
