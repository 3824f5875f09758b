use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ParseError;

/// The name of a member: an agent with its server. Unique in its cluster; 1 to 63 bytes without `/`, control
/// characters or white space, because it is a part of a store key and of a replication slot's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberName(String);

impl MemberName {
    /// The longest name, in bytes: `NAMEDATALEN - 1`, what PostgreSQL allows an `application_name` to have.
    pub const LENGTH_MAX: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The replication slot of this member on whichever server it streams from: lower case, other characters than
    /// letters, digits and `_` replaced (`-` and `.` and space by `_`, the rest by `u` and their code), as Patroni
    /// has it, cut to 63 bytes.
    pub fn slot_name(&self) -> String {
        let mut slot = String::new();
        for character in self.0.to_lowercase().chars() {
            match character {
                'a'..='z' | '0'..='9' | '_' => slot.push(character),
                '-' | '.' | ' ' => slot.push('_'),
                other => slot.push_str(&format!("u{:04}", u32::from(other))),
            }
        }
        slot.truncate(Self::LENGTH_MAX);
        slot
    }
}

impl FromStr for MemberName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = |c: char| c == '/' || c.is_control() || c.is_whitespace();
        if text.is_empty() || text.len() > Self::LENGTH_MAX || text.contains(refused) {
            return Err(ParseError::new(
                "a member name",
                text,
                "1 to 63 bytes without '/', white space or control characters",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for MemberName {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<MemberName> for String {
    fn from(name: MemberName) -> Self {
        name.0
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_follow_the_interface() {
        for (name, slot) in [("pg-1", "pg_1"), ("Node.A", "node_a"), ("a+b", "au0043b")] {
            assert_eq!(name.parse::<MemberName>().unwrap().slot_name(), slot);
        }
    }

    #[test]
    fn a_name_that_would_break_a_key_is_refused() {
        for text in ["", "a/b", "a b", "a\n"] {
            assert!(text.parse::<MemberName>().is_err(), "{text:?}");
        }
    }
}
