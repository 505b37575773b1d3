//! One engine, a broker that does as the test says, and sockets whose frames are read as JSON.

use std::sync::Arc;

use drawbridge_engine::class::Class;
use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{
    Answer, BrokerCommand, BrokerEvent, ConnId, EntityChange, Input, LocalOffset, MessageKind, Notice, Now,
    Output, PlayerOverrides, Publication, PublishFailure, Query, QueryKind, Subject, Ticket, Write,
    WriteKind,
};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::Settings;
use drawbridge_engine::upstream::{
    Hub, HubInput, HubOutput, HubSettings, LinkCommand, LoadedTable, ShardId, StoredEntity, StoredTable,
};
use drawbridge_protocol::event::{Event, Payload, PayloadMode};
use drawbridge_protocol::websocket::payload_of;
use drawbridge_protocol::{Encoding, Frame};
use serde_json::{Value, json};

use crate::frames::{self, Content};
use crate::players::{claims, conn, opened};
use crate::presence::PresenceStore;
use crate::settings::{hub_settings, settings};

/// A hub with a stored table behind it, an engine, and what each connection has read.
pub struct Bench {
    /// What the next claim of a session finds.
    pub claimed: Option<drawbridge_engine::io::ClaimedSession>,
    pub now: Now,
    pub engine: Engine,
    hub: Hub,
    pub stored: StoredTable,
    pub read: Vec<Vec<Value>>,
    pub writes: usize,
    /// Messages of arrays, as they came.
    pub arrays: Vec<usize>,
    pub blocked: Vec<bool>,
    pub closed: Vec<Option<u16>>,
    names: Vec<String>,
    pub refreshes: usize,
    /// By which Redis sends a copy, too.
    pub pattern: Option<&'static str>,
    /// What Redis says of every player's views; `None`: it does not answer.
    pub views: Option<Result<PlayerOverrides, Arc<str>>>,
    /// Questions for views that are not answered.
    pub asked: Vec<Ticket>,
    /// Breaks of the link behind which the views are known again.
    pub released: Vec<u64>,
    /// Larger frames are not read.
    pub max_read_bytes: usize,
    /// Who is present, as Redis has it.
    pub presence: PresenceStore,
    /// Every write of presence, in order.
    pub presence_writes: Vec<WriteKind>,
    /// How Redis answers writes of presence; `None`: it takes them.
    pub presence_fails: Option<PublishFailure>,
    /// Every read of presence, in order.
    pub presence_asked: Vec<(Ticket, Arc<str>)>,
    /// Whether Redis answers them.
    pub presence_answers: bool,
    /// Pages of history that are requested; Redis does not answer them.
    pub pages_asked: Vec<(Ticket, Arc<str>)>,
    /// Queries that the engine no longer wants answered.
    pub withdrawn: Vec<Ticket>,
    /// Redis does not answer subscriptions until [`Bench::confirm_subscriptions`] or [`Bench::refuse_subscriptions`].
    pub holds_subscriptions: bool,
    held: Vec<Subject>,
}

impl Bench {
    pub fn new(class: Class, outbound_bytes: usize) -> Self {
        Bench::with_classes(vec![class], outbound_bytes)
    }

    pub fn with_classes(classes: Vec<Class>, outbound_bytes: usize) -> Self {
        Bench::with_settings(classes, |settings| settings.outbound_bytes = outbound_bytes)
    }

    /// With plenty of everything, unless `change` says otherwise.
    pub fn with_settings(classes: Vec<Class>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings(classes);
        change(&mut settings);
        let settings = Arc::new(settings);
        let mut hub = Hub::new(HubSettings { linger_ms: 100, ..hub_settings(&settings, 0, 1) });
        hub.handle(0, HubInput::LinkUp);
        Bench {
            claimed: None,
            now: Now { mono_ms: 1_000, unix_ms: 1_000_000 },
            engine: Engine::new(settings.clone(), SharedLimits::new(&settings)),
            hub,
            stored: StoredTable::default(),
            read: Vec::new(),
            writes: 0,
            arrays: Vec::new(),
            blocked: Vec::new(),
            closed: Vec::new(),
            names: Vec::new(),
            refreshes: 0,
            pattern: None,
            views: Some(Ok([].into())),
            asked: Vec::new(),
            released: Vec::new(),
            max_read_bytes: usize::MAX,
            presence: PresenceStore::default(),
            presence_writes: Vec::new(),
            presence_fails: None,
            presence_asked: Vec::new(),
            presence_answers: true,
            pages_asked: Vec::new(),
            withdrawn: Vec::new(),
            holds_subscriptions: false,
            held: Vec::new(),
        }
    }

