//! Minting tokens, for `drawbridge token` and the playground.

use std::fmt;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use super::WrongKey;

/// A key that tokens are signed with, and the algorithm that it signs by.
#[derive(Clone)]
pub struct PrivateKey {
    algorithm: Algorithm,
    encoding: EncodingKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// HS256 with this secret.
    pub fn hmac(secret: &str) -> PrivateKey {
        PrivateKey { algorithm: Algorithm::HS256, encoding: EncodingKey::from_secret(secret.as_bytes()) }
    }

    /// Reads PEM: RS256 for an RSA key, ES256 or ES384 for an EC key by its curve, EdDSA for an Ed25519 key.
    ///
    /// # Errors
    /// Where it holds no such private key.
    pub fn from_pem(pem: &[u8]) -> Result<PrivateKey, WrongKey> {
        let key = |algorithm| move |encoding| PrivateKey { algorithm, encoding };
        // The PEM reader does not report the curve; only a key of the algorithm's curve can sign.
        let ec = |encoding: EncodingKey| {
            let signs =
                |algorithm: &Algorithm| jsonwebtoken::crypto::sign(b"", &encoding, *algorithm).is_ok();
            let algorithm = [Algorithm::ES256, Algorithm::ES384].into_iter().find(signs);
            PrivateKey { algorithm: algorithm.unwrap_or(Algorithm::ES256), encoding }
        };
        EncodingKey::from_ec_pem(pem)
            .map(ec)
            .or_else(|_| EncodingKey::from_ed_pem(pem).map(key(Algorithm::EdDSA)))
            .or_else(|_| EncodingKey::from_rsa_pem(pem).map(key(Algorithm::RS256)))
            .map_err(|_| WrongKey {
                problem: "contains no private key that can sign",
                hint: "PKCS#8 is needed, of RSA, EC on P-256 or P-384, or Ed25519: openssl pkcs8 -topk8 -nocrypt -in key.pem",
            })
    }

    /// RSA only: sign with PS256 instead of RS256.
    pub fn with_pss(mut self) -> Option<PrivateKey> {
        (self.algorithm == Algorithm::RS256).then(|| {
            self.algorithm = Algorithm::PS256;
            self
        })
    }
}

/// Why a token was not minted.
#[derive(Debug)]
pub struct MintError(jsonwebtoken::errors::Error);

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key cannot sign: {}", self.0)
    }
}

impl std::error::Error for MintError {}

/// A token with exactly these claims.
///
/// # Errors
/// Where the key is not fit to sign with, such as an EC key on another curve.
pub fn mint(
    key: &PrivateKey,
    key_id: Option<&str>,
    claims: &Map<String, Value>,
) -> Result<String, MintError> {
    let mut header = Header::new(key.algorithm);
    header.kid = key_id.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &key.encoding).map_err(MintError)
}
