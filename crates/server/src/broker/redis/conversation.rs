//! What a link has asked of Redis and what answers it: Redis answers commands in order, a subscription command
//! with one push for each name or with one error for all. No I/O: bytes to send are left in a buffer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use drawbridge_engine::class::ShardedChannels;
use drawbridge_engine::io::Subject;
use drawbridge_engine::upstream::{LinkCommand, SlotHasher};

use super::connect::Broken;
use super::resp::{Garbage, SubscriptionKind, encode, member};
use super::{Names, RedisSettings, code_of, is_moving, is_passing};
use crate::broker::hub_driver::HubCommand;

/// What the next answer is for.
#[derive(Debug)]
enum Asked {
    Hello,
    Ping,
    Fence(Box<HubCommand>),
    /// The marker of a move was published.
    Mark(Arc<str>),
    Subjects {
        begins: bool,
        kind: SubscriptionKind,
        left: VecDeque<Subject>,
    },
}

/// What an error or another answer means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Redis speaks RESP3 with us.
    Welcome,
    /// A ping came back, from a master as far as is known.
    Pong,
    /// All that Redis had published when this was handed in has been read.
    Behind(Box<HubCommand>),
    /// The marker of a move is published; both links read it.
    Marked,
    /// Redis refused this subscription, or the marker of a move.
    Refused(Subject),
    /// Redis refused several at once: each is requested again by itself.
    AskedAgain,
    /// The answer to an unsubscribe whose channels Redis had already unsubscribed by itself, because their slot moved: nothing is to be
    /// done.
    EndedBefore,
    /// These channels' slot is another master's, or on its way to one: they cannot be subscribed to here just now, or are not.
    Elsewhere {
        /// Whether they were to be subscribed to.
        begins: bool,
        /// Which.
        subjects: VecDeque<Subject>,
    },
}

/// A subscription begins or ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Confirmation {
    /// Of what.
    pub(super) subject: Subject,
    /// It answers a command. Redis ends subscriptions by itself where their slot goes to another master.
    pub(super) is_answer: bool,
}

/// One connection's requests and answers.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    names: Names,
    sharded: ShardedChannels,
    /// In a Cluster: one command may be about channels of one slot alone.
    slots: Option<SlotHasher>,
    /// Bytes to send, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    asked: VecDeque<Asked>,
}

impl Conversation {
    /// One in which channels have these names, and these of them are sharded. `slots`: with a server of a Cluster.
    pub(super) fn new(names: Names, sharded: ShardedChannels, slots: Option<SlotHasher>) -> Self {
        Conversation { names, sharded, slots, ..Conversation::default() }
    }