    /// Stores so many entities in a square grid with cells of 10 by 10, one in each.
    pub fn store_grid(&mut self, entities: usize, is_public: impl Fn(usize) -> bool) {
        let width = (entities as f64).sqrt().ceil() as usize;
        for n in 0..entities {
            let (x, y) = (n % width * 10, n / width * 10);
            let data =
                json!({ "id": format!("e{n}"), "x": x, "y": y, "hp": n % 100, "public": is_public(n) });
            let payload = json!({ "event": "e", "data": data }).to_string().into();
            self.stored.entities.push(StoredEntity { key: format!("e{n}"), age_ms: 0, payload });
        }
    }

    /// A player of this team, connected.
    pub fn player(&mut self, name: &str, team: &str) -> usize {
        let at = self.opened(name, team);
        assert_eq!(self.take(at)[0]["type"], "WELCOME");
        at
    }

    /// A player who may have to wait for `WELCOME`.
    pub fn player_who_waits(&mut self, name: &str) -> usize {
        self.opened(name, "red")
    }

    /// A connection whose `CONNECT` has these subscriptions; its player is anonymous without a `name`.
    pub fn connect(&mut self, name: Option<&str>, address: u8, subscribe: Value) -> usize {
        self.connect_with(name, address, json!({ "subscribe": subscribe }))
    }

    /// A connection whose `CONNECT` has these members.
    pub fn connect_with(&mut self, name: Option<&str>, address: u8, rest: Value) -> usize {
        let at = self.open(name.unwrap_or_default());
        let mut opened = opened(conn(at), 100 + at as u64, name.map(|name| claims(name, "red")));
        opened.address = [127, 0, 0, address].into();
        opened.wait_for_connect = true;
        self.input(Input::Opened(opened));
        let mut message = json!({ "type": "CONNECT", "id": 1 });
        message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        self.send(at, message);
        at
    }

    /// The socket of this player is gone.
    pub fn lost(&mut self, player: usize) {
        self.input(Input::Closed { conn: conn(player), code: 1006 });
    }

    fn opened(&mut self, name: &str, team: &str) -> usize {
        let at = self.open(name);
        self.input(Input::Opened(opened(conn(at), 100 + at as u64, Some(claims(name, team)))));
        at
    }

    /// Place for one more connection.
    fn open(&mut self, name: &str) -> usize {
        self.read.push(Vec::new());
        self.blocked.push(false);
        self.closed.push(None);
        self.names.push(name.to_owned());
        self.names.len() - 1
    }

    pub fn send(&mut self, player: usize, message: Value) {
        let text = message.to_string();
        let input = Input::Message {
            conn: conn(player),
            kind: MessageKind::Text,
            payload: text.as_bytes(),
            cost_bytes: 0,
        };
        self.input(input);
    }

