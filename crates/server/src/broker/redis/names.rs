//! What things are called in Redis. This is the only place that knows the two prefixes: channels, patterns, streams and keys
//! get them on the way out and lose them on the way in, so that the rest of the node, and its players, see plain names.
//! Pure functions.
//!
//! `channel_prefix` comes first in every name, so one ACL pattern covers all that an environment has in Redis:
//!
//! | what | name |
//! |---|---|
//! | channel, pattern, stream | `prod:` `room:42` |
//! | table | `prod:` `drawbridge:` `{prod:room:42}:entities` |
//! | log | `prod:` `drawbridge:` `{prod:room:42}:log`, `…:position`, `…:once:KEY` |
//! | views, sessions | `prod:` `drawbridge:` `{player:alice}:views`, `…:session:HASH` |
//! | presence | `prod:` `drawbridge:` `{prod:room:42}:members`, `…:players` |
//! | delivery probes | `prod:` `drawbridge:` `probe:RANDOM:LINK`, `sharded-probe:RANDOM:LINK:NUMBER` |
//! | of one start of a node | `prod:` `drawbridge:` `{node:n1-5f…}:sessions`, `…:presence` |
//! | leases | `prod:` `drawbridge:` `{nodes}:leases`, `…:about`, `…:claims` |
//!
//! A hash tag decides the slot in a Cluster, and all keys of one function call have the same: a channel's whole name, so that
//! services can call functions with the channel as their key, or a player, or a node.

use std::borrow::Cow;

use drawbridge_engine::io::SessionHash;

use super::slot_names::end_in_slot;

/// What the channels of sharded delivery probes begin with, behind the prefixes.
const SHARDED_PROBE: &str = "sharded-probe:";

/// The prefixes of one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    channel_prefix: Box<str>,
    key_prefix: Box<str>,
}

impl Names {
    /// `channel_prefix` may be empty, and holds neither braces nor glob characters. `key_prefix` is that of Drawbridge's own
    /// keys.
    pub fn new(channel_prefix: &str, key_prefix: &str) -> Self {
        Names { channel_prefix: channel_prefix.into(), key_prefix: key_prefix.into() }
    }

    /// The prefix of everything that this environment has in Redis.
    pub(super) fn channel_prefix(&self) -> &str {
        &self.channel_prefix
    }

