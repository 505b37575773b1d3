//! A session's name: a credential, and the hash by which everything but the client's own messages names the session.

use std::fmt;

use sha2::{Digest, Sha256};

/// Whoever knows it, and the player's token, may resume the session. Never printed: see [`SessionSecret::hash`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionSecret(pub u128);

/// Names a session in Redis, in logs and in the lifecycle stream: the first 128 bits of the secret's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionHash(pub u128);

impl SessionSecret {
    /// The secret of a session's name, as clients send it: 32 hexadecimal digits.
    pub fn parse(name: &str) -> Option<Self> {
        let is_hex = name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| u128::from_str_radix(name, 16).ok()).flatten().map(SessionSecret)
    }

    /// The session's name, for its client alone.
    pub fn reveal(self) -> String {
        format!("{:032x}", self.0)
    }

    /// What names the session to everybody else.
    pub fn hash(self) -> SessionHash {
        let digest = Sha256::digest(self.0.to_be_bytes());
        SessionHash(digest.iter().take(16).fold(0, |hash, byte| hash << 8 | u128::from(*byte)))
    }
}

impl SessionHash {
    /// The hash as [`fmt::Display`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        SessionSecret::parse(text).map(|same| SessionHash(same.0))
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSecret(of {})", self.hash())
    }
}

impl fmt::Display for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed_and_its_hash_is_stable() {
        let secret = SessionSecret(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
        assert_eq!(SessionSecret::parse(&secret.reveal()), Some(secret));
        assert!(!format!("{secret:?}").contains("12345678"));
        assert_eq!(SessionHash::parse(&secret.hash().to_string()), Some(secret.hash()));
        for bad in ["", "12", "+2345678123456781234567812345678", "1234567812345678123456781234567G"] {
            assert_eq!(SessionSecret::parse(bad), None, "{bad}");
        }
    }
}
