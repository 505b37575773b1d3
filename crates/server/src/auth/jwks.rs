//! A JSON Web Key Set at a URL: fetched by its own thread at start, every ten minutes, and when a token names a
//! key that is not in it; kept as it is while the URL cannot be reached.
//!
//! A storm of tokens with unknown keys makes no storm of fetches: there is one at a time, and after each the next
//! unknown key waits out a pause, during which the known keys decide. A limited number of threads wait at once.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use ureq::tls::Certificate;

use super::key::Key;
use crate::https;

/// The longest key set, in bytes.
const MAX_BODY_BYTES: u64 = 1 << 20;
/// The most keys that are kept of it.
const MAX_KEYS: usize = 100;
/// The most threads that wait for a fetch.
const MAX_WAITING: usize = 64;

/// When to fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// So long after a fetch that worked, the next one.
    pub(super) refresh: Duration,
    /// So long after one that failed, the next try.
    pub(super) retry: Duration,
    /// So long after any fetch, none for an unknown key.
    pub(super) pause: Duration,
    /// The bound of one fetch.
    pub(super) timeout: Duration,
}

const PACE: Pace = Pace {
    refresh: Duration::from_secs(600),
    retry: Duration::from_secs(10),
    pause: Duration::from_secs(10),
    timeout: Duration::from_secs(5),
};

/// Why no key set can be fetched at all.
#[derive(Debug)]
pub enum JwksError {
    /// The thread could not be started.
    Thread(io::Error),
    /// The system's root certificates cannot be read, and the URL is https.
    Roots(String),
}

impl fmt::Display for JwksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JwksError::Thread(error) => write!(f, "no thread to fetch the key set: {error}"),
            JwksError::Roots(error) => write!(f, "no root certificates to fetch the key set: {error}"),
        }
    }
}

impl std::error::Error for JwksError {}

/// The key set, and the thread that keeps it fresh; the thread ends with it.
#[derive(Debug)]
pub(super) struct Jwks {
    url: String,
    shared: Arc<Shared>,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// For the fetching thread: something is wanted.
    wanted: Condvar,
    /// For those who wait: a fetch has ended.
    fetched: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: never fetched.
    keys: Option<Vec<Arc<Key>>>,
    /// How many fetches have ended, well or not.
    ended: u64,
    last_end: Option<Instant>,
    fetching: bool,
    asked: bool,
    waiting: usize,
    stop: bool,
}

impl Jwks {
    pub(super) fn start(url: &str) -> Result<Jwks, JwksError> {
        let roots =
            if https::is_https(url) { https::roots(None).map_err(JwksError::Roots)? } else { Vec::new() };
        Jwks::start_with(url, roots, PACE)
    }

    pub(super) fn start_with(
        url: &str,
        roots: Vec<Certificate<'static>>,
        pace: Pace,
    ) -> Result<Jwks, JwksError> {
        let agent = https::agent(url, roots, pace.timeout);
        let shared = Arc::new(Shared::default());
        shared.lock().fetching = true;
        let (own, fetched_url) = (shared.clone(), url.to_owned());
        thread::Builder::new()
            .name("jwks".to_owned())
            .spawn(move || keep_fresh(&own, pace, || fetch(&agent, &fetched_url)))
            .map_err(JwksError::Thread)?;
        Ok(Jwks { url: url.to_owned(), shared, pace })
    }

    /// Where the set is fetched from.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Has the set fetched again soon, whatever the pace.
    pub(super) fn refresh(&self) {
        self.shared.lock().asked = true;
        self.shared.wanted.notify_one();
    }

    /// The keys of the last fetch that worked; none before.
    pub(super) fn known(&self) -> Vec<Arc<Key>> {
        self.shared.lock().keys.clone().unwrap_or_default()
    }

    /// The keys that a token of this algorithm and key id may be signed with; `None` where nothing was ever fetched.
    /// Waits for a fetch where the key is unknown and one may be made.
    pub(super) fn keys_for(&self, algorithm: Algorithm, id: Option<&str>) -> Option<Vec<Arc<Key>>> {
        let state = self.shared.lock();
        match choose(&state, algorithm, id) {
            Some(keys) if !keys.is_empty() => Some(keys),
            _ => choose(&self.wait_for_fetch(state), algorithm, id),
        }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> Arc<impl std::fmt::Debug + use<>> {
        self.shared.clone()
    }

    fn wait_for_fetch<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let pausing = state.last_end.is_some_and(|end| end.elapsed() < self.pace.pause);
        if state.waiting >= MAX_WAITING || (pausing && !state.fetching) {
            return state;
        }
        if !state.fetching {
            state.asked = true;
            self.shared.wanted.notify_one();
        }
        state.waiting += 1;
        let before = state.ended;
        let waited =
            self.shared.fetched.wait_timeout_while(state, self.pace.timeout, |state| state.ended == before);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }
}

impl Drop for Jwks {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wanted.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn choose(state: &State, algorithm: Algorithm, id: Option<&str>) -> Option<Vec<Arc<Key>>> {
    // A key or a token without an id matches any id of the other.
    let is_named = |key: &Key| key.id.as_deref().is_none_or(|own| id.is_none_or(|id| id == own));
    let fits = |key: &&Arc<Key>| key.is_for(algorithm) && is_named(key);
    state.keys.as_ref().map(|keys| keys.iter().filter(fits).cloned().collect())
}

/// The thread: fetches, publishes the result, sleeps until the next fetch is scheduled or requested.
fn keep_fresh(shared: &Shared, pace: Pace, fetch: impl Fn() -> Result<Vec<Arc<Key>>, String>) {
    loop {
        let result = fetch();
        let mut state = shared.lock();
        let worked = result.is_ok();
        match result {
            Ok(keys) => state.keys = Some(keys),
            Err(error) => tracing::warn!(error, "the key set of `auth.jwks_url` could not be fetched"),
        }
        state.ended += 1;
        state.last_end = Some(Instant::now());
        (state.fetching, state.asked) = (false, false);
        shared.fetched.notify_all();
        let nap = if worked { pace.refresh } else { pace.retry };
        let slept = shared.wanted.wait_timeout_while(state, nap, |state| !state.asked && !state.stop);
        let (mut state, _) = slept.unwrap_or_else(PoisonError::into_inner);
        if state.stop {
            return;
        }
        state.fetching = true;
    }
}

fn fetch(agent: &ureq::Agent, url: &str) -> Result<Vec<Arc<Key>>, String> {
    // Its query may hold a key.
    let without_url = |error: ureq::Error| error.to_string().replace(url, "…");
    let mut response = agent.get(url).header("accept", "application/json").call().map_err(without_url)?;
    let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_vec();
    parse(&body.map_err(without_url)?)
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

/// The keys that are of use; others are no reason to do without them.
pub(super) fn parse(body: &[u8]) -> Result<Vec<Arc<Key>>, String> {
    let set: KeySet = serde_json::from_slice(body).map_err(|_| "it is not a JSON Web Key Set".to_owned())?;
    let keys =
        set.keys.into_iter().filter_map(|key| Key::from_jwk(&serde_json::from_value::<Jwk>(key).ok()?));
    Ok(keys.take(MAX_KEYS).map(Arc::new).collect())
}
