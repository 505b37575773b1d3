//! Who came to a channel and left it since its subscribers were notified last. Who comes and leaves within one window is not
//! named; where changes were missed, subscribers receive `reset` in place of names.
//!
//! A client that reads a page at the same time may have read between the two changes, and then needs the second.
//! So two changes cancel only where no page can have been read between them: the first is not older than the fence behind
//! the last read, and no read is out.

use std::collections::BTreeMap;
use std::sync::Arc;

use drawbridge_protocol::json::{self, JsonKind, Reader, Token};

use hashbrown::HashSet;

use crate::io::{Subject, Ticket};

/// How long changes are collected, at least, in milliseconds.
pub(crate) const WINDOW_MS: u64 = 200;
/// How many players one message names, and so one window of a channel.
pub(crate) const MAX_NAMED: usize = 512;
/// How long one message is, in bytes, about.
pub(crate) const MESSAGE_BYTES: usize = 32 * 1024;
/// How many players of one channel may wait to be named; beyond it they are missed.
const MAX_WAITING: usize = 16_384;
/// The longest notice that is read, in bytes; the store writes shorter ones.
const MAX_NOTICE_BYTES: usize = 64 * 1024;

/// Players who came and left, as the store says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceChange {
    /// Their first session is there.
    pub joined: Vec<Arc<str>>,
    /// Their last session has left.
    pub left: Vec<Arc<str>>,
}

impl PresenceChange {
    /// Reads what the store publishes: `{"joined":["alice"],"left":[]}`.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok().filter(|text| text.len() <= MAX_NOTICE_BYTES)?;
        let mut reader = Reader::new(text);
        let Ok(Token::BeginObject) = reader.next() else { return None };
        let [joined, left] = reader.members(&["joined", "left"]).ok()?;
        reader.end().ok()?;
        let names = |list: Option<json::Value<'_>>| match list {
            None => Some(Vec::new()),
            Some(list) if list.kind == JsonKind::Array => players(list.text),
            Some(_) => None,
        };
        Some(PresenceChange { joined: names(joined)?, left: names(left)? })
    }

    /// As the store publishes it.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, players) in [("{\"joined\":[", &self.joined), ("],\"left\":[", &self.left)] {
            out.extend_from_slice(name.as_bytes());
            for (at, player) in players.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json::push_string(&mut out, player);
            }
        }
        out.extend_from_slice(b"]}");
        out
    }

    /// About what it holds in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.joined.iter().chain(&self.left).map(|player| player.len() + 32).sum()
    }
}

/// The strings of an array whose text has been checked.
fn players(list: &str) -> Option<Vec<Arc<str>>> {
    let mut reader = Reader::new(list);
    let mut players = Vec::new();
    reader.next().ok()?;
    loop {
        let first = match reader.next().ok()? {
            Token::EndArray => return Some(players),
            first => first,
        };
        let value = reader.rest_of_value(first).ok()?;
        let player = value.as_str()?.decode_strict()?;
        if player.is_empty() {
            return None;
        }
        players.push(player.into());
    }
}

/// What the subscribers of one channel are to be notified of, and the subscription by which it comes.
#[derive(Debug)]
pub(crate) struct Notices {
    /// The channel of the store's notices. It is wanted first, and the channel itself once it is confirmed: so no change
    /// behind `CHANNEL_SUBSCRIBED` is missed.
    pub(crate) subject: Subject,
    /// It was confirmed, and the channel is wanted.
    pub(crate) is_ready: bool,
    changes: BTreeMap<Arc<str>, Change>,
    /// Reads of the channel's pages that are out, and the fences behind them.
    reads: HashSet<Ticket>,
    /// Counts the fences that were passed.
    fences: u64,
    /// Counts the changes.
    pub(crate) seq: u64,
    /// Changes were missed.
    is_missed: bool,
    /// When subscribers are notified; 0: there is nothing to notify them of.
    pub(crate) flush_at_ms: u64,
}