    /// The bytes to send.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So many of them are sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.out.len() {
            self.sent = 0;
            self.out.clear();
            self.out.shrink_to(64 * 1024);
        }
    }

    /// Introduces itself.
    pub(super) fn hello(&mut self, settings: &RedisSettings, name: Option<&str>) {
        let mut parts: Vec<&[u8]> = vec![b"HELLO", b"3"];
        let password = settings.password.as_ref().map(|password| password.current());
        if let Some(password) = &password {
            let username = settings.username.as_deref().unwrap_or("default");
            parts.extend([b"AUTH", username.as_bytes(), password.expose().as_bytes()]);
        }
        if let Some(name) = name {
            parts.extend([b"SETNAME", name.as_bytes()]);
        }
        encode(&mut self.out, parts.into_iter());
        self.asked.push_back(Asked::Hello);
    }

    /// Checks that Redis answers, and that it still is the master: `HELLO` returns both, and every user may send it.
    pub(super) fn ping(&mut self) {
        encode(&mut self.out, [b"HELLO".as_slice(), b"3"].into_iter());
        self.asked.push_back(Asked::Ping);
    }

    /// Returns the hub command ([`Answer::Behind`]) once all that Redis has published until now is read.
    pub(super) fn fence(&mut self, hub_command: HubCommand) {
        encode(&mut self.out, [b"PING".as_slice()].into_iter());
        self.asked.push_back(Asked::Fence(hub_command.into()));
    }

    /// The connection has ended: shards that wait behind something need not wait any more. What was read of tables is of
    /// no use.
    pub(super) fn fences(&mut self) -> Vec<HubCommand> {
        let asked = std::mem::take(&mut self.asked).into_iter();
        let hub_command = |asked| match asked {
            Asked::Fence(hub_command) => {
                Some(*hub_command).filter(|hub_command| matches!(hub_command, HubCommand::Query(..)))
            }
            _ => None,
        };
        asked.filter_map(hub_command).collect()
    }

    /// Sends what the hub wants.
    pub(super) fn send(&mut self, command: LinkCommand) {
        let (begins, mut subjects) = match command {
            LinkCommand::Subscribe(subjects) => (true, subjects),
            LinkCommand::Unsubscribe(subjects) => (false, subjects),
            LinkCommand::Mark(marker) => {
                let name = self.names.outward(&marker);
                encode(&mut self.out, [b"PUBLISH".as_slice(), name.as_bytes(), b""].into_iter());
                return self.asked.push_back(Asked::Mark(marker));
            }
        };
        for kind in [SubscriptionKind::Channel, SubscriptionKind::Pattern, SubscriptionKind::Sharded] {
            let is_of_kind = |subject: &mut Subject| self.kind_of(subject) == kind;
            let of_kind = subjects.extract_if(.., is_of_kind).collect::<VecDeque<_>>();
            match self.slots {
                Some(slots) if kind == SubscriptionKind::Sharded => self.ask_by_slot(begins, slots, of_kind),
                _ if of_kind.is_empty() => {}
                _ => self.ask(begins, kind, of_kind),
            }
        }
    }

    /// One command for each slot: Redis refuses one about several.
    fn ask_by_slot(&mut self, begins: bool, slots: SlotHasher, subjects: VecDeque<Subject>) {
        let mut by_slot: BTreeMap<u16, VecDeque<Subject>> = BTreeMap::new();
        for subject in subjects {
            by_slot.entry(slots.slot_of(&subject.name)).or_default().push_back(subject);
        }
        for subjects in by_slot.into_values() {
            self.ask(begins, SubscriptionKind::Sharded, subjects);
        }
    }

    /// By which command a subject is subscribed to.
    fn kind_of(&self, subject: &Subject) -> SubscriptionKind {
        match subject.is_pattern() {
            true => SubscriptionKind::Pattern,
            false if self.sharded.contain(&subject.name) || self.names.is_sharded_probe(&subject.name) => {
                SubscriptionKind::Sharded
            }
            false => SubscriptionKind::Channel,
        }
    }

    /// One command about subjects of one kind.
    fn ask(&mut self, begins: bool, kind: SubscriptionKind, subjects: VecDeque<Subject>) {
        let command: &[u8] = match (begins, kind) {
            (true, SubscriptionKind::Channel) => b"SUBSCRIBE",
            (true, SubscriptionKind::Pattern) => b"PSUBSCRIBE",
            (true, SubscriptionKind::Sharded) => b"SSUBSCRIBE",
            (false, SubscriptionKind::Channel) => b"UNSUBSCRIBE",
            (false, SubscriptionKind::Pattern) => b"PUNSUBSCRIBE",
            (false, SubscriptionKind::Sharded) => b"SUNSUBSCRIBE",
        };
        let names: Vec<_> = subjects.iter().map(|subject| self.names.outward(&subject.name)).collect();
        let parts: Vec<&[u8]> =
            std::iter::once(command).chain(names.iter().map(|name| name.as_bytes())).collect();
        encode(&mut self.out, parts.into_iter());
        self.asked.push_back(Asked::Subjects { begins, kind, left: subjects });
    }

    /// Redis confirmed that a subscription begins or ends; returns its subject.
    pub(super) fn confirmed(
        &mut self,
        begins: bool,
        kind: SubscriptionKind,
        name: &[u8],
    ) -> Result<Confirmation, Broken> {
        let name =
            self.names.inward(name).ok_or(Garbage("a confirmation of another environment's channel"))?;
        if let Some(Asked::Subjects { begins: asked_begins, kind: asked_kind, left }) = self.asked.front_mut()
            && (*asked_begins, *asked_kind) == (begins, kind)
            && left.front().is_some_and(|subject| subject.name.as_bytes() == name)
            && let Some(subject) = left.pop_front()
        {
            if left.is_empty() {
                self.asked.pop_front();
            }
            return Ok(Confirmation { subject, is_answer: true });
        }
        let subject = match std::str::from_utf8(name) {
            // Redis may end a subscription unasked.
            Ok(name) if !begins && kind == SubscriptionKind::Pattern => Subject::pattern(name),
            Ok(name) if !begins => Subject::channel(name),
            _ => return Err(Garbage("a confirmation of no command").into()),
        };
        Ok(Confirmation { subject, is_answer: false })
    }

    /// Redis answered with something that is no push.
    pub(super) fn answered(&mut self, answer: &[u8]) -> Result<Answer, Broken> {
        let text = |name: &str| std::str::from_utf8(member(answer, name.as_bytes())?).ok();
        let is_master = || Broken::unless_master(text("role"), text("mode"));
        match self.asked.pop_front() {
            Some(Asked::Hello) => is_master().map(|()| Answer::Welcome),
            Some(Asked::Ping) => is_master().map(|()| Answer::Pong),
            Some(Asked::Fence(hub_command)) => Ok(Answer::Behind(hub_command)),
            Some(Asked::Mark(_)) => Ok(Answer::Marked),
            _ => Err(Garbage("an answer to no command").into()),
        }
    }

    /// Whether the next answer belongs to a command about sharded channels of this slot; `None`: of any slot.
    fn asks_about_slot(&self, slot: Option<u16>) -> bool {
        let Some(Asked::Subjects { kind: SubscriptionKind::Sharded, left, .. }) = self.asked.front() else {
            return false;
        };
        let of_next = self.slots.zip(left.front()).map(|(slots, subject)| slots.slot_of(&subject.name));
        slot.is_none_or(|slot| of_next == Some(slot))
    }

    /// Redis answered with an error.
    pub(super) fn failed(&mut self, message: &str) -> Result<Answer, Broken> {
        let is_elsewhere = self.slots.is_some() && is_elsewhere(message);
        if is_elsewhere && !self.asks_about_slot(slot_in(message)) {
            return Ok(Answer::EndedBefore);
        }
        match self.asked.pop_front() {
            Some(Asked::Subjects { begins, kind: SubscriptionKind::Sharded, left }) if is_elsewhere => {
                Ok(Answer::Elsewhere { begins, subjects: left })
            }
            // Refused for all where the right to one is missing, so ask for each.
            Some(Asked::Subjects { begins: true, kind, left }) if left.len() > 1 => {
                for subject in left {
                    self.ask(true, kind, VecDeque::from([subject]));
                }
                Ok(Answer::AskedAgain)
            }
            Some(Asked::Subjects { begins: true, mut left, .. })
                if !is_passing(message) && code_of(message) != "NOAUTH" =>
            {
                left.pop_front()
                    .map(Answer::Refused)
                    .ok_or_else(|| Garbage("an error that answers no command").into())
            }
            // Whatever it says, Redis is alive.
            Some(Asked::Ping) if code_of(message) != "NOAUTH" => Ok(Answer::Pong),
            Some(Asked::Fence(hub_command)) if code_of(message) != "NOAUTH" => {
                Ok(Answer::Behind(hub_command))
            }
            // The link that takes waits for it in vain: as if it could not subscribe to it.
            Some(Asked::Mark(marker)) if code_of(message) != "NOAUTH" => {
                Ok(Answer::Refused(Subject::channel(marker)))
            }
            _ => Err(Broken::refused(message)),
        }
    }
}

