//! [`Secret`]: a value that is used and never shown. [`Rotating`]: one that a reload may replace.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A password, key or token. Neither `Debug` nor any error shows it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a value into custody.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `offered` is this secret, in a time that depends only on the lengths.
    pub fn matches(&self, offered: &str) -> bool {
        let (own, offered) = (self.0.as_bytes(), offered.as_bytes());
        let differing = own.iter().zip(offered).fold(0u8, |differing, (a, b)| differing | (a ^ b));
        own.len() == offered.len() && std::hint::black_box(differing) == 0
    }
}

/// 256 random bits, as hexadecimal digits.
pub(crate) fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret that a reload may replace. All clones are one.
#[derive(Clone, Debug)]
pub struct Rotating(Arc<RwLock<Secret>>);

impl From<Secret> for Rotating {
    fn from(secret: Secret) -> Self {
        Rotating(Arc::new(RwLock::new(secret)))
    }
}

impl Rotating {
    /// Takes a value into custody.
    pub fn new(value: impl Into<String>) -> Self {
        Secret::new(value).into()
    }

    /// The secret of now.
    pub fn current(&self) -> Secret {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses this secret from now on; returns whether it is another.
    pub(crate) fn replace(&self, secret: Secret) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = *current != secret;
        *current = secret;
        is_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_of_a_rotating_secret_changes_with_it() {
        let secret = Rotating::new("hunter2");
        let other = secret.clone();
        assert!(!secret.replace(Secret::new("hunter2")) && secret.replace(Secret::new("hunter3")));
        assert!(other.current().matches("hunter3"));
        assert!(!format!("{other:?}").contains("hunter"));
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(Secret(…))");
    }

    #[test]
    fn only_the_same_value_matches() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches("hunter2"));
        for other in ["hunter3", "hunter", "hunter22", ""] {
            assert!(!secret.matches(other));
        }
    }
}
