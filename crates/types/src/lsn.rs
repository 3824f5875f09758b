use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ParseError;

/// A position in the write-ahead log, in bytes (PostgreSQL documentation, `pg_lsn`).
///
/// `Lsn::INVALID` (zero) is PostgreSQL's "no position"; it orders below every real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position.
    pub const INVALID: Self = Self(0);

    /// Whether this is a real position.
    pub fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// How many bytes `self` is ahead of `other`; zero if it is not.
    pub fn bytes_ahead_of(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("an LSN", text, "two hexadecimal numbers such as 0/3000148");
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let part = |digits: &str| {
            if digits.is_empty() || digits.len() > 8 || digits.starts_with('+') {
                return Err(bad());
            }
            u64::from_str_radix(digits, 16).map_err(|_| bad())
        };
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_a_round_trip() {
        for text in ["0/0", "0/3000148", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_text_that_is_no_position_is_refused() {
        for text in ["", "/", "0", "0/", "/0", "0/123456789", "G/0", "0/+1", "0/0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was read as an LSN");
        }
    }
}
