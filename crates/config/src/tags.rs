use serde_json::{Map, Value};

use crate::diagnostic::Findings;
use crate::document::Node;
use crate::section::Section;
use crate::values::parse_bool;

/// What a member is good for, and what its owner says about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tags {
    /// Never leads: `nofailover`, or without that key a `failover_priority` of zero or less.
    pub no_failover: bool,
    /// Among members with equal positions the higher one leads.
    pub failover_priority: i64,
    /// Replica health checks answer 503.
    pub no_load_balance: bool,
    /// What is published in the member key and in the REST API.
    pub published: Map<String, Value>,
}

impl Default for Tags {
    fn default() -> Self {
        Self { no_failover: false, failover_priority: 1, no_load_balance: false, published: Map::new() }
    }
}

/// Tags that Patroni acts upon and pgbaton does not.
const WITHOUT_EFFECT: &[&str] = &["clonefrom", "replicatefrom", "nosync", "sync_priority", "nostream"];

impl Tags {
    pub(crate) fn read(section: &Section<'_>, findings: &mut Findings) -> Self {
        for key in WITHOUT_EFFECT {
            let Some(node) = section.get(key) else { continue };
            if !is_off(node) {
                let path = section.path_of(key);
                let message = format!("{path} is shown to others, but has no effect yet");
                findings.warning(&path, &node.place, message, "remove it, or keep it for later");
            }
        }
        let no_failover = section.boolean("nofailover", findings);
        let priority = section.integer("failover_priority", findings);
        if let (Some(no_failover), Some(priority)) = (no_failover, priority)
            && no_failover != (priority <= 0)
        {
            let shown = if no_failover { "True" } else { "False" };
            let message = format!(
                "Conflicting configuration between nofailover: {shown} and failover_priority: {priority}. \
                 Defaulting to nofailover: {shown}"
            );
            let place = section.get("nofailover").map(|node| node.place.clone()).unwrap_or_default();
            findings.warning(&section.path_of("nofailover"), &place, message, "keep only one of them");
        }
        Self {
            no_failover: no_failover.unwrap_or_else(|| priority.is_some_and(|priority| priority <= 0)),
            failover_priority: priority.unwrap_or(1),
            no_load_balance: section.boolean("noloadbalance", findings).unwrap_or(false),
            published: published(section),
        }
    }
}

/// The tags without switches that are off, except where they override a priority.
fn published(section: &Section<'_>) -> Map<String, Value> {
    let overrides = |key: &str| match key {
        "nofailover" => section.get("failover_priority").is_some(),
        "nosync" => section.get("sync_priority").is_some(),
        _ => false,
    };
    let switches = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];
    section
        .entries()
        .iter()
        .filter(|entry| !entry.value.is_null())
        .filter(|entry| !switches.contains(&entry.key.as_str()) || !is_off(&entry.value) || overrides(&entry.key))
        .map(|entry| (entry.key.clone(), entry.value.to_json()))
        .collect()
}

fn is_off(node: &Node) -> bool {
    node.is_falsy() || node.text().and_then(parse_bool) == Some(false)
}
