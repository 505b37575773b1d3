//! Token buckets as GCRA (the generic cell rate algorithm, ITU-T I.371): one timestamp instead of a count and a
//! clock. A bucket also remembers how much was tried, so that persistent abuse is distinguished from a burst.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

use crate::address_slots::AddressSlots;
use crate::node_sessions::NodeSessions;
use crate::player_slots::{Admission, Holder, PlayerSlots};
use crate::settings::{Rate, Settings};
use crate::work;

const NANOS_PER_MS: u64 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Over this long, more than [`ABUSE_FACTOR`] times the allowance is abuse (contract §8).
pub(crate) const ABUSE_WINDOW_MS: u64 = 10_000;
const ABUSE_FACTOR: u64 = 10;

/// The outcome for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allowed,
    /// Not now.
    Limited {
        /// When the same request would be allowed, in milliseconds; at least 1.
        retry_after_ms: u64,
    },
    /// Not now, and it has been far too much for far too long.
    Abuse,
}

/// One bucket; 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// The theoretical arrival time: until when the tokens taken so far last.
    tat_ns: u64,
    /// When the abuse window began, in milliseconds, wrapping.
    window_ms: u32,
    /// What was tried in this window.
    tried: u32,
}

impl Bucket {
    /// Takes `cost` tokens, or returns when they will be there. A cost over the burst is paid off in time: it is allowed on a full bucket.
    pub fn take(&mut self, now_ms: u64, rate: Rate, cost: u64) -> Verdict {
        if self.is_abused(now_ms, rate, cost) {
            return Verdict::Abuse;
        }
        let now_ns = now_ms * NANOS_PER_MS;
        let per_token = NANOS_PER_SECOND / rate.per_second.max(1);
        let tolerance = per_token.saturating_mul(rate.burst.max(1));
        let before = self.tat_ns.max(now_ns);
        let after = before.saturating_add(per_token.saturating_mul(cost.min(rate.burst.max(1))));
        if after > now_ns.saturating_add(tolerance) {
            let wait_ns = after - now_ns - tolerance;
            return Verdict::Limited { retry_after_ms: wait_ns.div_ceil(NANOS_PER_MS).max(1) };
        }
        self.tat_ns = before.saturating_add(per_token.saturating_mul(cost));
        Verdict::Allowed
    }

    /// Takes `cost` tokens whether they are there or not: what is owed is paid off before [`Bucket::check`] allows more.
    pub fn charge(&mut self, now_ms: u64, rate: Rate, cost: u64) {
        let per_token = NANOS_PER_SECOND / rate.per_second.max(1);
        self.tat_ns = self.tat_ns.max(now_ms * NANOS_PER_MS).saturating_add(per_token.saturating_mul(cost));
    }

    /// Takes nothing; returns whether nothing is owed.
    pub fn check(&self, now_ms: u64, rate: Rate) -> Verdict {
        let tolerance = (NANOS_PER_SECOND / rate.per_second.max(1)).saturating_mul(rate.burst.max(1));
        let owed_ns = self.tat_ns.saturating_sub((now_ms * NANOS_PER_MS).saturating_add(tolerance));
        match owed_ns {
            0 => Verdict::Allowed,
            owed => Verdict::Limited { retry_after_ms: owed.div_ceil(NANOS_PER_MS) },
        }
    }

    fn is_abused(&mut self, now_ms: u64, rate: Rate, cost: u64) -> bool {
        let now = now_ms as u32;
        if self.tried == 0 || u64::from(now.wrapping_sub(self.window_ms)) >= ABUSE_WINDOW_MS {
            self.window_ms = now;
            self.tried = 0;
        }
        self.tried = self.tried.saturating_add(u32::try_from(cost).unwrap_or(u32::MAX));
        let allowance = rate.per_second.saturating_mul(ABUSE_WINDOW_MS / 1000).max(rate.burst);
        u64::from(self.tried) > allowance.saturating_mul(ABUSE_FACTOR)
    }

