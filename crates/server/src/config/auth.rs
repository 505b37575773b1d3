//! `[auth]`: whose word is taken for who a player is. Keys are read and judged here; tokens are [`crate::auth`]'s.

use super::reader::{Field, Section};
use super::{Secret, files};
use crate::auth::PublicKey;

/// `[auth]`. Several sources of keys may be given: each key is good for its own algorithms only.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// For HS256, HS384 and HS512.
    pub hmac_secret: Option<Secret>,
    /// For RS256 and PS256, ES256, or EdDSA, by its kind.
    pub public_key: Option<PublicKey>,
    /// Where a JSON Web Key Set is fetched from.
    pub jwks_url: Option<String>,
    /// A token must name one of these in `aud`; empty: not asked.
    pub audience: Vec<String>,
    /// A token must name one of these in `iss`; empty: not asked.
    pub issuer: Vec<String>,
    /// Whether a connection without a token is welcome.
    pub allow_anonymous: bool,
    /// Whether `?token=` is looked at.
    pub query_token: bool,
}

impl Auth {
    /// Whether any token could ever be good.
    pub fn has_keys(&self) -> bool {
        self.hmac_secret.is_some() || self.public_key.is_some() || self.jwks_url.is_some()
    }
}

/// RFC 7518 §3.2 asks for as many bytes as HS256 makes.
const GOOD_SECRET_BYTES: usize = 32;

pub(super) fn read(section: &Section<'_>) -> Auth {
    let written = ["hmac_secret", "public_key_file", "jwks_url"].iter().any(|key| section.has(key));
    let auth = Auth {
        hmac_secret: section.field("hmac_secret").and_then(|field| field.text()).map(Secret::new),
        public_key: section.field("public_key_file").and_then(|field| public_key(&field)),
        jwks_url: section.field("jwks_url").and_then(|field| jwks_url(&field)),
        audience: names(section.field("audience")),
        issuer: names(section.field("issuer")),
        allow_anonymous: section.boolean("allow_anonymous", false),
        query_token: section.boolean("query_token", false),
    };
    if auth.hmac_secret.as_ref().is_some_and(|secret| secret.expose().len() < GOOD_SECRET_BYTES) {
        section
            .cx()
            .warn(format!("`auth.hmac_secret` is shorter than {GOOD_SECRET_BYTES} bytes: it can be guessed"));
    }
    if !written && !auth.allow_anonymous {
        section.cx().warn(
            "nobody can connect: `auth` names no `hmac_secret`, `public_key_file` or `jwks_url`, and anonymous players are off",
        );
    }
    section.close();
    auth
}

fn public_key(field: &Field<'_>) -> Option<PublicKey> {
    let (_, pem) = files::open(field)?;
    PublicKey::from_pem(&pem).map_err(|wrong| field.error(wrong.problem, wrong.hint)).ok()
}

/// The URL is not quoted in errors: its query may hold a key.
fn jwks_url(field: &Field<'_>) -> Option<String> {
    let url = field.text()?;
    let form = "it is written like https://login.example/.well-known/jwks.json";
    let parsed = url.parse::<http::Uri>().ok();
    match parsed.as_ref().map(|uri| (uri.scheme_str(), uri.authority())) {
        Some((Some("http" | "https"), Some(authority))) if authority.as_str().contains('@') => {
            field.error("holds a user or password", form);
            None
        }
        Some((Some("http" | "https"), Some(_))) => Some(url),
        _ => {
            field.error("is not an http or https URL", form);
            None
        }
    }
}

fn names(field: Option<Field<'_>>) -> Vec<String> {
    field.map(Field::one_or_many).unwrap_or_default().iter().filter_map(Field::text).collect()
}