/// The slot that a redirection names: `MOVED 3999 127.0.0.1:6381`.
fn slot_in(message: &str) -> Option<u16> {
    message.split(' ').nth(1)?.parse().ok()
}

/// Whether an error says that a slot is another master's, or on its way, or has none just now.
fn is_elsewhere(message: &str) -> bool {
    is_moving(message) || code_of(message) == "CLUSTERDOWN"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_engine::class::{Class, Classes};
    use drawbridge_engine::settings::Reserved;
    use drawbridge_engine::upstream::ShardId;
    use drawbridge_protocol::template::ClassName;

    use super::super::client_name;
    use super::*;

    const MASTER: &[u8] = b"%2\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";
    const REPLICA: &[u8] = b"%2\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$7\r\nreplica\r\n";
    const SENTINEL: &[u8] = b"%1\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n";

    #[test]
    fn a_redis_that_is_no_master_breaks_the_link_at_its_start_and_later() {
        for (answer, is_good) in [(MASTER, true), (b"%0\r\n", true), (REPLICA, false), (SENTINEL, false)] {
            let mut conversation = Conversation::default();
            conversation.hello(&super::super::tests::settings(), None);
            conversation.ping();
            for _ in 0..2 {
                let answered = conversation.answered(answer);
                assert_eq!(answered.is_ok(), is_good, "{answered:?}");
                assert_eq!(matches!(answered, Err(Broken::NotMaster(_))), !is_good);
            }
        }
    }

    const CHANNEL: SubscriptionKind = SubscriptionKind::Channel;
    const PATTERN: SubscriptionKind = SubscriptionKind::Pattern;
    const SHARDED: SubscriptionKind = SubscriptionKind::Sharded;

    fn sent(conversation: &mut Conversation) -> String {
        let text = String::from_utf8(conversation.unsent().to_vec()).unwrap();
        conversation.sent(text.len());
        text.split("\r\n")
            .filter(|part| !part.starts_with(['*', '$']))
            .collect::<Vec<_>>()
            .join(" ")
            .trim_end()
            .into()
    }

    fn subjects() -> Vec<Subject> {
        vec![Subject::channel("a"), Subject::pattern("p?"), Subject::channel("b")]
    }

    #[test]
    fn subscribes_channels_and_patterns_in_one_go_and_knows_each_answer() {
        let mut conversation = Conversation::default();
        conversation.send(LinkCommand::Subscribe(subjects()));
        assert_eq!(sent(&mut conversation), "SUBSCRIBE a b PSUBSCRIBE p?");
        assert_eq!(conversation.confirmed(true, CHANNEL, b"a").unwrap().subject, Subject::channel("a"));
        assert_eq!(conversation.confirmed(true, CHANNEL, b"b").unwrap().subject, Subject::channel("b"));
        assert_eq!(conversation.confirmed(true, PATTERN, b"p?").unwrap().subject, Subject::pattern("p?"));
        conversation.send(LinkCommand::Unsubscribe(vec![Subject::channel("a")]));
        assert_eq!(sent(&mut conversation), "UNSUBSCRIBE a");
        assert_eq!(conversation.confirmed(false, CHANNEL, b"a").unwrap().subject, Subject::channel("a"));
        assert!(conversation.asked.is_empty());
    }

    #[test]
    fn names_have_the_prefix_outside_only() {
        let mut conversation =
            Conversation::new(Names::new("prod:", "drawbridge:"), ShardedChannels::default(), None);
        conversation.send(LinkCommand::Subscribe(subjects()));
        assert_eq!(sent(&mut conversation), "SUBSCRIBE prod:a prod:b PSUBSCRIBE prod:p?");
        for (kind, name, subject) in [
            (CHANNEL, "prod:a", Subject::channel("a")),
            (CHANNEL, "prod:b", Subject::channel("b")),
            (PATTERN, "prod:p?", Subject::pattern("p?")),
        ] {
            assert_eq!(conversation.confirmed(true, kind, name.as_bytes()).unwrap().subject, subject);
        }
        conversation.send(LinkCommand::Unsubscribe(vec![Subject::channel("a")]));
        assert_eq!(sent(&mut conversation), "UNSUBSCRIBE prod:a");
        assert!(conversation.confirmed(false, CHANNEL, b"a").is_err());
    }

    fn with_sharded_rooms(slots: Option<SlotHasher>) -> Conversation {
        let class = Class { sharded: true, ..Class::plain(ClassName::parse("room:{r}").unwrap()) };
        let sharded = ShardedChannels::new(&Classes::new(vec![class]), &Reserved::new("drawbridge:"));
        Conversation::new(Names::new("prod:", "drawbridge:"), sharded, slots)
    }

    #[test]
    fn sharded_channels_have_commands_and_confirmations_of_their_own() {
        let mut conversation = with_sharded_rooms(None);
        let (room, chat) = (Subject::channel("room:1"), Subject::channel("chat:1"));
        conversation.send(LinkCommand::Subscribe(vec![room.clone(), chat.clone()]));
        assert_eq!(sent(&mut conversation), "SUBSCRIBE prod:chat:1 SSUBSCRIBE prod:room:1");
        assert_eq!(conversation.confirmed(true, CHANNEL, b"prod:chat:1").unwrap().subject, chat);
        assert!(conversation.confirmed(true, CHANNEL, b"prod:room:1").is_err());
        assert_eq!(conversation.confirmed(true, SHARDED, b"prod:room:1").unwrap().subject, room);
        conversation.send(LinkCommand::Unsubscribe(vec![room.clone()]));
        assert_eq!(sent(&mut conversation), "SUNSUBSCRIBE prod:room:1");
        // An unsubscription that Redis sends by itself names another channel than the one that was requested.
        assert_eq!(
            conversation.confirmed(false, SHARDED, b"prod:room:2").unwrap().subject,
            Subject::channel("room:2")
        );
        assert_eq!(conversation.confirmed(false, SHARDED, b"prod:room:1").unwrap().subject, room);
        assert!(conversation.asked.is_empty());
    }

    #[test]
    fn in_a_cluster_one_command_is_about_one_slot_and_what_is_elsewhere_is_said_so() {
        let mut conversation = with_sharded_rooms(Some(SlotHasher::with_prefix("prod:")));
        let rooms = || (1..=3).map(|n| Subject::channel(format!("room:{n}"))).collect::<Vec<_>>();
        conversation.send(LinkCommand::Subscribe(rooms()));
        let said = sent(&mut conversation);
        assert_eq!(said.matches("SSUBSCRIBE prod:room:").count(), 3, "{said}");
        let mut names: Vec<String> =
            said.split(' ').filter_map(|word| Some(word.strip_prefix("prod:")?.to_owned())).collect();
        let first = names.remove(0);
        let slot = SlotHasher::with_prefix("prod:").slot_of(&first);
        let moved = conversation.failed(&format!("MOVED {slot} 127.0.0.1:7001")).unwrap();
        let subjects = VecDeque::from([Subject::channel(first)]);
        assert_eq!(moved, Answer::Elsewhere { begins: true, subjects });
        for name in &names {
            let confirmed = conversation.confirmed(true, SHARDED, format!("prod:{name}").as_bytes()).unwrap();
            assert_eq!(confirmed, Confirmation { subject: Subject::channel(name.as_str()), is_answer: true });
        }
        conversation.send(LinkCommand::Unsubscribe(vec![Subject::channel(names[0].as_str())]));
        // Redis has ended it by itself: it has another master.
        let ended = conversation.confirmed(false, SHARDED, format!("prod:{}", names[1]).as_bytes()).unwrap();
        assert_eq!(ended, Confirmation { subject: Subject::channel(names[1].as_str()), is_answer: false });
        let moved = conversation.failed("CLUSTERDOWN Hash slot not served").unwrap();
        assert!(matches!(moved, Answer::Elsewhere { begins: false, .. }), "{moved:?}");
        assert!(conversation.asked.is_empty());
    }

    #[test]
    fn a_redirection_of_what_redis_ended_by_itself_answers_nothing_else() {
        let mut conversation = with_sharded_rooms(Some(SlotHasher::with_prefix("prod:")));
        let slots = SlotHasher::with_prefix("prod:");
        let moved = |name: &str| format!("MOVED {} 127.0.0.1:7001", slots.slot_of(name));
        let room = |n: u32| Subject::channel(format!("room:{n}"));
        conversation.send(LinkCommand::Unsubscribe(vec![room(1)]));
        conversation.send(LinkCommand::Subscribe(vec![room(2)]));
        conversation.ping();
        // The slot left while the unsubscription was on its way.
        assert_eq!(conversation.confirmed(false, SHARDED, b"prod:room:1").unwrap().subject, room(1));
        assert_eq!(conversation.failed(&moved("room:1")).unwrap(), Answer::EndedBefore);
        assert_eq!(conversation.confirmed(true, SHARDED, b"prod:room:2").unwrap().subject, room(2));
        assert_eq!(conversation.failed(&moved("room:1")).unwrap(), Answer::EndedBefore);
        assert_eq!(conversation.answered(MASTER).unwrap(), Answer::Pong);
    }

    #[test]
    fn a_refused_batch_is_asked_for_one_by_one_so_that_only_the_refused_one_is_refused() {
        let mut conversation = Conversation::default();
        conversation.send(LinkCommand::Subscribe(vec![Subject::channel("a"), Subject::channel("b")]));
        conversation.ping();
        sent(&mut conversation);
        assert_eq!(conversation.failed("NOPERM no").unwrap(), Answer::AskedAgain);
        assert_eq!(sent(&mut conversation), "SUBSCRIBE a SUBSCRIBE b");
        assert_eq!(conversation.answered(MASTER).unwrap(), Answer::Pong);
        assert_eq!(conversation.failed("NOPERM no").unwrap(), Answer::Refused(Subject::channel("a")));
        assert_eq!(conversation.confirmed(true, CHANNEL, b"b").unwrap().subject, Subject::channel("b"));
        assert!(conversation.asked.is_empty());
    }

    #[test]
    fn a_fence_returns_its_hub_command_in_its_turn() {
        let hub_command = || HubCommand::Want(ShardId(1), Subject::channel("a"));
        let mut conversation = Conversation::default();
        conversation.ping();
        conversation.fence(hub_command());
        conversation.fence(hub_command());
        assert_eq!(sent(&mut conversation), "HELLO 3 PING PING");
        assert_eq!(conversation.answered(MASTER).unwrap(), Answer::Pong);
        assert_eq!(conversation.answered(b"+PONG\r\n").unwrap(), Answer::Behind(hub_command().into()));
        assert_eq!(conversation.failed("NOPERM ping").unwrap(), Answer::Behind(hub_command().into()));
    }

    #[test]
    fn the_marker_of_a_move_is_published_behind_what_was_asked_before() {
        let mut conversation = Conversation::default();
        conversation.send(LinkCommand::Subscribe(vec![Subject::channel("m")]));
        conversation.send(LinkCommand::Mark("m".into()));
        conversation.send(LinkCommand::Mark("m".into()));
        assert!(sent(&mut conversation).starts_with("SUBSCRIBE m PUBLISH m"));
        assert_eq!(conversation.confirmed(true, CHANNEL, b"m").unwrap().subject, Subject::channel("m"));
        assert_eq!(conversation.answered(b":2\r\n").unwrap(), Answer::Marked);
        assert_eq!(conversation.failed("NOPERM no").unwrap(), Answer::Refused(Subject::channel("m")));
    }

    #[test]
    fn an_answer_out_of_turn_breaks_the_link() {
        let mut conversation = Conversation::default();
        assert!(conversation.answered(b"+PONG\r\n").is_err());
        assert!(conversation.failed("ERR").is_err());
        assert!(conversation.confirmed(true, CHANNEL, b"a").is_err());
        conversation.send(LinkCommand::Subscribe(subjects()));
        assert!(conversation.confirmed(true, CHANNEL, b"b").is_err());
        assert!(conversation.answered(b"+PONG\r\n").is_err());
    }

    #[test]
    fn redis_may_end_a_subscription_unasked() {
        let mut conversation = Conversation::default();
        conversation.send(LinkCommand::Subscribe(vec![Subject::channel("a")]));
        assert_eq!(conversation.confirmed(false, CHANNEL, b"z").unwrap().subject, Subject::channel("z"));
        assert_eq!(conversation.confirmed(true, CHANNEL, b"a").unwrap().subject, Subject::channel("a"));
    }

    #[test]
    fn introduces_itself_with_user_password_and_name() {
        let mut settings = super::super::tests::settings();
        let mut conversation = Conversation::default();
        conversation.hello(&settings, None);
        assert_eq!(sent(&mut conversation), "HELLO 3");
        settings.password = Some(super::super::Rotating::new("pw"));
        settings.client_name = client_name("n\u{e4} 1");
        let name = settings.connection_name("link0");
        conversation.hello(&settings, name.as_deref());
        assert_eq!(sent(&mut conversation), "HELLO 3 AUTH default pw SETNAME drawbridge:n__1:link0");
        settings.username = Some("bridge".into());
        conversation.hello(&settings, None);
        assert_eq!(sent(&mut conversation), "HELLO 3 AUTH bridge pw");
        assert!(!format!("{settings:?}").contains("pw"));
    }
}