    /// Whether forgetting this bucket changes nothing.
    fn is_full(&self, now_ms: u64) -> bool {
        self.tat_ns <= now_ms * NANOS_PER_MS
            && u64::from((now_ms as u32).wrapping_sub(self.window_ms)) >= ABUSE_WINDOW_MS
    }
}

/// Whose bucket a request draws from, beside that of its connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// A player with a token, over all of the player's connections to this node.
    Player(Arc<str>),
    /// The anonymous players of one address: each connection of theirs is a new player.
    Address(IpAddr),
}

/// An address may spend as much as so many players with a token: several people play behind one router.
pub(crate) const PLAYERS_PER_ADDRESS: u64 = 8;

/// What connections of several shards share: the buckets of players and addresses, the patterns of each player, how many
/// connections a player has, and where sessions are. Used when a request comes in, never when an event is delivered.
#[derive(Debug)]
pub struct SharedLimits {
    slots: Option<PlayerSlots>,
    pub(crate) sessions: NodeSessions,
    connections: Arc<AddressSlots>,
    players: Option<(Rate, Keyed<Arc<str>>)>,
    addresses: Option<(Rate, Keyed<IpAddr>)>,
    patterns: PatternShares,
    subscribes: Accounts,
    work: Accounts,
}

impl SharedLimits {
    /// One for the whole node.
    pub fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(SharedLimits {
            slots: settings.connections_per_player.map(PlayerSlots::new),
            sessions: NodeSessions::new(settings),
            connections: AddressSlots::new(settings.connections_per_address),
            players: settings.messages_per_player.map(|rate| (rate, Keyed::default())),
            addresses: settings.messages_per_address.map(|rate| (rate, Keyed::default())),
            patterns: PatternShares { limit: settings.patterns_per_player, players: Mutex::default() },
            subscribes: Accounts::new(settings.subscribes_per_player()),
            work: Accounts::new(work::in_steps(settings.work)),
        })
    }

    /// What each address holds of connections and detached sessions.
    pub fn connections(&self) -> &Arc<AddressSlots> {
        &self.connections
    }

    /// One more pattern of this player. `work`: what matching it costs, by [`crate::pattern_index::match_work`].
    ///
    /// # Errors
    /// Where the player holds as much as it may.
    pub fn take_pattern(&self, player: &Arc<str>, work: usize) -> Result<(), PatternsFull> {
        self.patterns.take(player, work)
    }

    /// The player holds this pattern no more.
    pub fn release_pattern(&self, player: &Arc<str>, work: usize) {
        self.patterns.release(player, work);
    }

    /// How many patterns this player holds on all shards, and what matching them costs.
    pub(crate) fn patterns_held(&self, player: &Arc<str>) -> (usize, usize) {
        let players = self.patterns.players.lock().unwrap_or_else(PoisonError::into_inner);
        players.get(player).map_or((0, 0), |share| (share.patterns, share.work))
    }

    /// How many players hold a pattern.
    pub(crate) fn players_with_patterns(&self) -> usize {
        self.patterns.players.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A connection of this player is about to be welcomed.
    pub(crate) fn enter(&self, player: &Arc<str>, holder: Holder) -> Admission {
        self.slots.as_ref().map_or(Admission::Admitted, |slots| slots.enter(player, holder))
    }

    /// A connection of this player has ended.
    pub(crate) fn leave(&self, player: &Arc<str>, holder: Holder) {
        if let Some(slots) = &self.slots {
            slots.leave(player, holder);
        }
    }

    /// One subscription: by a request, in `CONNECT`, or filled from the claims.
    pub fn take_subscribe(&self, now_ms: u64, account: &Account) -> Verdict {
        self.subscribes.take(now_ms, account)
    }

    /// Whether nothing is owed for work.
    pub fn check_work(&self, now_ms: u64, account: &Account) -> Verdict {
        let rate = self.work.rate(account);
        self.work.buckets.with(now_ms, account, |bucket| bucket.check(now_ms, rate))
    }

    /// Work that was done, in steps.
    pub fn charge_work(&self, now_ms: u64, account: &Account, steps: u64) {
        let rate = self.work.rate(account);
        self.work.buckets.with(now_ms, account, |bucket| bucket.charge(now_ms, rate, steps));
    }

    /// One message of this player from this address.
    pub fn take(&self, now_ms: u64, player: Option<&Arc<str>>, address: IpAddr) -> Verdict {
        if let Some((rate, buckets)) = &self.addresses {
            let verdict = buckets.with(now_ms, &address, |bucket| bucket.take(now_ms, *rate, 1));
            if verdict != Verdict::Allowed {
                return verdict;
            }
        }
        match (&self.players, player) {
            (Some((rate, buckets)), Some(player)) => {
                buckets.with(now_ms, player, |bucket| bucket.take(now_ms, *rate, 1))
            }
            _ => Verdict::Allowed,
        }
    }
}

