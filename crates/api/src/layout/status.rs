use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use pgbaton_types::Lsn;

/// The value of `status`: how far the leader has written. Written by the lease holder alone; `optime` grows within a
/// reign.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StatusRecord {
    /// The leader's position.
    pub optime: Lsn,
    /// Positions of the slots that are kept on all members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// Slots of members that were seen lately, sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_slots: Option<Vec<String>>,
}

impl StatusRecord {
    /// Reads a record. A bare number counts as `optime`; `slots` and `retain_slots` may be JSON in a text. What
    /// cannot be read counts as absent, a position as [`Lsn::INVALID`].
    pub fn read(text: &str) -> Self {
        let Ok(value) = serde_json::from_str::<Value>(text) else { return Self::default() };
        let optime = match &value {
            Value::Object(map) => map.get("optime").and_then(position),
            other => position(other),
        };
        let slots = part(&value, "slots").and_then(|slots| match slots {
            Value::Object(map) => {
                Some(map.iter().filter_map(|(name, at)| Some((name.clone(), position(at)?))).collect())
            }
            _ => None,
        });
        let retain_slots = part(&value, "retain_slots").and_then(|names| match names {
            Value::Array(names) => Some(names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()),
            _ => None,
        });
        Self { optime: optime.unwrap_or_default(), slots, retain_slots }
    }
}

fn position(value: &Value) -> Option<Lsn> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).map(Lsn)
}

/// A part of the record, out of a text if it is in one.
fn part(value: &Value, key: &str) -> Option<Value> {
    match value.get(key)? {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_compact;

    #[test]
    fn records_of_all_kinds_are_read() {
        let plain = StatusRecord { optime: Lsn(77), ..StatusRecord::default() };
        let full = StatusRecord {
            optime: Lsn(77),
            slots: Some([("a".to_owned(), Lsn(5))].into()),
            retain_slots: Some(vec!["a".to_owned(), "b".to_owned()]),
        };
        for (text, expected) in [
            ("77", &plain),
            (r#"{"optime":77}"#, &plain),
            (r#"{"optime":"77"}"#, &plain),
            (r#"{"optime":77,"slots":{"a":5},"retain_slots":["a","b"]}"#, &full),
            (r#"{"optime":77,"slots":"{\"a\":5}","retain_slots":"[\"a\",\"b\"]"}"#, &full),
            ("", &StatusRecord::default()),
            ("[]", &StatusRecord::default()),
        ] {
            assert_eq!(StatusRecord::read(text), *expected, "{text}");
        }
        assert_eq!(to_compact(&plain).unwrap(), r#"{"optime":77}"#);
        assert_eq!(to_compact(&full).unwrap(), r#"{"optime":77,"slots":{"a":5},"retain_slots":["a","b"]}"#);
    }
}
