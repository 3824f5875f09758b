use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key, Tag};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA256};

/// Rounds of PBKDF2-HMAC-SHA256 (RFC 8018). Done once when a store opens; it makes guessing from a recorded handshake
/// costly without delaying the start by more than some tens of milliseconds.
const DERIVE_ROUNDS: NonZeroU32 = NonZeroU32::new(20_000).expect("not zero");

/// The salt: fixed, because both ends must get the same key from the password alone.
const DERIVE_SALT: &[u8] = b"pgbaton peer key 1";

/// Bytes of a nonce, a key and a proof.
pub(crate) const KEY_BYTES: usize = 32;

/// What both ends of a connection share: a key made of the password, or nothing.
#[derive(Clone)]
pub struct PeerKey(Option<[u8; KEY_BYTES]>);

impl fmt::Debug for PeerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "PeerKey(from a password)" } else { "PeerKey(none)" })
    }
}

/// The configuration would let anybody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is beyond this host, and no password is set: anybody who reaches that port could take part in the store. \
     Add `password: ...` to the section `raft`, the same on every member"
)]
pub struct SecurityError {
    /// The address that is not a loopback address.
    pub address: SocketAddr,
}

/// Without a password only loopback addresses are allowed.
///
/// # Errors
/// Names the first address that is not one.
pub fn require_password(password: Option<&str>, addresses: &[SocketAddr]) -> Result<(), SecurityError> {
    if password.is_some_and(|password| !password.is_empty()) {
        return Ok(());
    }
    match addresses.iter().find(|address| !is_loopback(address)) {
        Some(address) => Err(SecurityError { address: *address }),
        None => Ok(()),
    }
}

pub(crate) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

impl PeerKey {
    /// The key for this password; an empty one counts as none.
    pub fn derive(password: Option<&str>) -> Self {
        let Some(password) = password.filter(|password| !password.is_empty()) else { return Self(None) };
        let mut key = [0; KEY_BYTES];
        pbkdf2::derive(PBKDF2_HMAC_SHA256, DERIVE_ROUNDS, DERIVE_SALT, password.as_bytes(), &mut key);
        Self(Some(key))
    }

    /// Whether there is a password.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// What lets a client of this name in, made of the password; none without one.
    pub fn token(&self, name: &str) -> Option<String> {
        let proof = hmac(&key(self.0.as_ref()?), &[b"token", name.as_bytes()]);
        let hex = proof.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        Some(format!("{name}.{hex}"))
    }

    /// Whether a token is one that this key gives.
    pub fn is_token(&self, token: &str) -> bool {
        let Some((name, proof)) = token.rsplit_once('.') else { return false };
        let bytes: Option<Vec<u8>> =
            (0..proof.len()).step_by(2).map(|at| u8::from_str_radix(proof.get(at..at + 2)?, 16).ok()).collect();
        match (&self.0, bytes) {
            (Some(own), Some(bytes)) => {
                bytes.len() == KEY_BYTES && verify(&key(own), &[b"token", name.as_bytes()], &bytes)
            }
            _ => false,
        }
    }

    /// A value that only a holder of the key can make for these nonces and this purpose. Without a password everybody
    /// can; the frames are still counted and checksummed by it.
    pub(crate) fn proof(&self, purpose: &str, client: &[u8], server: &[u8]) -> [u8; KEY_BYTES] {
        let tag = hmac(&key(self.0.as_ref().map_or(&[], |key| key.as_slice())), &[purpose.as_bytes(), client, server]);
        let mut proof = [0; KEY_BYTES];
        proof.copy_from_slice(tag.as_ref());
        proof
    }
}

/// A key of HMAC-SHA256, made ready for many tags.
pub(crate) fn key(bytes: &[u8]) -> Key {
    Key::new(HMAC_SHA256, bytes)
}

/// HMAC-SHA256 over the parts, one after the other.
pub(crate) fn hmac(key: &Key, parts: &[&[u8]]) -> Tag {
    let mut context = Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// Whether `given` is the HMAC over the parts or the beginning of it, as long as the caller made it; compared in constant time.
pub(crate) fn verify(key: &Key, parts: &[&[u8]], given: &[u8]) -> bool {
    let tag = hmac(key, parts);
    tag.as_ref().get(..given.len()).is_some_and(|tag| verify_slices_are_equal(tag, given).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_the_standard_one() {
        // RFC 4231, test case 2.
        let expected = [
            0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7, 0x5a, 0x00,
            0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec, 0x38, 0x43,
        ];
        assert_eq!(hmac(&key(b"Jefe"), &[b"what do ya want ", b"for nothing?"]).as_ref(), expected);
    }

    #[test]
    fn a_token_is_the_same_on_every_release() {
        // What Python's hashlib.pbkdf2_hmac and hmac make of it.
        let peers = PeerKey::derive(Some("secret"));
        let token = "h1.82a5c22a6193f83f9055e8e9f880897797985d89c423e223c53a421ccc74bc1a";
        assert_eq!(peers.token("h1").as_deref(), Some(token));
        assert!(peers.is_token(token));
        for wrong in [
            "h2.82a5c22a6193f83f9055e8e9f880897797985d89c423e223c53a421ccc74bc1a",
            "h1.",
            "h1.00",
            "h1",
            "h1.82a5c22a6193f83f9055e8e9f880897797985d89c423e223c53a421ccc74bc1a00",
            &token[..token.len() - 2],
        ] {
            assert!(!peers.is_token(wrong), "{wrong}");
        }
        assert!(!PeerKey::derive(Some("other")).is_token(token));
    }

    #[test]
    fn beyond_loopback_a_password_is_wanted() {
        let near = "127.0.0.1:1".parse().unwrap();
        let near6 = "[::1]:1".parse().unwrap();
        let far = "10.0.0.1:1".parse().unwrap();
        assert!(require_password(None, &[near, near6]).is_ok());
        assert_eq!(require_password(None, &[near, far]).unwrap_err().address, far);
        assert!(require_password(Some(""), &[far]).is_err());
        assert!(require_password(Some("secret"), &[far]).is_ok());
    }
}
