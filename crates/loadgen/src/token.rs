//! Tokens for made-up players, signed with the secret that the node under load is configured with.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What tokens are signed with.
#[derive(Args, Clone)]
pub(crate) struct Secret {
    // Not a name of the form DRAWBRIDGE_…: a node takes those for its own keys.
    /// The node's `auth.hmac_secret` (HS256); not needed for a floor
    #[arg(
        long,
        env = "LOADGEN_SECRET",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) secret: String,
}

/// Mints tokens.
pub(crate) struct Mint {
    key: EncodingKey,
    expires: u64,
}

impl Mint {
    /// Tokens that expire a day from now.
    pub(crate) fn new(secret: &Secret) -> io::Result<Mint> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let key = EncodingKey::from_secret(secret.secret.as_bytes());
        Ok(Mint { key, expires: (now + LIFETIME).as_secs() })
    }

    /// A token for one player with these claims beside `sub` and `exp`.
    pub(crate) fn token(&self, player: &str, mut claims: Map<String, Value>) -> io::Result<String> {
        claims.insert("sub".into(), player.into());
        claims.insert("exp".into(), self.expires.into());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key).map_err(io::Error::other)
    }
}
