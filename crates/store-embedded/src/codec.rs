use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of every record and message of ours. A node that finds another one refuses: it never guesses.
pub(crate) const VERSION: u8 = 1;

/// Bytes that cannot be read as what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// Written by another version.
    #[error("version {found}, this is version {known}")]
    Version {
        /// The version byte.
        found: u8,
        /// What it should be.
        known: u8,
    },
    /// Not the expected structure.
    #[error("not readable")]
    Content(#[source] postcard::Error),
    /// Nothing there.
    #[error("empty")]
    Empty,
}

/// The version byte, then the value in postcard's format.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    encode_as(VERSION, value)
}

/// The same with another version.
pub(crate) fn encode_as<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![version]).expect("values of this crate are plain data, which postcard can write")
}

/// The reverse of [`encode`].
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_as(VERSION, bytes)
}

/// The same with another version.
pub(crate) fn decode_as<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&found, rest)) if found == version => postcard::from_bytes(rest).map_err(CodecError::Content),
        Some((&found, _)) => Err(CodecError::Version { found, known: version }),
    }
}
