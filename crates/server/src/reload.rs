//! SIGHUP: reads the configuration again and puts its secrets, keys and certificates in the place of those in use. Owns
//! which of them can be replaced while the node runs; everything else needs a restart.
//!
//! The file is validated as a whole before any of it is used, so that a wrong file changes nothing. Connections stay: a
//! player whose token was signed by a key that is gone stays until the token expires.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{self, Auth, BrokerKind, Config, RedisConfig, Rotating, Secret, Tls};
use crate::platform::ReloadSignals;
use crate::tls::ServedCertificate;
use crate::token_verifier::TokenVerifier;

/// The configuration's file, and what of it can be replaced.
#[derive(Debug)]
pub struct Reloader {
    /// `None`: the node has no file: `dev`, or all of it comes from variables.
    file: Option<PathBuf>,
    /// The keys that are in use.
    auth: Auth,
    token_verifier: TokenVerifier,
    api_key: Option<Rotating>,
    redis_password: Option<Rotating>,
    sentinel_password: Option<Rotating>,
    certificate: Option<Arc<ServedCertificate>>,
}

impl Reloader {
    /// Replaces what this configuration was started with; `certificate` is the listener's.
    pub fn new(
        file: Option<PathBuf>,
        config: &Config,
        token_verifier: TokenVerifier,
        certificate: Option<Arc<ServedCertificate>>,
    ) -> Reloader {
        Reloader {
            file,
            auth: config.auth.clone(),
            token_verifier,
            api_key: config.admin.as_ref().map(|admin| admin.api_key.clone()),
            redis_password: redis_config(config).and_then(|redis| redis.password.clone()),
            sentinel_password: redis_config(config).and_then(|redis| redis.sentinel.password.clone()),
            certificate,
        }
    }

    /// Reloads at each signal, for ever.
    pub(crate) async fn run(mut self, mut signals: ReloadSignals) {
        while signals.next().await {
            let reloaded = tokio::task::spawn_blocking(move || {
                self.reload();
                self
            });
            match reloaded.await {
                Ok(reloader) => self = reloader,
                Err(error) => {
                    return tracing::error!(%error, "reloading failed: restart the node to change keys");
                }
            }
        }
    }

    /// Says in the log what has changed, or why nothing has.
    fn reload(&mut self) {
        let Some(file) = &self.file else {
            return tracing::info!("SIGHUP: this node has no configuration file to reload");
        };
        let config = match config::load(file) {
            Ok(config) => config,
            Err(errors) => {
                for problem in errors.to_string().lines() {
                    tracing::error!("the configuration was not reloaded, and nothing has changed: {problem}");
                }
                return;
            }
        };
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        match self.replace(&config) {
            Ok(changed) if changed.is_empty() => tracing::info!("configuration reloaded: no key has changed"),
            Ok(changed) => tracing::info!(changed = changed.join(", "), "configuration reloaded"),
            Err(problem) => {
                tracing::error!("the configuration was not reloaded, and nothing has changed: {problem}");
            }
        }
    }

    /// What can fail comes first. Returns the names of the keys whose values are new.
    fn replace(&mut self, config: &Config) -> Result<Vec<&'static str>, String> {
        let (auth, mut changed) = self.renewed_keys(&config.auth);
        let verifier =
            self.token_verifier.verifier().renewed(&auth).map_err(|error| format!("auth: {error}"))?;
        let certificate = match (&self.certificate, &config.tls) {
            (Some(served), Some(tls)) => Some((served.clone(), read_certificate(tls)?)),
            _ => None,
        };
        verifier.refresh();
        self.token_verifier.replace(verifier);
        self.auth = auth;
        if certificate.is_some_and(|(served, read)| served.replace(read)) {
            changed.push("tls");
        }
        let api_key = config.admin.as_ref().map(|admin| &admin.api_key);
        let redis = redis_config(config);
        let password = redis.and_then(|redis| redis.password.as_ref());
        let sentinel_password = redis.and_then(|redis| redis.sentinel.password.as_ref());
        for (name, used, new) in [
            ("admin.api_key", &self.api_key, api_key),
            ("broker.password", &self.redis_password, password),
            ("broker.sentinel_password", &self.sentinel_password, sentinel_password),
        ] {
            if replace_secret(name, used.as_ref(), new.map(Rotating::current)) {
                changed.push(name);
            }
        }
        if self.certificate.is_some() != config.tls.is_some() {
            tracing::warn!("`tls` is there now and was not, or the other way round: that needs a restart");
        }
        Ok(changed)
    }

    /// The keys of this `[auth]`; the rest of it stays as it was.
    fn renewed_keys(&self, new: &Auth) -> (Auth, Vec<&'static str>) {
        let mut changed = Vec::new();
        let mut note = |name, is_changed: bool| changed.extend(is_changed.then_some(name));
        note("auth.hmac_secrets", self.auth.hmac_secrets != new.hmac_secrets);
        note("auth.public_key_files", self.auth.public_keys != new.public_keys);
        note("auth.jwks_url", self.auth.jwks_url != new.jwks_url);
        let auth = Auth {
            hmac_secrets: new.hmac_secrets.clone(),
            public_keys: new.public_keys.clone(),
            jwks_url: new.jwks_url.clone(),
            ..self.auth.clone()
        };
        (auth, changed)
    }
}

fn read_certificate(tls: &Tls) -> Result<rustls::sign::CertifiedKey, String> {
    crate::tls::certified_key(tls).map_err(|error| format!("tls: {error}"))
}

fn redis_config(config: &Config) -> Option<&RedisConfig> {
    match &config.broker.kind {
        BrokerKind::Redis(redis) => Some(redis),
        BrokerKind::Memory => None,
    }
}

/// Whether the secret is another now.
fn replace_secret(name: &str, used: Option<&Rotating>, new: Option<Secret>) -> bool {
    match (used, new) {
        (Some(used), Some(new)) => used.replace(new),
        (None, None) => false,
        _ => {
            tracing::warn!("`{name}` is there now and was not, or the other way round: that needs a restart");
            false
        }
    }
}
