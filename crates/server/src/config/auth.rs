//! `[auth]`: who may sign players' tokens. Keys are read and validated here; tokens are verified in [`crate::auth`].

use std::time::Duration;

use super::reader::{Field, Section, excerpt};
use super::{Secret, files};
use crate::auth::PublicKey;

/// `[auth]`. Several sources of keys may be given: each key is good for its own algorithms only.
#[derive(Clone, Debug)]
pub struct Auth {
    /// For HS256, HS384 and HS512; `hmac_secret` first, then `hmac_secrets`.
    pub hmac_secrets: Vec<Secret>,
    /// Each for the algorithms of its kind; `public_key_file` first, then `public_key_files`.
    pub public_keys: Vec<PublicKey>,
    /// Where a JSON Web Key Set is fetched from.
    pub jwks_url: Option<String>,
    /// A token must name one of these in `aud`; empty: not checked.
    pub audience: Vec<String>,
    /// A token must name one of these in `iss`; empty: not checked.
    pub issuer: Vec<String>,
    /// How far the clock of the tokens' signer may differ from ours.
    pub leeway: Duration,
    /// The claim that is the player id.
    pub user_claim: String,
    /// The cookie that a token is taken from at the upgrade; `None`: from none.
    pub cookie: Option<String>,
    /// Whether a connection without a token is welcome.
    pub allow_anonymous: bool,
    /// Whether `?token=` is read.
    pub query_token: bool,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            hmac_secrets: Vec::new(),
            public_keys: Vec::new(),
            jwks_url: None,
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: LEEWAY,
            user_claim: USER_CLAIM.to_owned(),
            cookie: None,
            allow_anonymous: false,
            query_token: false,
        }
    }
}

impl Auth {
    /// Whether any token could ever be good.
    pub fn has_keys(&self) -> bool {
        !self.hmac_secrets.is_empty() || !self.public_keys.is_empty() || self.jwks_url.is_some()
    }
}

/// RFC 7518 §3.2 requires as many bytes as HS256 produces.
const GOOD_SECRET_BYTES: usize = 32;
const LEEWAY: Duration = Duration::from_secs(5);
const MAX_LEEWAY: Duration = Duration::from_secs(300);
const USER_CLAIM: &str = "sub";
/// Keys in one list: a token whose signature fits none has been held against all of its kind.
const MAX_KEYS: usize = 16;
const SOURCES: [&str; 5] = ["hmac_secret", "hmac_secrets", "public_key_file", "public_key_files", "jwks_url"];

pub(super) fn read(section: &Section<'_>) -> Auth {
    let written = SOURCES.iter().any(|key| section.has(key));
    let secret = |field: &Field<'_>| field.text().map(Secret::new);
    let auth = Auth {
        hmac_secrets: one_and_more(section, "hmac_secret", "hmac_secrets", secret),
        public_keys: one_and_more(section, "public_key_file", "public_key_files", public_key),
        jwks_url: section.field("jwks_url").and_then(|field| jwks_url(&field)),
        audience: names(section.field("audience")),
        issuer: names(section.field("issuer")),
        leeway: section.duration("leeway", LEEWAY, Duration::ZERO..=MAX_LEEWAY),
        user_claim: section
            .field("user_claim")
            .and_then(|field| field.text())
            .unwrap_or_else(|| USER_CLAIM.to_owned()),
        cookie: section.field("cookie").and_then(|field| cookie(&field)),
        allow_anonymous: section.boolean("allow_anonymous", false),
        query_token: section.boolean("query_token", false),
    };
    if auth.hmac_secrets.iter().any(|secret| secret.expose().len() < GOOD_SECRET_BYTES) {
        section
            .cx()
            .warn(format!("`auth.hmac_secret` is shorter than {GOOD_SECRET_BYTES} bytes: it can be guessed"));
    }
    if !written && !auth.allow_anonymous {
        section.cx().warn(
            "no client can connect: `auth` has no `hmac_secret`, `public_key_file` or `jwks_url`, and anonymous players are off",
        );
    }
    section.close();
    auth
}

/// The value of the key for one, then those of the key for a list.
fn one_and_more<T>(
    section: &Section<'_>,
    one: &str,
    more: &str,
    read: impl Fn(&Field<'_>) -> Option<T>,
) -> Vec<T> {
    let one = section.field(one);
    let list = section.strings(more).unwrap_or_default();
    if let Some(field) = list.get(MAX_KEYS) {
        field.error(
            format_args!("holds more than {MAX_KEYS} keys"),
            "keep those that tokens still in use were signed with",
        );
    }
    one.iter().chain(list.iter().take(MAX_KEYS)).filter_map(read).collect()
}

/// A cookie's name (RFC 6265 §4.1.1: a token of HTTP).
fn cookie(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    let fit = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(c);
    if name.chars().all(fit) {
        return Some(name);
    }
    field.error(
        format_args!("is not a cookie's name: \"{}\"", excerpt(&name)),
        "it has letters, digits and marks such as `-` and `_`, without spaces: \"access_token\"",
    );
    None
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
