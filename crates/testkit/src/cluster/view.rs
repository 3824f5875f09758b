//! What the members say of each other.

use std::net::SocketAddr;
use std::time::Duration;

use pgbaton_types::chain;

use super::{ClusterError, Outcome, http};

/// Longest wait for the document: a fresh read of the store, which may be electing.
const LIMIT: Duration = Duration::from_secs(3);

/// One member in `GET /cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// `leader`, `replica` and so on.
    pub role: String,
    /// `running`, `streaming` and so on.
    pub state: String,
    /// Its timeline, if it has said so.
    pub timeline: Option<u64>,
}

/// Asks one after the other, until one answers.
pub(super) fn of(members: &[SocketAddr]) -> Outcome<Vec<MemberView>> {
    let mut seen = String::from("none was asked");
    for address in members {
        match http::ask(*address, "GET", "/cluster", "", LIMIT) {
            Ok(answer) if answer.status == 200 => return Ok(read(&answer.json())),
            Ok(answer) => seen = format!("{address} answered {}: {}", answer.status, answer.body),
            Err(error) => seen = chain(&error),
        }
    }
    Err(ClusterError::NoView(seen))
}

fn read(document: &serde_json::Value) -> Vec<MemberView> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let members = document["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members
        .iter()
        .map(|member| MemberView {
            name: text(&member["name"]),
            role: text(&member["role"]),
            state: text(&member["state"]),
            timeline: member["timeline"].as_u64(),
        })
        .collect()
}

/// The first step of `GET /explain` that is blocked, and why.
pub(super) fn blocked(document: &serde_json::Value) -> Option<String> {
    let step = document["report"].as_array()?.iter().find(|step| step["outcome"] == "blocked")?;
    Some(format!("{}: {}", step["step"].as_str()?, step["reason"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocked_step_is_found() {
        let report = serde_json::json!([
            {"step": "pause", "outcome": "not_applicable", "reason": "not paused"},
            {"step": "race", "outcome": "blocked", "reason": "waits"},
        ]);
        assert_eq!(blocked(&serde_json::json!({"report": report})).as_deref(), Some("race: waits"));
        assert_eq!(blocked(&serde_json::json!({"report": []})), None);
    }

    #[test]
    fn a_document_becomes_a_list_of_members() {
        let document = serde_json::json!({"members": [
            {"name": "m1", "role": "leader", "state": "running", "timeline": 2},
            {"name": "m2", "role": "replica", "state": "starting"},
        ]});
        let views = read(&document);
        assert_eq!(views[0].timeline, Some(2));
        assert_eq!((views[1].role.as_str(), views[1].timeline), ("replica", None));
        assert!(read(&serde_json::Value::Null).is_empty());
    }
}