/// What happened to one player.
#[derive(Clone, Copy, Debug)]
struct Change {
    is_joined: bool,
    /// Its place among the channel's changes.
    seq: u64,
    /// How many fences had been passed.
    fences: u64,
}

/// What subscribers are notified of at the end of a window.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    pub(crate) joined: Vec<Arc<str>>,
    pub(crate) left: Vec<Arc<str>>,
    /// Of each of these players the place of the change, in the order of the lists, `joined` first.
    pub(crate) seqs: Vec<u64>,
    /// Changes were missed.
    pub(crate) reset: bool,
}

impl Notices {
    pub(crate) fn new(subject: Subject) -> Self {
        Notices {
            subject,
            is_ready: false,
            changes: BTreeMap::new(),
            reads: HashSet::new(),
            fences: 0,
            seq: 0,
            is_missed: false,
            flush_at_ms: 0,
        }
    }

    /// Takes what the store says.
    pub(crate) fn add(&mut self, change: &PresenceChange) {
        let joined = change.joined.iter().map(|player| (player, true));
        for (player, is_joined) in joined.chain(change.left.iter().map(|player| (player, false))) {
            self.seq += 1;
            let (fences, seq) = (self.fences, self.seq);
            let may_cancel = self.reads.is_empty();
            match self.changes.get_mut(player) {
                Some(before) if before.is_joined == is_joined => {}
                Some(before) if may_cancel && before.fences == fences => drop(self.changes.remove(player)),
                Some(before) => (before.is_joined, before.seq) = (is_joined, seq),
                None => drop(self.changes.insert(player.clone(), Change { is_joined, seq, fences })),
            }
        }
        if self.changes.len() > MAX_WAITING {
            self.miss();
        }
    }

    /// A page of the channel is being read.
    pub(crate) fn read_begun(&mut self, read: Ticket) {
        self.reads.insert(read);
    }

    /// It was read, and this fence is sent behind it; `None`: the page is dropped.
    pub(crate) fn read_ended(&mut self, read: Ticket, fence: Option<Ticket>) {
        self.reads.remove(&read);
        self.reads.extend(fence);
    }

    /// Everything that the store had said before the read has come.
    pub(crate) fn fence_passed(&mut self, fence: Ticket) {
        self.reads.remove(&fence);
        self.fences += 1;
    }

    /// Changes were missed.
    pub(crate) fn miss(&mut self) {
        self.changes.clear();
        self.is_missed = true;
    }

    /// The notification of one window; the rest stays for the next one.
    pub(crate) fn flush(&mut self) -> Flushed {
        let mut flushed = Flushed { reset: std::mem::take(&mut self.is_missed), ..Flushed::default() };
        let (mut bytes, mut left) = (0, Vec::new());
        while let Some((player, _)) = self.changes.first_key_value() {
            let named = flushed.joined.len() + flushed.left.len();
            bytes += text_bytes(player);
            if flushed.reset || named >= MAX_NAMED || (named > 0 && bytes > MESSAGE_BYTES) {
                break;
            }
            let Some((player, Change { is_joined, seq, .. })) = self.changes.pop_first() else { break };
            if is_joined {
                flushed.joined.push(player);
                flushed.seqs.push(seq);
            } else {
                flushed.left.push(player);
                left.push(seq);
            }
        }
        flushed.seqs.append(&mut left);
        flushed
    }

    /// Whether there is nothing to notify subscribers of.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.is_missed
    }
}