    /// The prefix of Drawbridge's own keys, behind [`Names::channel_prefix`].
    pub(super) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// A channel, a pattern or a stream as Redis knows it.
    pub(super) fn outward<'n>(&self, name: &'n str) -> Cow<'n, str> {
        match &*self.channel_prefix {
            "" => Cow::Borrowed(name),
            prefix => Cow::Owned(format!("{prefix}{name}")),
        }
    }

    /// A channel or pattern of Redis as the node knows it; `None`: it is not of this environment.
    pub(super) fn inward<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        name.strip_prefix(self.channel_prefix.as_bytes())
    }

    /// Where an entity channel's table is; the functions find it by the same rule.
    pub(super) fn table_key(&self, channel: &str) -> String {
        self.channel_key(channel, "entities")
    }

    /// The keys of an entity channel's table: its rows, and when each entity had its last event.
    pub(super) fn table_keys(&self, channel: &str) -> [String; 2] {
        ["entities", "heard"].map(|part| self.channel_key(channel, part))
    }

    /// Where the log of a channel is, and its position; the functions find them by the same rule.
    pub(super) fn log_keys(&self, channel: &str) -> [String; 2] {
        ["log", "position"].map(|part| self.channel_key(channel, part))
    }

    /// Where it is stored that an event with this idempotency key is in the log of this channel.
    pub(super) fn once_key(&self, channel: &str, once: &str) -> String {
        self.channel_key(channel, &format!("once:{once}"))
    }

    /// A key of a channel, in the channel's own slot.
    fn channel_key(&self, channel: &str, part: &str) -> String {
        let Names { channel_prefix, key_prefix } = self;
        format!("{channel_prefix}{key_prefix}{{{channel_prefix}{channel}}}:{part}")
    }

    /// Where a player's views are.
    pub(super) fn views_key(&self, player: &str) -> String {
        let Names { channel_prefix, key_prefix } = self;
        format!("{channel_prefix}{key_prefix}{{player:{player}}}:views")
    }

    /// Where the record of a player's session is.
    pub(super) fn session_key(&self, player: &str, session: SessionHash) -> String {
        let Names { channel_prefix, key_prefix } = self;
        format!("{channel_prefix}{key_prefix}{{player:{player}}}:session:{session}")
    }

    /// The set of the sessions whose records a node has written, by the node's instance.
    pub(super) fn node_sessions_key(&self, instance: &str) -> String {
        let Names { channel_prefix, key_prefix } = self;
        format!("{channel_prefix}{key_prefix}{{node:{instance}}}:sessions")
    }

    /// The set of the channels on which a node's sessions are present.
    pub(super) fn node_presence_key(&self, instance: &str) -> String {
        let Names { channel_prefix, key_prefix } = self;
        format!("{channel_prefix}{key_prefix}{{node:{instance}}}:presence")
    }

    /// Where the nodes' leases are, what nodes say of themselves, and who cleans up behind dead ones.
    pub(super) fn lease_keys(&self) -> [String; 3] {
        let Names { channel_prefix, key_prefix } = self;
        ["leases", "about", "claims"].map(|part| format!("{channel_prefix}{key_prefix}{{nodes}}:{part}"))
    }

    /// Who is present on a channel, and the players among them in order.
    pub(super) fn presence_keys(&self, channel: &str) -> [String; 2] {
        let Names { channel_prefix, key_prefix } = self;
        ["members", "players"]
            .map(|part| format!("{channel_prefix}{key_prefix}{{{channel_prefix}{channel}}}:{part}"))
    }

    /// The channel, as Redis knows it, on which a channel's subscribers are notified of who comes and goes
    /// ([`presence_channel`](drawbridge_engine::settings::Reserved::presence_channel)).
    pub(super) fn presence_notices(&self, channel: &str) -> String {
        let Names { channel_prefix, key_prefix } = self;
        format!("{channel_prefix}{key_prefix}presence:{channel}")
    }

    /// The channel of the delivery probes of a link. `random` keeps the channels of different nodes distinct, even if two nodes have the same name.
    pub(super) fn probe_channel(&self, random: u64, link: usize) -> String {
        format!("{}probe:{random:016x}:{link}", self.key_prefix)
    }

    /// As [`Names::probe_channel`], of a link of sharded channels: in this slot.
    pub(super) fn sharded_probe_channel(&self, random: u64, link: usize, slot: u16) -> String {
        let begin = format!("{}{SHARDED_PROBE}{random:016x}:{link}:", self.key_prefix);
        let end = end_in_slot(self.outward(&begin).as_bytes(), slot);
        begin + &end
    }

    /// Whether it is one of these: sharded, though it is of no class.
    pub(super) fn is_sharded_probe(&self, channel: &str) -> bool {
        channel.strip_prefix(&*self.key_prefix).is_some_and(|rest| rest.starts_with(SHARDED_PROBE))
    }

    /// An error that Redis returned, as players may read it: the names in it are without the prefix.
    pub(in crate::broker) fn hidden_in<'w>(&self, message: &'w str) -> Cow<'w, str> {
        let prefix = &*self.channel_prefix;
        if prefix.is_empty() || !message.contains(prefix) {
            return Cow::Borrowed(message);
        }
        // A name begins here; elsewhere the same characters are the end of a word, or of a longer name.
        let begins = |at: &usize| {
            !message[..*at]
                .ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '-' | '_' | '/'))
        };
        let (mut hidden, mut from) = (String::with_capacity(message.len()), 0);
        for at in message.match_indices(prefix).map(|(at, _)| at).filter(begins) {
            hidden.push_str(&message[from..at]);
            from = at + prefix.len();
        }
        hidden.push_str(&message[from..]);
        Cow::Owned(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_prefix_stay_as_they_are() {
        let names = Names::new("", "drawbridge:");
        assert_eq!(names.outward("room:42"), "room:42");
        assert_eq!(names.inward(b"room:42"), Some(b"room:42".as_slice()));
        assert_eq!(names.table_key("room:42"), "drawbridge:{room:42}:entities");
        assert_eq!(names.views_key("alice"), "drawbridge:{player:alice}:views");
        assert_eq!(names.hidden_in("NOPERM room:42"), "NOPERM room:42");
    }

    #[test]
    fn a_prefix_begins_every_name_and_is_taken_off_again() {
        let names = Names::new("prod:", "drawbridge:");
        assert_eq!(names.outward("room:4*"), "prod:room:4*");
        assert_eq!(names.inward(b"prod:room:4*"), Some(b"room:4*".as_slice()));
        assert_eq!(names.inward(b"test:room:4*"), None);
        assert_eq!(names.table_key("room:42"), "prod:drawbridge:{prod:room:42}:entities");
        assert_eq!(names.views_key("alice"), "prod:drawbridge:{player:alice}:views");
        assert_eq!(names.hidden_in("NOPERM no right to 'prod:room:42'"), "NOPERM no right to 'room:42'");
        let key = "WRONGTYPE prod:drawbridge:{prod:room:42}:entities";
        assert_eq!(names.hidden_in(key), "WRONGTYPE drawbridge:{room:42}:entities");
        assert_eq!(names.hidden_in("prod:prod:room of nonprod:room"), "prod:room of nonprod:room");
    }

    #[test]
    fn a_short_prefix_takes_nothing_out_of_words() {
        let names = Names::new("s:", "drawbridge:");
        let (message, hidden) =
            ("ERR wrong arguments: s:room, 's:hall'", "ERR wrong arguments: room, 'hall'");
        assert_eq!(names.hidden_in(message), hidden);
    }

    /// What is between the first `{` and the next `}`.
    fn hash_tag(key: &str) -> Option<&str> {
        key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag)
    }

    #[test]
    fn the_keys_of_one_call_have_one_slot() {
        for prefix in ["", "prod:"] {
            let names = Names::new(prefix, "drawbridge:");
            let channel = names.outward("room:42").into_owned();
            let [log, position] = names.log_keys("room:42");
            for key in [names.table_key("room:42"), log, position, names.once_key("room:42", "{a}")] {
                assert_eq!(hash_tag(&key), Some(&*channel));
            }
            for key in [names.presence_keys("room:42"), names.table_keys("room:42")].concat() {
                assert_eq!(hash_tag(&key), Some(&*channel));
            }
            for key in names.lease_keys() {
                assert_eq!(hash_tag(&key), Some("nodes"));
            }
            let session = SessionHash(7);
            assert_eq!(hash_tag(&names.session_key("alice", session)), Some("player:alice"));
            assert_eq!(hash_tag(&names.views_key("alice")), Some("player:alice"));
            assert_eq!(hash_tag(&names.node_sessions_key("n1-a")), Some("node:n1-a"));
            assert_eq!(hash_tag(&names.node_presence_key("n1-a")), Some("node:n1-a"));
        }
    }

    #[test]
    fn an_environment_prefix_begins_what_nodes_keep_of_each_other() {
        let names = Names::new("prod:", "drawbridge:");
        let session = names.session_key("alice", SessionHash(7));
        assert_eq!(session, "prod:drawbridge:{player:alice}:session:00000000000000000000000000000007");
        assert_eq!(names.lease_keys()[0], "prod:drawbridge:{nodes}:leases");
        assert_eq!(names.presence_keys("room:42")[1], "prod:drawbridge:{prod:room:42}:players");
        assert_eq!(names.presence_notices("room:42"), "prod:drawbridge:presence:room:42");
    }
}
