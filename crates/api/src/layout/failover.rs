use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::schedule::iso;

/// The value of `failover`: a switchover or manual failover that is asked for. Written by whoever takes the request,
/// emptied to `{}` by the lease holder when it is done or impossible.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FailoverRecord {
    /// Who shall hand over; without it, this is a manual failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Who shall take over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// When it is due.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_time")]
    pub scheduled_at: Option<Timestamp>,
    /// pgbaton's own: the former holder gave the lease up with proof that `member` holds everything.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
}

impl FailoverRecord {
    /// Reads a record; none when nothing is asked for. The legacy text `leader:candidate` counts, too. A time that
    /// cannot be read makes the request void: it must not be done at once instead.
    pub fn read(text: &str) -> Option<Self> {
        let named = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let record = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(map)) => {
                let text = |key: &str| named(map.get(key).and_then(Value::as_str));
                let scheduled_at = match text("scheduled_at") {
                    Some(time) => Some(time.parse().ok()?),
                    None => None,
                };
                Self {
                    leader: text("leader"),
                    member: text("member"),
                    scheduled_at,
                    handed_over: map.get("handed_over").and_then(Value::as_bool).unwrap_or(false),
                }
            }
            Ok(_) => return None,
            Err(_) => {
                let (leader, member) = text.split_once(':')?;
                Self { leader: named(Some(leader)), member: named(Some(member)), ..Self::default() }
            }
        };
        (record.leader.is_some() || record.member.is_some()).then_some(record)
    }
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn write_time<S: serde::Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(iso).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_compact;

    #[test]
    fn records_are_read_and_written() {
        let full = FailoverRecord {
            leader: Some("a".to_owned()),
            member: Some("b".to_owned()),
            scheduled_at: Some("2026-11-20T10:00:00Z".parse().unwrap()),
            handed_over: false,
        };
        let text = r#"{"leader":"a","member":"b","scheduled_at":"2026-11-20T10:00:00+00:00"}"#;
        assert_eq!(to_compact(&full).unwrap(), text);
        assert_eq!(FailoverRecord::read(text), Some(full));
        assert_eq!(to_compact(&FailoverRecord::default()).unwrap(), "{}");
        let own = FailoverRecord { member: Some("b".to_owned()), handed_over: true, ..FailoverRecord::default() };
        assert_eq!(to_compact(&own).unwrap(), r#"{"member":"b","handed_over":true}"#);
        assert_eq!(FailoverRecord::read(r#"{"member":"b","handed_over":true}"#), Some(own));
    }

    #[test]
    fn nothing_asked_for_is_nothing() {
        for text in ["", "{}", "null", "5", r#"{"leader":""}"#, r#"{"leader":"a","scheduled_at":"soon"}"#] {
            assert_eq!(FailoverRecord::read(text), None, "{text}");
        }
        let legacy = FailoverRecord::read("a:b").unwrap();
        assert_eq!((legacy.leader.as_deref(), legacy.member.as_deref()), (Some("a"), Some("b")));
        assert_eq!(FailoverRecord::read(":b").unwrap().leader, None);
    }
}
