//! Physical replication slots: one for each member.

use std::collections::BTreeSet;

use pgbaton_types::MemberName;

use crate::sql::{LocalClient, SqlError, literal};

impl LocalClient {
    /// Makes the missing ones of these members' physical slots, with WAL kept from now on, so that a standby that
    /// starts a second later finds what it needs. Gives the names of those it made. A lost slot is made anew.
    pub async fn ensure_slots(&mut self, members: &[MemberName]) -> Result<Vec<String>, SqlError> {
        let wanted: BTreeSet<String> = members.iter().map(MemberName::slot_name).collect();
        let mut made = Vec::new();
        let existing = self.sample().await?.slots;
        for name in wanted {
            match existing.iter().find(|slot| slot.name == name) {
                Some(slot) if slot.wal_status.as_deref() != Some("lost") || slot.active => continue,
                Some(_) => self.drop_slot(&name).await.map(|_| ())?,
                None => {}
            }
            self.query(&format!("SELECT pg_create_physical_replication_slot({}, true)", literal(&name))).await?;
            made.push(name);
        }
        Ok(made)
    }

    /// Drops the slot of a member that is gone, unless somebody streams by it. Says whether it was there and is gone.
    pub async fn drop_slot(&mut self, name: &str) -> Result<bool, SqlError> {
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {} AND NOT active",
            literal(name)
        );
        Ok(self.query(&sql).await?.first().is_some_and(|rows| !rows.is_empty()))
    }
}
