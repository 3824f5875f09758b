use serde::{Deserialize, Serialize};

/// Which keys are meant, in the byte order of keys (etcd "API reference", `RangeRequest.range_end`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRange {
    /// One key.
    One(#[serde(with = "serde_bytes")] Vec<u8>),
    /// From the first one, which is meant, to the second one, which is not. Empty when the second is not above the first.
    Between(#[serde(with = "serde_bytes")] Vec<u8>, #[serde(with = "serde_bytes")] Vec<u8>),
    /// From this one on.
    From(#[serde(with = "serde_bytes")] Vec<u8>),
}

impl KeyRange {
    /// As etcd writes it: an empty end means the one key, one zero byte means every key from that one on.
    pub fn of(key: impl Into<Vec<u8>>, range_end: impl Into<Vec<u8>>) -> Self {
        let (key, range_end) = (key.into(), range_end.into());
        match range_end.as_slice() {
            [] => Self::One(key),
            [0] => Self::From(key),
            _ => Self::Between(key, range_end),
        }
    }

    /// Keys that begin with `prefix`; every key when it is empty.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let prefix = prefix.into();
        let mut end = prefix.clone();
        while let Some(last) = end.last_mut() {
            if *last < u8::MAX {
                *last += 1;
                return Self::Between(prefix, end);
            }
            // No key that begins with it can be above 0xff at this place: the end is further left.
            end.pop();
        }
        Self::From(prefix)
    }

    /// Whether a key is meant.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == one,
            Self::Between(from, to) => key >= from.as_slice() && key < to.as_slice(),
            Self::From(from) => key >= from.as_slice(),
        }
    }

    /// The first key that may be meant.
    pub fn start(&self) -> &[u8] {
        match self {
            Self::One(key) | Self::Between(key, _) | Self::From(key) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_end_means_what_it_means_in_etcd() {
        assert_eq!(KeyRange::of("a", ""), KeyRange::One(b"a".to_vec()));
        assert_eq!(KeyRange::of("a", [0]), KeyRange::From(b"a".to_vec()));
        assert_eq!(KeyRange::of("a", "c"), KeyRange::Between(b"a".to_vec(), b"c".to_vec()));
        assert!(!KeyRange::of("c", "a").contains(b"b"), "an end below the start");
        assert_eq!(KeyRange::prefix([1, 255]), KeyRange::Between(vec![1, 255], vec![2]));
        assert_eq!(KeyRange::prefix([255, 255]), KeyRange::From(vec![255, 255]));
        assert_eq!(KeyRange::prefix(""), KeyRange::From(Vec::new()));
    }

    proptest! {
        #[test]
        fn a_prefix_contains_what_begins_with_it(prefix in prop::collection::vec(prop_oneof![0_u8..3, 253_u8..], 0..4),
            key in prop::collection::vec(prop_oneof![0_u8..3, 253_u8..], 0..6)) {
            prop_assert_eq!(KeyRange::prefix(prefix.clone()).contains(&key), key.starts_with(&prefix));
        }
    }
}
