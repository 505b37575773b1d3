//! Who is present, as Redis keeps it: by channel and player the sessions, each with the node and generation that it is of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use drawbridge_engine::io::{PresenceChange, PresencePage, SessionHash, WriteKind};

use crate::settings::RESERVED;

/// One session on a channel.
#[derive(Clone, Debug)]
struct Held {
    generation: u64,
    /// Which start of a node has it.
    instance: Arc<str>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PresenceStore {
    channels: BTreeMap<Arc<str>, Players>,
    /// Those whose subscribers are notified.
    notified: BTreeSet<Arc<str>>,
    /// Starts of nodes that have died, with when a survivor removes what they left.
    dead: VecDeque<(u64, Arc<str>)>,
}

type Players = BTreeMap<Arc<str>, BTreeMap<SessionHash, Held>>;

/// What is to be published, and where.
pub type Published = (Arc<str>, Vec<u8>);

impl PresenceStore {
    /// Takes a write of presence by this start of a node; returns what is then to be published.
    pub fn write(&mut self, instance: &Arc<str>, write: &WriteKind) -> Option<Published> {
        let WriteKind::Presence { channel, player, session, generation, is_present, notify } = write else {
            panic!("not of presence: {write:?}")
        };
        if *notify {
            self.notified.insert(channel.clone());
        }
        let stored =
            self.channels.get(channel).and_then(|players| players.get(player)?.get(session)).cloned();
        let is_newer = |stored: &Held| stored.generation > *generation;
        if *is_present {
            return match stored {
                Some(stored) if is_newer(&stored) => None,
                _ => {
                    let held = Held { generation: *generation, instance: instance.clone() };
                    self.change(channel, player, |sessions| drop(sessions.insert(*session, held)))
                }
            };
        }
        let stored = stored?;
        let is_theirs = stored.generation == *generation && stored.instance == *instance;
        if stored.generation < *generation || is_theirs {
            return self.change(channel, player, |sessions| drop(sessions.remove(session)));
        }
        None
    }

    /// Changes a player's sessions on a channel.
    fn change(
        &mut self,
        channel: &Arc<str>,
        player: &Arc<str>,
        change: impl FnOnce(&mut BTreeMap<SessionHash, Held>),
    ) -> Option<Published> {
        let players = self.channels.entry(channel.clone()).or_default();
        let was_there = players.contains_key(player);
        let sessions = players.entry(player.clone()).or_default();
        change(sessions);
        if sessions.is_empty() {
            players.remove(player);
        }
        let is_there = players.contains_key(player);
        if players.is_empty() {
            self.channels.remove(channel);
        }
        let player = vec![player.clone()];
        let change = match (was_there, is_there) {
            (false, true) => PresenceChange { joined: player, left: Vec::new() },
            (true, false) => PresenceChange { joined: Vec::new(), left: player },
            _ => return None,
        };
        let is_notified = self.notified.contains(channel);
        is_notified.then(|| (format!("{RESERVED}presence:{channel}").into(), change.to_payload()))
    }

    /// This start of a node has died: what is still of it at this time is removed.
    pub fn died(&mut self, instance: &Arc<str>, removed_ms: u64) {
        self.dead.push_back((removed_ms, instance.clone()));
    }

    /// Removes what dead nodes have left. Returns what is then to be published.
    pub fn remove_dead(&mut self, now_ms: u64) -> Vec<Published> {
        let mut published = Vec::new();
        while let Some((_, dead)) = self.dead.pop_front_if(|(at, _)| *at <= now_ms) {
            let is_of =
                |sessions: &BTreeMap<SessionHash, Held>| sessions.values().any(|held| held.instance == dead);
            let of_channel = |(channel, players): (&Arc<str>, &Players)| {
                let left = players.iter().filter(|(_, sessions)| is_of(sessions));
                left.map(|(player, _)| (channel.clone(), player.clone())).collect::<Vec<_>>()
            };
            let left: Vec<_> = self.channels.iter().flat_map(of_channel).collect();
            for (channel, player) in left {
                let remove = |sessions: &mut BTreeMap<SessionHash, Held>| {
                    sessions.retain(|_, held| held.instance != dead);
                };
                published.extend(self.change(&channel, &player, remove));
            }
        }
        published
    }

    /// The players of a channel, with the number of their sessions.
    pub fn players(&self, channel: &str) -> Vec<(String, usize)> {
        let players = self.channels.get(channel).into_iter().flatten();
        players.map(|(player, sessions)| (player.to_string(), sessions.len())).collect()
    }

    /// The page behind a player.
    pub fn page(&self, channel: &str, after: Option<&str>, limit: usize) -> PresencePage {
        let none = BTreeMap::new();
        let players = self.channels.get(channel).unwrap_or(&none);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = players.range::<str, _>((from, Bound::Unbounded));
        let page =
            rest.by_ref().take(limit).map(|(player, all)| (player.clone(), all.len() as u64)).collect();
        PresencePage { players: page, total: players.len() as u64, has_more: rest.next().is_some() }
    }

    /// Whether no session is present anywhere.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// All of it is lost.
    pub fn clear(&mut self) {
        self.channels.clear();
    }
}
