//! Keys, each with the algorithms that it is good for.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// The smallest RSA modulus that is taken, in bytes (2048 bits).
const MIN_RSA_BYTES: usize = 256;
/// An uncompressed point of each curve: a mark and two coordinates.
const P256_POINT_BYTES: usize = 65;
const P384_POINT_BYTES: usize = 97;
const ED25519_BYTES: usize = 32;

/// By its name in a token's header; only those of the contract.
pub(super) fn algorithm_named(name: &str) -> Option<Algorithm> {
    [HMAC, RSA, P256, P384, ED25519].concat().into_iter().find(|algorithm| format!("{algorithm:?}") == name)
}

/// The algorithms of these keys for a sentence, each once: `ES256, RS256 or RS384`; `None` without keys.
pub(super) fn listed<'k>(keys: impl Iterator<Item = &'k Key>) -> Option<String> {
    let mut names: Vec<String> =
        keys.flat_map(|key| &key.algorithms).map(|algorithm| format!("{algorithm:?}")).collect();
    names.sort_unstable();
    names.dedup();
    let last = names.pop()?;
    Some(if names.is_empty() { last } else { format!("{} or {last}", names.join(", ")) })
}

pub(super) fn is_hmac(algorithm: Algorithm) -> bool {
    HMAC.contains(&algorithm)
}

/// A key that signatures are checked with.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Its name in a key set.
    pub(super) id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

impl Key {
    pub(super) fn hmac(secret: &str) -> Key {
        Key { id: None, algorithms: HMAC.to_vec(), decoding: DecodingKey::from_secret(secret.as_bytes()) }
    }

    pub(super) fn is_hmac(&self) -> bool {
        self.algorithms.iter().copied().any(is_hmac)
    }

    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// A key of a key set, if it signs with an algorithm of the contract. A symmetric key is none: what is published
    /// is no secret.
    pub(super) fn from_jwk(jwk: &Jwk) -> Option<Key> {
        let common = &jwk.common;
        if common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return None;
        }
        let by_kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => ED25519,
            _ => return None,
        };
        let pinned = |algorithm: KeyAlgorithm| Algorithm::try_from(algorithm).ok();
        let algorithms = match common.key_algorithm {
            Some(algorithm) => vec![pinned(algorithm).filter(|algorithm| by_kind.contains(algorithm))?],
            None => by_kind.to_vec(),
        };
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        Some(Key { id: common.key_id.clone(), algorithms, decoding })
    }
}

/// A public key of the configuration.
#[derive(Clone, Debug)]
pub struct PublicKey(pub(super) Key);

/// By what signatures are checked with.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |key: &PublicKey| key.0.decoding.try_get_as_bytes().ok().map(<[u8]>::to_vec);
        bytes(self) == bytes(other)
    }
}

/// What is wrong with a file of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongKey {
    /// The fault, as the end of a sentence that begins with the file.
    pub problem: &'static str,
    /// What would be right.
    pub hint: &'static str,
}

const WANTED: &str = "a PEM file with a PUBLIC KEY block is needed: RSA of 2048 bits or more, EC on P-256 or P-384, or Ed25519";

impl PublicKey {
    /// Reads PEM; the kind of the key decides which algorithms it is used with.
    ///
    /// # Errors
    /// Where it contains no public key, or one of a kind or size that is not taken.
    pub fn from_pem(pem: &[u8]) -> Result<PublicKey, WrongKey> {
        let holds = |mark: &str| String::from_utf8_lossy(pem).contains(mark);
        if holds("PRIVATE KEY-----") {
            let hint = "a server needs only the public one: openssl pkey -in private.pem -pubout";
            return Err(WrongKey { problem: "holds a private key", hint });
        }
        if holds("BEGIN CERTIFICATE-----") {
            let hint = "take the key out of it: openssl x509 -in cert.pem -pubkey -noout";
            return Err(WrongKey { problem: "holds a certificate", hint });
        }
        let (decoding, algorithms) = decode(pem)?;
        Ok(PublicKey(Key { id: None, algorithms: algorithms.to_vec(), decoding }))
    }
}

fn decode(pem: &[u8]) -> Result<(DecodingKey, &'static [Algorithm]), WrongKey> {
    let has = |key: &DecodingKey, fits: &dyn Fn(&[u8]) -> bool| key.try_get_as_bytes().is_ok_and(fits);
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        return match key.try_get_as_bytes().map(<[u8]>::len) {
            Ok(P256_POINT_BYTES) => Ok((key, P256)),
            Ok(P384_POINT_BYTES) => Ok((key, P384)),
            _ => {
                Err(WrongKey { problem: "holds an EC key that is on neither P-256 nor P-384", hint: WANTED })
            }
        };
    }
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return match has(&key, &|bytes| bytes.len() == ED25519_BYTES) {
            true => Ok((key, ED25519)),
            false => Err(WrongKey { problem: "holds an Edwards key that is not Ed25519", hint: WANTED }),
        };
    }
    match DecodingKey::from_rsa_pem(pem) {
        Ok(key) if has(&key, &|der| der.len() > MIN_RSA_BYTES) => Ok((key, RSA)),
        Ok(_) => Err(WrongKey { problem: "holds an RSA key of less than 2048 bits", hint: WANTED }),
        Err(_) => Err(WrongKey { problem: "contains no public key", hint: WANTED }),
    }
}
