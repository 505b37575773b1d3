//! Who is present, as Redis keeps it: by channel and player the sessions, each with the node and generation that it is of.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use drawbridge_engine::io::{PresenceChange, PresencePage, SessionHash, WriteKind};

use crate::settings::RESERVED;

/// See the module.
#[derive(Debug, Default)]
pub struct PresenceStore(BTreeMap<Arc<str>, Players>);

type Players = BTreeMap<Arc<str>, BTreeMap<SessionHash, u64>>;

impl PresenceStore {
    /// Takes a write of presence; returns what is then to be published, and where.
    pub fn write(&mut self, write: &WriteKind) -> Option<(Arc<str>, Vec<u8>)> {
        let WriteKind::Presence { channel, player, session, generation, is_present, notify } = write else {
            panic!("not of presence: {write:?}")
        };
        let players = self.0.entry(channel.clone()).or_default();
        let was_there = players.contains_key(player);
        let sessions = players.entry(player.clone()).or_default();
        let stored = sessions.get(session).copied().unwrap_or(0);
        if *is_present {
            sessions.insert(*session, stored.max(*generation));
        } else if stored <= *generation {
            sessions.remove(session);
        }
        if sessions.is_empty() {
            players.remove(player);
        }
        let is_there = players.contains_key(player);
        if players.is_empty() {
            self.0.remove(channel);
        }
        let player = vec![player.clone()];
        let change = match (was_there, is_there) {
            (false, true) => PresenceChange { joined: player, left: Vec::new() },
            (true, false) => PresenceChange { joined: Vec::new(), left: player },
            _ => return None,
        };
        notify.then(|| (format!("{RESERVED}presence:{channel}").into(), change.to_payload()))
    }

    /// The players of a channel, with the number of their sessions.
    pub fn players(&self, channel: &str) -> Vec<(String, usize)> {
        let players = self.0.get(channel).into_iter().flatten();
        players.map(|(player, sessions)| (player.to_string(), sessions.len())).collect()
    }

    /// The page behind a player.
    pub fn page(&self, channel: &str, after: Option<&str>, limit: usize) -> PresencePage {
        let none = BTreeMap::new();
        let players = self.0.get(channel).unwrap_or(&none);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = players.range::<str, _>((from, Bound::Unbounded));
        let page =
            rest.by_ref().take(limit).map(|(player, all)| (player.clone(), all.len() as u64)).collect();
        PresencePage { players: page, total: players.len() as u64, has_more: rest.next().is_some() }
    }

    /// Whether no session is present anywhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of it is lost.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