    pub fn subscribe(&mut self, player: usize, rest: Value) {
        let mut message = json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "world:1" });
        message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        self.send(player, message);
    }

    pub fn update(&mut self, player: usize, rest: Value) {
        let mut message = json!({ "type": "FILTER_UPDATE", "id": 2, "channel": "world:1" });
        message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        self.send(player, message);
    }

    /// A plain publish of a service.
    pub fn publish(&mut self, event: &str, data: Value) {
        self.publish_quietly(event, data);
        self.pump();
    }

    /// As [`Bench::publish`], in the same turn as what follows.
    pub fn publish_quietly(&mut self, event: &str, data: Value) {
        let exact = std::iter::once(None);
        self.copies("world:1", exact.chain(self.pattern.map(Some)), event, data);
    }

    /// A plain publish on a channel that only [`Bench::pattern`] matches.
    pub fn publish_through_pattern(&mut self, channel: &str, event: &str, data: Value) {
        self.copies(channel, self.pattern.map(Some).into_iter(), event, data);
        self.pump();
    }

    fn copies<'p>(
        &mut self,
        channel: &str,
        patterns: impl Iterator<Item = Option<&'p str>>,
        event: &str,
        data: Value,
    ) {
        let payload = json!({ "event": event, "data": data }).to_string();
        for pattern in patterns {
            let (pattern, channel) = (pattern.map(str::as_bytes), channel.as_bytes());
            let payload = payload.as_bytes();
            self.hub.handle(self.now.mono_ms, HubInput::Message { pattern, channel, payload });
        }
        self.broker_says();
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.hub.handle(self.now.mono_ms, HubInput::Tick);
        self.broker_says();
        self.input(Input::Tick);
    }

    pub fn break_link(&mut self) {
        self.hub.handle(self.now.mono_ms, HubInput::LinkDown);
        self.broker_says();
        self.pump();
        self.hub.handle(self.now.mono_ms, HubInput::LinkUp);
        self.broker_says();
        self.pump();
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.engine.handle(self.now, input);
        self.pump();
    }

    /// The socket of this player takes bytes again.
    pub fn unblock(&mut self, player: usize) {
        self.blocked[player] = false;
        self.input(Input::Writable { conn: conn(player) });
    }

    /// Redis answers the queries for views.
    pub fn answer_views(&mut self, views: Result<&[(&str, &str)], &str>) {
        let views = views
            .map(|views| views.iter().map(|(channel, view)| ((*channel).into(), (*view).into())).collect());
        for ticket in std::mem::take(&mut self.asked) {
            let answer = views.clone().map(Answer::ViewOverrides).map_err(Into::into);
            self.input(Input::Broker(BrokerEvent::Answer { ticket, answer }));
        }
    }

    /// Redis answers a read of presence, by its place in [`Bench::presence_asked`].
    pub fn answer_presence(&mut self, at: usize) {
        let (ticket, channel) = self.presence_asked[at].clone();
        let answer = Ok(Answer::Presence(self.presence.page(&channel, None, 1_000)));
        self.input(Input::Broker(BrokerEvent::Answer { ticket, answer }));
    }

    /// Somebody publishes these bytes.
    pub fn publish_raw(&mut self, channel: &str, payload: &[u8]) {
        let (pattern, channel) = (None, channel.as_bytes());
        self.hub.handle(self.now.mono_ms, HubInput::Message { pattern, channel, payload });
        self.broker_says();
        self.pump();
    }

    /// The subscriptions that Redis has not answered.
    pub fn held_subscriptions(&self) -> Vec<&str> {
        self.held.iter().map(|subject| &*subject.name).collect()
    }

    /// Redis confirms all subscriptions that it has not answered.
    pub fn confirm_subscriptions(&mut self) {
        for subject in std::mem::take(&mut self.held) {
            self.hub.handle(self.now.mono_ms, HubInput::Subscribed(&subject));
        }
        self.broker_says();
        self.pump();
    }

    /// Redis refuses all subscriptions that it has not answered.
    pub fn refuse_subscriptions(&mut self) {
        for subject in std::mem::take(&mut self.held) {
            self.hub.handle(self.now.mono_ms, HubInput::Refused { subject: &subject, reason: "NOPERM" });
        }
        self.broker_says();
        self.pump();
    }

    /// What a player has read since.
    pub fn take(&mut self, player: usize) -> Vec<Value> {
        std::mem::take(&mut self.read[player])
    }

    /// As [`Bench::take`], in short.
    pub fn told(&mut self, player: usize) -> Vec<String> {
        self.take(player).iter().map(short).collect()
    }

    /// Does what the engine wants, and what follows from it, in as many turns as that takes.
    pub fn pump(&mut self) {
        self.engine.check();
        self.turn();
        while self.engine.next_deadline_ms().is_some_and(|at| at <= self.now.mono_ms) {
            self.engine.handle(self.now, Input::Tick);
            self.turn();
        }
    }

    /// One turn: does what the engine wants until it has said all, and may have left something to the next one.
    pub fn turn(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { conn, frames } => self.write(conn, frames),
                Output::Close { conn, frames, code, .. } => {
                    let at = conn.index as usize;
                    self.closed[at] = Some(code.as_u16());
                    frames.iter().for_each(|frame| self.see(at, frame));
                }
                Output::Broker(command) => self.carry_out(command),
                // A token is a team.
                Output::Authenticate { conn, token } => {
                    let result = Ok(claims(&self.names[conn.index as usize], &token));
                    self.engine.handle(self.now, Input::Authenticated { conn, result });
                }
                Output::Notice(
                    Notice::OverridesRefused { .. }
                    | Notice::SubscriptionRefused { .. }
                    | Notice::AccessDenied { .. },
                ) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn carry_out(&mut self, command: BrokerCommand) {
        let now = self.now.mono_ms;
        match command {
            BrokerCommand::Want(subject) => {
                self.hub.handle(now, HubInput::Want { shard: ShardId(0), subject });
            }
            BrokerCommand::Unwant(subject) => {
                self.hub.handle(now, HubInput::Unwant { shard: ShardId(0), subject: &subject });
            }
            BrokerCommand::Refresh(subject) => {
                self.refreshes += 1;
                self.hub.handle(now, HubInput::Refresh { shard: ShardId(0), subject: &subject });
            }
            BrokerCommand::Query(Query { ticket, kind: QueryKind::ViewOverrides { .. }, .. }) => {
                match self.views.clone() {
                    Some(views) => {
                        let answer = views.map(Answer::ViewOverrides);
                        self.engine.handle(self.now, Input::Broker(BrokerEvent::Answer { ticket, answer }))
                    }
                    None => self.asked.push(ticket),
                }
            }
            BrokerCommand::Withdraw(ticket) => {
                self.asked.retain(|asked| *asked != ticket);
                self.withdrawn.push(ticket);
            }
            BrokerCommand::Recovered(token) => self.released.push(token.round()),
            BrokerCommand::Write(Write { ticket: Some(ticket), kind, .. }) => match kind {
                WriteKind::Presence { .. } => self.presence_written(ticket, kind),
                WriteKind::SaveSession { .. } | WriteKind::EndSession { .. } => {
                    let event = BrokerEvent::Outcome { ticket, outcome: Ok(None) };
                    self.engine.handle(self.now, Input::Broker(event));
                }
                WriteKind::Publish { channel, payload } => self.redis_takes(ticket, &channel, &payload),
                WriteKind::Commit { channel, commit } => {
                    self.redis_takes(ticket, &channel, &commit.payload);
                }
                other => panic!("unexpected {other:?}"),
            },
            BrokerCommand::Query(Query { ticket, kind: QueryKind::Fence { channel }, .. }) => {
                let answer = Ok(Answer::Fence(channel));
                self.engine.handle(self.now, Input::Broker(BrokerEvent::Answer { ticket, answer }));
            }
            BrokerCommand::Query(Query {
                ticket,
                kind: QueryKind::Presence { channel, after, limit },
                ..
            }) => {
                self.presence_asked.push((ticket, channel.clone()));
                if self.presence_answers {
                    let answer = Ok(Answer::Presence(self.presence.page(&channel, after.as_deref(), limit)));
                    self.engine.handle(self.now, Input::Broker(BrokerEvent::Answer { ticket, answer }));
                }
            }
            BrokerCommand::Query(Query { ticket, kind: QueryKind::Log { channel, .. }, .. }) => {
                self.pages_asked.push((ticket, channel));
            }
            BrokerCommand::Query(Query { ticket, kind: QueryKind::ClaimSession { .. } }) => {
                let answer = Ok(Answer::Session(self.claimed.take()));
                self.engine.handle(self.now, Input::Broker(BrokerEvent::Answer { ticket, answer }));
            }
            other => panic!("unexpected {other:?}"),
        }
        self.broker_says();
    }

    /// The store takes who is present, and notifies the channel's subscribers, unless it does not answer.
    fn presence_written(&mut self, ticket: Ticket, kind: WriteKind) {
        self.presence_writes.push(kind.clone());
        let outcome = match &self.presence_fails {
            Some(failure) => Err(failure.clone()),
            None => {
                let notice = self.presence.write(&"n1".into(), &kind);
                if let Some((channel, payload)) = notice {
                    let (pattern, channel) = (None, channel.as_bytes());
                    self.hub
                        .handle(self.now.mono_ms, HubInput::Message { pattern, channel, payload: &payload });
                    self.broker_says();
                }
                Ok(None)
            }
        };
        self.engine.handle(self.now, Input::Broker(BrokerEvent::Outcome { ticket, outcome }));
    }

    /// Redis publishes what a client published, and acknowledges it.
    fn redis_takes(&mut self, ticket: Ticket, channel: &str, payload: &[u8]) {
        let channel = channel.as_bytes();
        self.hub.handle(self.now.mono_ms, HubInput::Message { pattern: None, channel, payload });
        self.broker_says();
        self.engine.handle(self.now, Input::Broker(BrokerEvent::Outcome { ticket, outcome: Ok(None) }));
    }

    fn broker_says(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                HubOutput::Link(LinkCommand::Subscribe(subjects)) if self.holds_subscriptions => {
                    self.held.extend(subjects);
                }
                HubOutput::Link(LinkCommand::Subscribe(subjects)) => {
                    for subject in &subjects {
                        self.hub.handle(self.now.mono_ms, HubInput::Subscribed(subject));
                    }
                }
                HubOutput::Link(LinkCommand::Mark(_)) | HubOutput::Peer(..) | HubOutput::Moved(_) => {
                    unreachable!("there is one link")
                }
                HubOutput::Link(LinkCommand::Unsubscribe(subjects)) => {
                    for subject in &subjects {
                        self.hub.handle(self.now.mono_ms, HubInput::Unsubscribed(subject));
                    }
                }
                HubOutput::Shards(_, event) => self.engine.handle(self.now, Input::Broker(event)),
                HubOutput::Load { channel, load } => {
                    let classes = &self.hub.settings().classes;
                    let table = Ok(LoadedTable::read(classes, &channel, self.stored.clone()));
                    self.hub.handle(self.now.mono_ms, HubInput::Loaded { channel: &channel, load, table });
                }
                HubOutput::ReadLog { channel, .. } => unreachable!("no class here has a log: {channel}"),
                HubOutput::BadEntity { .. } | HubOutput::BadTable { .. } | HubOutput::Oversized { .. } => {}
            }
        }
    }

    fn write(&mut self, conn: ConnId, mut frames: Vec<Frame>) {
        let at = conn.index as usize;
        self.writes += 1;
        if self.blocked[at] {
            self.engine.handle(self.now, Input::Blocked { conn, unsent: frames });
            self.engine.check();
            return;
        }
        frames.drain(..).for_each(|frame| self.see(at, &frame));
    }

    fn see(&mut self, at: usize, frame: &Frame) {
        if payload_of(frame).len() > self.max_read_bytes {
            return;
        }
        let content = frames::read(frame, Encoding::Json, false);
        if let Content::Batch(messages) = &content {
            self.arrays.push(messages.len());
        }
        self.read[at].extend(content.messages());
    }
}