/// Why a player may not hold one more pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternsFull {
    /// It holds `patterns_per_player`.
    Count,
    /// Together they cost too much to match.
    Work,
}

/// How much matching each pattern of a player may cost on average, where it holds all that it may.
const WORK_PER_PATTERN: usize = 64;

/// What each player's patterns come to. It holds the players that have one, so connections bound it.
#[derive(Debug)]
struct PatternShares {
    limit: usize,
    players: Mutex<HashMap<Arc<str>, PatternShare>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PatternShare {
    patterns: usize,
    work: usize,
}

impl PatternShares {
    fn take(&self, player: &Arc<str>, work: usize) -> Result<(), PatternsFull> {
        let mut players = self.players.lock().unwrap_or_else(PoisonError::into_inner);
        let held = players.get(player).copied().unwrap_or_default();
        let share = PatternShare { patterns: held.patterns + 1, work: held.work + work };
        if share.patterns > self.limit {
            return Err(PatternsFull::Count);
        }
        // One pattern may always be as dear as any.
        if held.patterns > 0 && share.work > self.limit.saturating_mul(WORK_PER_PATTERN) {
            return Err(PatternsFull::Work);
        }
        players.insert(player.clone(), share);
        Ok(())
    }

    fn release(&self, player: &Arc<str>, work: usize) {
        let mut players = self.players.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(share) = players.get_mut(player) else { return };
        share.patterns = share.patterns.saturating_sub(1);
        share.work = share.work.saturating_sub(work);
        if share.patterns == 0 {
            players.remove(player);
        }
    }
}

/// The buckets of all accounts for one kind of cost.
#[derive(Debug)]
struct Accounts {
    player: Rate,
    buckets: Keyed<Account>,
}

impl Accounts {
    fn new(player: Rate) -> Self {
        Accounts { player, buckets: Keyed::default() }
    }

    fn rate(&self, account: &Account) -> Rate {
        match account {
            Account::Player(_) => self.player,
            Account::Address(_) => Rate {
                per_second: self.player.per_second.saturating_mul(PLAYERS_PER_ADDRESS),
                burst: self.player.burst.saturating_mul(PLAYERS_PER_ADDRESS),
            },
        }
    }

