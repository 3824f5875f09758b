//! The keys of a cluster in the store and the records under them, as Patroni lays them out. Records are read
//! leniently, whoever wrote them, and written exactly.

mod failover;
mod history;
mod keys;
mod member;
mod pooler;
mod status;

pub use failover::FailoverRecord;
pub use history::{HistoryRecord, HistoryRow};
pub use keys::{
    CLAIM, CONFIG, EPOCH_BASE, FAILOVER, HISTORY, INITIALIZE, Keys, LEADER, MEMBERS, POOLERS, STATUS, TIMELINE,
    TIMELINES,
};
pub use member::MemberRecord;
pub use pooler::{PausingRecord, PoolerRecord};
pub use status::StatusRecord;

use pgbaton_types::SystemId;

/// Digits that a database system identifier has at least: it begins with the seconds of its making.
const SYSTEM_ID_DIGITS_MIN: usize = 10;

/// The identity in the key `initialize`; none while a bootstrap is in progress or when the text is none.
pub fn read_initialize(text: &str) -> Option<SystemId> {
    let valid = text.len() >= SYSTEM_ID_DIGITS_MIN && text.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_ten_digits_or_more() {
        assert_eq!(read_initialize("7311111111111111111"), Some(SystemId(7_311_111_111_111_111_111)));
        for text in ["", "123456789", "12345678901x", "99999999999999999999999"] {
            assert_eq!(read_initialize(text), None, "{text}");
        }
    }
}