/// A message in a few words.
pub fn short(message: &Value) -> String {
    let keys = |list: &Value, of: fn(&Value) -> &str| {
        list.as_array().unwrap().iter().map(of).collect::<Vec<_>>().join(" ")
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match message["type"].as_str().unwrap() {
        "VIEW_ENTER" => {
            let reset = if message["reset"] == true { "reset" } else { "enter" };
            let more = if message["complete"] == true { "" } else { " …" };
            format!("{reset} {}{more}", keys(&message["entities"], |e| e["key"].as_str().unwrap()))
        }
        "VIEW_LEAVE" => {
            format!("{} {}", text(&message["reason"]), keys(&message["keys"], |key| key.as_str().unwrap()))
        }
        "EVENT" => format!("{} {}", text(&message["key"]), message["data"]["n"]),
        "ERROR" => text(&message["code"]),
        "RESYNC" => format!("resync {}", text(&message["reason"])),
        other => other.to_owned(),
    }
}

/// An entity as a table of this channel has it.
pub fn entity(channel: &str, data: Value) -> Arc<Publication> {
    let payload = json!({ "event": "e", "key": data["id"], "data": data }).to_string();
    let payload = Payload::read(payload.as_bytes(), PayloadMode::Auto).unwrap();
    let event = Event::new(&payload, channel, None);
    let change = Some(EntityChange::Set { position: None });
    Arc::new(Publication::with_entity(channel.into(), event, LocalOffset(0), change))
}