/// The size of a text as an element of a list, in bytes, at most.
pub(crate) fn text_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn change(joined: &[&str], left: &[&str]) -> PresenceChange {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        PresenceChange { joined: names(joined), left: names(left) }
    }

    fn notices() -> Notices {
        Notices::new(Subject::channel("drawbridge:presence:room:1"))
    }

    #[test]
    fn what_the_store_publishes_is_read_and_nothing_else() {
        let all = change(&["alice", "é\"\\\n9"], &["bob"]);
        assert_eq!(PresenceChange::read(&all.to_payload()), Some(all));
        let read = |text: &str| PresenceChange::read(text.as_bytes());
        assert_eq!(read(r#"{"left":["bob"],"more":1}"#), Some(change(&[], &["bob"])));
        for bad in [
            "",
            "[]",
            "{}x",
            "7",
            r#"{"joined":7}"#,
            r#"{"joined":[7]}"#,
            r#"{"joined":["a"],"left":{}}"#,
            r#"{"joined":[""]}"#,
            r#"{"joined":["\ud800"]}"#,
            r#"{"joined":["a""#,
            r#"{"joined":null}"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let long = change(&["x".repeat(MAX_NOTICE_BYTES).as_str()], &[]);
        assert_eq!(PresenceChange::read(&long.to_payload()), None);
        assert_eq!(PresenceChange::read(b"{\"joined\":[\"\xff\"]}"), None);
    }

    #[test]
    fn who_comes_and_leaves_within_a_window_is_not_named() {
        let mut notices = notices();
        notices.add(&change(&["alice", "bob"], &["carol"]));
        notices.add(&change(&["carol"], &["alice"]));
        notices.add(&change(&["bob"], &["dave"]));
        let flushed = notices.flush();
        assert_eq!((flushed.joined, flushed.left), (vec!["bob".into()], vec!["dave".into()]));
        assert!(notices.is_empty());
    }

    /// A page that was read between two changes shows what the first one did.
    #[test]
    fn two_changes_with_a_read_between_them_do_not_cancel() {
        let (read, fence) = (Ticket(1), Ticket(2));
        let named = |step: usize| {
            let mut notices = notices();
            for at in 0..4 {
                if at == step {
                    notices.add(&change(&[], &["alice"]));
                }
                match at {
                    0 => notices.read_begun(read),
                    1 => notices.read_ended(read, Some(fence)),
                    2 => notices.fence_passed(fence),
                    _ => {}
                }
            }
            notices.add(&change(&["alice"], &[]));
            notices.flush().joined.len()
        };
        // Before the read, while it is out, while the fence is out; behind the fence nothing is left to be read.
        assert_eq!([0, 1, 2, 3].map(named), [1, 1, 1, 0]);
        let mut notices = notices();
        notices.add(&change(&["bob"], &[]));
        notices.read_begun(read);
        notices.read_ended(read, None);
        notices.add(&change(&[], &["bob"]));
        assert!(notices.is_empty(), "nobody got the page");
    }

    #[test]
    fn a_message_names_so_many_and_the_next_ones_the_rest() {
        let mut notices = notices();
        let players: Vec<String> = (0..1_200).map(|n| format!("p{n:04}")).collect();
        notices.add(&change(&players.iter().map(String::as_str).collect::<Vec<_>>(), &[]));
        let mut named = Vec::new();
        while !notices.is_empty() {
            let flushed = notices.flush();
            assert!(flushed.joined.len() <= MAX_NAMED && !flushed.reset);
            named.extend(flushed.joined.iter().map(ToString::to_string));
        }
        assert_eq!(named, players);
        // Long names: by bytes, and one at least.
        let long = ["\n".repeat(4_000), "\r".repeat(4_000), "\t".repeat(6_000)];
        notices.add(&change(&long.each_ref().map(String::as_str), &[]));
        let lengths: Vec<_> =
            std::iter::from_fn(|| (!notices.is_empty()).then(|| notices.flush().joined.len())).collect();
        assert_eq!(lengths, [1, 1, 1]);
    }

    #[test]
    fn too_many_are_missed_and_what_comes_behind_is_told() {
        let mut notices = notices();
        let players: Vec<String> = (0..=MAX_WAITING).map(|n| n.to_string()).collect();
        notices.add(&change(&players.iter().map(String::as_str).collect::<Vec<_>>(), &[]));
        notices.add(&change(&["alice"], &[]));
        assert_eq!(notices.flush(), Flushed { reset: true, ..Flushed::default() });
        assert_eq!(notices.flush().joined, ["alice".into()]);
        assert!(notices.is_empty());
    }
}