    fn take(&self, now_ms: u64, account: &Account) -> Verdict {
        let rate = self.rate(account);
        self.buckets.with(now_ms, account, |bucket| bucket.take(now_ms, rate, 1))
    }
}

const PARTS: usize = 16;
/// Keys of one part; beyond it, full buckets are forgotten first and then all are.
const MAX_KEYS: usize = 16_384;

#[derive(Debug)]
struct Keyed<K> {
    hasher: foldhash::fast::FixedState,
    parts: [Mutex<HashMap<K, Bucket>>; PARTS],
}

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Keyed {
            hasher: foldhash::fast::FixedState::default(),
            parts: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// Runs `f` on the bucket of this key.
    fn with<T>(&self, now_ms: u64, key: &K, f: impl FnOnce(&mut Bucket) -> T) -> T {
        let part = self.hasher.hash_one(key) as usize % PARTS;
        let mut buckets = self.parts[part].lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(key) {
            buckets.retain(|_, bucket| !bucket.is_full(now_ms));
            if buckets.len() >= MAX_KEYS {
                buckets.clear();
            }
        }
        f(buckets.entry(key.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 5 };

    #[test]
    fn a_players_patterns_are_counted_until_they_are_given_back() {
        let shares = PatternShares { limit: 3, players: Mutex::default() };
        let (ann, bob) = ("ann".into(), "bob".into());
        for _ in 0..3 {
            assert_eq!(shares.take(&ann, 1), Ok(()));
        }
        assert_eq!(shares.take(&ann, 1), Err(PatternsFull::Count));
        assert_eq!(shares.take(&bob, 500), Ok(()), "another player's");
        assert_eq!(shares.take(&bob, 1), Err(PatternsFull::Work));
        shares.release(&ann, 1);
        assert_eq!(shares.take(&ann, 1), Ok(()));
        (0..3).for_each(|_| shares.release(&ann, 1));
        shares.release(&bob, 500);
        assert_eq!(shares.players.lock().map(|players| players.len()).ok(), Some(0));
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = Bucket::default();
        let allowed = (0..10).filter(|_| bucket.take(1_000, RATE, 1) == Verdict::Allowed).count();
        assert_eq!(allowed, 5);
        assert_eq!(bucket.take(1_000, RATE, 1), Verdict::Limited { retry_after_ms: 100 });
        assert_eq!(bucket.take(1_100, RATE, 1), Verdict::Allowed);
        assert!(matches!(bucket.take(1_100, RATE, 1), Verdict::Limited { .. }));
    }

    #[test]
    fn retry_after_is_exactly_when_it_is_allowed() {
        let mut bucket = Bucket::default();
        while bucket.take(50, RATE, 1) == Verdict::Allowed {}
        let Verdict::Limited { retry_after_ms } = bucket.take(50, RATE, 1) else { panic!() };
        assert!(matches!(bucket.take(50 + retry_after_ms - 1, RATE, 1), Verdict::Limited { .. }));
        assert_eq!(bucket.take(50 + retry_after_ms, RATE, 1), Verdict::Allowed);
    }

    #[test]
    fn what_costs_more_than_the_burst_is_paid_off() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(0, RATE, 20), Verdict::Allowed);
        // Of 20 tokens the burst had 5.
        assert_eq!(bucket.take(0, RATE, 1), Verdict::Limited { retry_after_ms: 1_600 });
        assert_eq!(bucket.take(1_600, RATE, 1), Verdict::Allowed);
    }

    #[test]
    fn what_was_done_is_charged_and_paid_off() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.check(1_000, RATE), Verdict::Allowed);
        bucket.charge(1_000, RATE, 5);
        assert_eq!(bucket.check(1_000, RATE), Verdict::Allowed, "the burst owes nothing");
        bucket.charge(1_000, RATE, 20);
        assert_eq!(bucket.check(1_000, RATE), Verdict::Limited { retry_after_ms: 2_000 });
        assert_eq!(bucket.check(2_999, RATE), Verdict::Limited { retry_after_ms: 1 });
        assert_eq!(bucket.check(3_000, RATE), Verdict::Allowed);
    }

    #[test]
    fn ten_times_the_allowance_over_ten_seconds_is_abuse() {
        let mut bucket = Bucket::default();
        let tries = (0..2_000u64).take_while(|i| bucket.take(i / 2, RATE, 1) != Verdict::Abuse).count();
        assert_eq!(tries, 1_000);
    }

    #[test]
    fn a_steady_player_is_never_abusive() {
        let mut bucket = Bucket::default();
        assert!((0..10_000u64).all(|i| bucket.take(i * 100, RATE, 1) == Verdict::Allowed));
    }
}
