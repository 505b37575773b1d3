//! Who is present, as the memory broker keeps it: the same semantics as the functions in Redis, for the one node there is.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use drawbridge_engine::io::{PresenceChange, PresencePage, SessionHash};
use hashbrown::HashMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PresenceStore {
    /// Of each channel the players, each with its sessions there and the generation under which they came.
    channels: HashMap<Arc<str>, Players>,
}

type Players = BTreeMap<Arc<str>, BTreeMap<SessionHash, u64>>;

impl PresenceStore {
    /// Writes whether a session is present. Returns what changed for the channel's players, if anything did.
    pub(super) fn write(
        &mut self,
        channel: &Arc<str>,
        player: &Arc<str>,
        session: SessionHash,
        generation: u64,
        is_present: bool,
    ) -> Option<PresenceChange> {
        let named = || vec![player.clone()];
        if is_present {
            let sessions =
                self.channels.entry(channel.clone()).or_default().entry(player.clone()).or_default();
            let is_first = sessions.is_empty();
            let stored = sessions.entry(session).or_default();
            *stored = generation.max(*stored);
            return is_first.then(|| PresenceChange { joined: named(), left: Vec::new() });
        }
        let players = self.channels.get_mut(channel)?;
        let sessions = players.get_mut(player)?;
        // Who has it under a later generation stays.
        sessions.get(&session).filter(|stored| **stored <= generation)?;
        sessions.remove(&session);
        if !sessions.is_empty() {
            return None;
        }
        players.remove(player);
        if players.is_empty() {
            self.channels.remove(channel);
        }
        Some(PresenceChange { joined: Vec::new(), left: named() })
    }

    /// The players behind `after`, in their order.
    pub(super) fn page(&self, channel: &str, after: Option<&Arc<str>>, limit: usize) -> PresencePage {
        let Some(players) = self.channels.get(channel) else { return PresencePage::default() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = players.range::<Arc<str>, _>((from, Bound::Unbounded));
        let page =
            rest.by_ref().take(limit).map(|(player, sessions)| (player.clone(), sessions.len() as u64));
        let players_of_page = page.collect();
        PresencePage {
            players: players_of_page,
            total: players.len() as u64,
            has_more: rest.next().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: &str = "room:1";

    fn write(
        store: &mut PresenceStore,
        player: &str,
        session: u128,
        generation: u64,
        is_present: bool,
    ) -> String {
        let change =
            store.write(&CHANNEL.into(), &player.into(), SessionHash(session), generation, is_present);
        change.map_or(String::new(), |change| String::from_utf8_lossy(&change.to_payload()).into_owned())
    }

    #[test]
    fn a_player_counts_once_however_many_sessions_it_has() {
        let mut store = PresenceStore::default();
        assert_eq!(write(&mut store, "alice", 1, 1, true), r#"{"joined":["alice"],"left":[]}"#);
        assert_eq!(write(&mut store, "alice", 2, 1, true), "");
        assert_eq!(write(&mut store, "alice", 2, 1, true), "", "written again");
        assert_eq!(store.page(CHANNEL, None, 9).players, [("alice".into(), 2)]);
        assert_eq!(write(&mut store, "alice", 1, 1, false), "");
        assert_eq!(write(&mut store, "alice", 3, 1, false), "", "it was not there");
        assert_eq!(write(&mut store, "alice", 2, 1, false), r#"{"joined":[],"left":["alice"]}"#);
        assert!(store.channels.is_empty());
    }

    #[test]
    fn a_leave_takes_away_nothing_of_a_later_generation() {
        let mut store = PresenceStore::default();
        write(&mut store, "alice", 1, 2, true);
        assert_eq!(write(&mut store, "alice", 1, 1, false), "");
        assert_eq!(store.page(CHANNEL, None, 9).total, 1);
        write(&mut store, "alice", 1, 2, false);
        assert_eq!(store.page(CHANNEL, None, 9), PresencePage::default());
    }

    #[test]
    fn ten_thousand_players_come_page_by_page_in_their_order() {
        let mut store = PresenceStore::default();
        let mut players: Vec<String> = (0..10_000).map(|n| format!("p{n}")).collect();
        for (n, player) in players.iter().enumerate() {
            write(&mut store, player, n as u128, 1, true);
        }
        players.sort();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.page(CHANNEL, after.as_ref(), 1_000);
            assert_eq!(page.total, 10_000);
            after = page.players.last().map(|(player, _)| player.clone());
            found.extend(page.players.into_iter().map(|(player, _)| player.to_string()));
            if !page.has_more {
                break;
            }
        }
        assert_eq!(found, players);
    }
}
