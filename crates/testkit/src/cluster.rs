//! Nodes of engines and hubs around one [`Redis`], in virtual time. Every queue between the parts is stepped on its own, by
//! whoever drives it; what is at the end of each socket, and what fails, is [`Outside`].

mod node;
mod outside;

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::backlog::superseded;
use drawbridge_engine::io::{
    Answer, BrokerCommand, BrokerEvent, BrokerStatus, Holder, Input, MessageKind, Now, Outcome, Output,
    PlayerAction, PlayerCommand, PublishFailure, Query, QueryKind, Subject, Ticket, WriteKind,
};
use drawbridge_engine::settings::Settings;
use drawbridge_engine::upstream::{Carries, HubInput, HubOutput, LinkId, ShardId, ShardSet, StoredLog};

use crate::redis::{NODES_CHANNEL, Push, Redis, Scan};
use node::{HubCommand, LogAsker, LogRead};
pub use node::{Node, Shard, Size};
pub use outside::{Outside, SocketId};

/// More are never on the way to a later time.
const MAX_DEADLINES: usize = 100_000;

/// See the module.
pub struct Cluster {
    pub now: Now,
    pub redis: Redis,
    pub nodes: Vec<Node>,
    /// What was appended to streams since a test took it last.
    pub appended: Vec<WriteKind>,
    links: usize,
}

impl Cluster {
    /// All links are up, and every node listens to what the others say.
    pub fn new(settings: &Arc<Settings>, size: Size, outside: &mut impl Outside) -> Self {
        let mut cluster = Cluster {
            now: Now { mono_ms: 10_000_000, unix_ms: 1_790_000_000_000 },
            redis: Redis::new(size.nodes * size.links),
            nodes: (0..size.nodes).map(|at| Node::new(settings, size, at)).collect(),
            appended: Vec::new(),
            links: size.links,
        };
        for link in 0..cluster.redis.links.len() {
            let subject = Subject::channel(NODES_CHANNEL);
            cluster.hub(link, HubInput::Want { shard: ShardId::NODE, subject }, outside);
            cluster.link_up(link, outside);
        }
        cluster
    }

    /// Each shard of each node.
    fn shards(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let shards: Vec<usize> = self.nodes.iter().map(|node| node.shards.len()).collect();
        shards.into_iter().enumerate().flat_map(|(node, count)| (0..count).map(move |shard| (node, shard)))
    }

    pub fn shard(&mut self, node: usize, shard: usize) -> &mut Shard {
        &mut self.nodes[node].shards[shard]
    }

    pub fn is_up(&self, link: usize) -> bool {
        self.redis.links[link].up
    }

    /// The link breaks, if it is up.
    pub fn cut(&mut self, link: usize, outside: &mut impl Outside) {
        if !self.is_up(link) {
            return;
        }
        for push in self.redis.cut(link) {
            if let Push::Fence { shard, ticket, channel } = push {
                self.fenced(link, shard, ticket, channel);
            }
        }
        self.hub(link, HubInput::LinkDown, outside);
        self.send_status(link / self.links);
    }

    /// All links are up again.
    pub fn mend(&mut self, outside: &mut impl Outside) {
        for link in 0..self.redis.links.len() {
            if !self.is_up(link) {
                self.link_up(link, outside);
            }
        }
    }

    fn link_up(&mut self, link: usize, outside: &mut impl Outside) {
        self.redis.links[link].up = true;
        self.hub(link, HubInput::LinkUp, outside);
        self.send_status(link / self.links);
    }

    fn send_status(&mut self, node: usize) {
        let degraded = (0..self.links).any(|link| !self.is_up(node * self.links + link));
        let node = &mut self.nodes[node];
        if std::mem::replace(&mut node.degraded, degraded) != degraded {
            let status = if degraded { BrokerStatus::Degraded } else { BrokerStatus::Ok };
            node.send_to_all(&BrokerEvent::Status(status));
        }
    }

    /// Shards that lost what could not be marked are made good.
    pub fn send_lost(&mut self, outside: &mut impl Outside) {
        for (node, shard) in self.shards() {
            if std::mem::take(&mut self.nodes[node].shards[shard].lost) {
                let shard = ShardId(shard as u8);
                for link in node * self.links..(node + 1) * self.links {
                    self.hub(link, HubInput::Lost { shard }, outside);
                }
            }
        }
    }

    /// A shard lags: superseded states of entities are dropped.
    pub fn catch_up(&mut self, node: usize, shard: usize) {
        let events = &mut self.nodes[node].shards[shard].events;
        let mut superseded = superseded(events.iter()).into_iter();
        events.retain(|_| !superseded.next().unwrap());
    }

    /// An entry moves to another link of its node.
    ///
    /// `between`: the links whose commands are carried between the two of the move, because the giver's thread may be faster
    /// than the one that commands both.
    pub fn begin_move(
        &mut self,
        at: usize,
        subject: Subject,
        to: usize,
        between: &[usize],
        outside: &mut impl Outside,
    ) {
        let node = &mut self.nodes[at];
        let Some(moves) = node.topology.begin_move(subject, LinkId::at(to)) else { return };
        node.commands[moves.from.place()].push_back(HubCommand::Give(moves.clone()));
        for link in between {
            self.carry_command(at * self.links + link, outside);
        }
        self.nodes[at].commands[moves.to.place()].push_back(HubCommand::Take(moves));
    }

    /// Redis takes a plain `PUBLISH`, of whoever.
    pub fn publish(&mut self, channel: &Arc<str>, payload: &Bytes, outside: &mut impl Outside) {
        outside.published(channel, payload, false);
        self.redis.publish(channel, payload);
    }

    /// When one of the engines must look at the clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let shards = self.nodes.iter().flat_map(|node| &node.shards);
        shards.filter_map(|shard| shard.engine.next_deadline_ms()).min()
    }

    /// Time goes on, and everyone looks at the clock late: once, at the end.
    pub fn pass(&mut self, ms: u64, outside: &mut impl Outside) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.tick(outside);
    }

    /// Time goes on; everyone looks at the clock at each deadline on the way, as the server does.
    pub fn pass_by_deadlines(&mut self, ms: u64, outside: &mut impl Outside) {
        let until_ms = self.now.mono_ms + ms;
        for _ in 0..MAX_DEADLINES {
            let deadline_ms = self.next_deadline_ms().unwrap_or(u64::MAX);
            let at_ms = deadline_ms.clamp(self.now.mono_ms, until_ms);
            self.now.unix_ms += at_ms - self.now.mono_ms;
            self.now.mono_ms = at_ms;
            self.tick(outside);
            assert!(
                self.next_deadline_ms().is_none_or(|next| next > at_ms),
                "a deadline that passed is still there"
            );
            if at_ms == until_ms {
                return;
            }
        }
        panic!("deadlines without end");
    }

    fn tick(&mut self, outside: &mut impl Outside) {
        for link in 0..self.redis.links.len() {
            self.hub(link, HubInput::Tick, outside);
        }
        for (node, shard) in self.shards() {
            self.input(node, shard, Input::Tick, outside);
        }
    }

    /// One thing moves on in one of the queues.
    pub fn carry(&mut self, outside: &mut impl Outside) -> bool {
        let node = outside.roll(self.nodes.len());
        let shard = outside.roll(self.nodes[node].shards.len());
        let link = node * self.links + outside.roll(self.links);
        match outside.roll(10) {
            0..3 => self.carry_push(link, outside),
            3 => self.carry_command(link, outside),
            4 => self.carry_write(node, outside),
            5 if outside.roll(2) == 0 => self.carry_log_read(node) || self.carry_log_answer(node, outside),
            5 => self.carry_scan(node),
            6 => self.carry_query(node, outside),
            _ => self.carry_event(node, shard, outside),
        }
    }

    /// One thing moves on in each of the queues. `false`: all are empty.
    pub fn carry_one_of_each(&mut self, outside: &mut impl Outside) -> bool {
        let mut moved = false;
        for link in 0..self.redis.links.len() {
            moved |= self.carry_push(link, outside);
            moved |= self.carry_command(link, outside);
        }
        for node in 0..self.nodes.len() {
            moved |= self.carry_write(node, outside);
            moved |= self.carry_scan(node);
            moved |= self.carry_log_read(node);
            moved |= self.carry_log_answer(node, outside);
            moved |= self.carry_query(node, outside);
        }
        for (node, shard) in self.shards() {
            moved |= self.carry_event(node, shard, outside);
        }
        moved
    }

    pub fn carry_push(&mut self, link: usize, outside: &mut impl Outside) -> bool {
        let Some(push) = self.redis.links[link].unread.pop_front() else { return false };
        match push {
            Push::Subscribed(subject) => self.hub(link, HubInput::Subscribed(&subject), outside),
            Push::Unsubscribed(subject) => self.hub(link, HubInput::Unsubscribed(&subject), outside),
            Push::Refused(subject) => {
                self.hub(link, HubInput::Refused { subject: &subject, reason: "NOPERM" }, outside);
            }
            Push::Loaded { channel, load, table } => {
                let table = outside.table(table);
                self.hub(link, HubInput::Loaded { channel: &channel, load, table }, outside);
            }
            Push::Command(command) => self.player_command(link, command, outside),
            Push::Fence { shard, ticket, channel } => self.fenced(link, shard, ticket, channel),
            Push::Message { pattern, channel, payload } => {
                if pattern.is_none() {
                    outside.received(self.now, link / self.links, &channel, &payload);
                }
                self.message(link, pattern.as_deref(), &channel, &payload, outside);
            }
        }
        true
    }

    fn message(
        &mut self,
        link: usize,
        pattern: Option<&str>,
        channel: &str,
        payload: &[u8],
        outside: &mut impl Outside,
    ) {
        let (pattern, channel) = (pattern.map(str::as_bytes), channel.as_bytes());
        let (hub, bytes) = (&self.nodes[link / self.links].hubs[link % self.links], payload.len());
        let input = match bytes > hub.settings().external_bytes {
            true => HubInput::OversizedMessage { pattern, channel, bytes },
            false => HubInput::Message { pattern, channel, payload },
        };
        self.hub(link, input, outside);
    }

    /// One link of each node passes a command on, in order with the events of its channel.
    fn player_command(&mut self, link: usize, command: PlayerCommand, outside: &mut impl Outside) {
        let (node, link) = (&mut self.nodes[link / self.links], LinkId::at(link % self.links));
        let subject = match &command.action {
            PlayerAction::Subscribe { channel }
            | PlayerAction::Unsubscribe { channel }
            | PlayerAction::View { channel, .. } => Some(Subject::named(channel.clone())),
            PlayerAction::TakenOver { .. } | PlayerAction::Disconnect { .. } => None,
        };
        let hub = &mut node.hubs[link.place()];
        let home = subject.as_ref().map_or(LinkId::at(0), |subject| node.topology.home_of(subject));
        match subject.as_ref().map_or(Carries::AsPlaced, |subject| hub.carries(subject)) {
            Carries::Yes => {}
            Carries::AsPlaced if home == link => {}
            Carries::Later => {
                let all = node.all_shards();
                node.hubs[link.place()].send_behind(&subject.unwrap(), all, BrokerEvent::Command(command));
                return;
            }
            Carries::No | Carries::AsPlaced => return,
        }
        // Where a shard's queue has no room, it is notified of that.
        let event = match BrokerEvent::Command(command) {
            event if outside.drops(&event) => BrokerEvent::Recover { dropped: true, barrier: None },
            event => event,
        };
        node.send_to_all(&event);
    }

    fn fenced(&mut self, link: usize, shard: usize, ticket: Ticket, channel: Arc<str>) {
        let node = &mut self.nodes[link / self.links];
        let answer = BrokerEvent::Answer { ticket, answer: Ok(Answer::Fence(channel.clone())) };
        let to = ShardSet::only(ShardId(shard as u8));
        // Of a channel that is on its way here, behind what is held of it.
        if !node.hubs[link % self.links].send_behind(&Subject::channel(channel), to, answer.clone()) {
            node.shards[shard].events.push_back(answer);
        }
    }

    pub fn carry_command(&mut self, link: usize, outside: &mut impl Outside) -> bool {
        let commands = &mut self.nodes[link / self.links].commands[link % self.links];
        let Some(command) = commands.pop_front() else { return false };
        match command {
            HubCommand::Shard(shard, command) => self.carry_out(link, shard, command, outside),
            HubCommand::Give(moves) => self.hub(link, HubInput::Give(moves), outside),
            HubCommand::Take(moves) => self.hub(link, HubInput::Take(moves), outside),
            HubCommand::Peer(message) => self.hub(link, HubInput::Peer(message), outside),
        }
        true
    }

    fn carry_out(&mut self, link: usize, at: usize, command: BrokerCommand, outside: &mut impl Outside) {
        let shard = ShardId(at as u8);
        match command {
            BrokerCommand::Want(subject) => self.hub(link, HubInput::Want { shard, subject }, outside),
            BrokerCommand::Unwant(subject) => {
                self.hub(link, HubInput::Unwant { shard, subject: &subject }, outside);
            }
            BrokerCommand::Refresh(subject) => {
                self.hub(link, HubInput::Refresh { shard, subject: &subject }, outside);
            }
            BrokerCommand::CatchUp { channel, after } => {
                self.hub(link, HubInput::CatchUp { shard, channel: &channel, after }, outside);
            }
            BrokerCommand::Recovered(token) => self.hub(link, HubInput::Passed { shard, token }, outside),
            BrokerCommand::Query(Query { ticket, kind: QueryKind::Fence { channel }, .. }) => {
                match self.is_up(link) {
                    true => {
                        self.redis.links[link].unread.push_back(Push::Fence { shard: at, ticket, channel })
                    }
                    false => self.fenced(link, at, ticket, channel),
                }
            }
            other => panic!("not for a hub: {other:?}"),
        }
    }

    pub fn carry_write(&mut self, node: usize, outside: &mut impl Outside) -> bool {
        let Some((shard, write)) = self.nodes[node].writes.pop_front() else { return false };
        let failure = outside.failure();
        // Of an unknown one Redis may have taken it or not.
        let is_taken =
            failure.is_none() || (failure == Some(PublishFailure::Unknown) && outside.roll(2) == 0);
        let mut outcome = failure.map_or(Ok(None), Err);
        if is_taken {
            match (self.take(write.kind, outside), &outcome) {
                (Err(refused), _) => outcome = Err(refused),
                (Ok(position), Ok(_)) => outcome = Ok(position),
                (Ok(_), Err(_)) => {}
            }
        }
        if let Some(ticket) = write.ticket {
            self.nodes[node].shards[shard].events.push_back(BrokerEvent::Outcome { ticket, outcome });
        }
        true
    }

    /// Redis takes a write, of whoever.
    ///
    /// # Errors
    /// If it refuses.
    pub fn take(&mut self, write: WriteKind, outside: &mut impl Outside) -> Outcome {
        match write {
            WriteKind::Log { channel, entry } => {
                let (payload, position) = self.redis.append(&channel, &entry);
                outside.published(&channel, &payload, true);
                self.redis.publish(&channel, &payload);
                return Ok(Some(position));
            }
            WriteKind::Publish { channel, payload } => self.publish(&channel, &payload, outside),
            WriteKind::Commit { channel, commit } => {
                let payload = self.redis.commit(self.now.mono_ms, &channel, &commit)?;
                outside.published(&channel, &payload, true);
                self.redis.publish(&channel, &payload);
            }
            write @ WriteKind::Presence { .. } => {
                if let Some((notices, payload)) = self.redis.presence.write(&write) {
                    self.redis.publish(&notices, &payload.into());
                }
            }
            // Only the node itself sets views.
            WriteKind::SetOverride { .. } => {}
            append @ WriteKind::Append { .. } => self.appended.push(append),
            // No session is claimed here.
            WriteKind::SaveSession { .. } | WriteKind::EndSession { .. } => {}
        }
        Ok(None)
    }

    /// Redis executes a reading of a log; its answer is on its way.
    pub fn carry_log_read(&mut self, node: usize) -> bool {
        let Some(LogRead { asker, channel, range, limit }) = self.nodes[node].log_reads.pop_front() else {
            return false;
        };
        let is_request = matches!(asker, LogAsker::Shard(..));
        let log = match is_request && !self.redis.has_log(&channel) {
            true => StoredLog::absent(),
            false => self.redis.read_log(&channel, range, limit),
        };
        self.nodes[node].log_answers.push_back((asker, channel, log));
        true
    }

    /// The answer to a reading of a log comes, before or behind what the link reads.
    pub fn carry_log_answer(&mut self, node: usize, outside: &mut impl Outside) -> bool {
        let Some((asker, channel, log)) = self.nodes[node].log_answers.pop_front() else { return false };
        let log = outside.log(log);
        match asker {
            LogAsker::Hub { link, load } => {
                self.hub(link, HubInput::LogRead { channel: &channel, load, log }, outside);
            }
            LogAsker::Shard(shard, ticket) => {
                let answer = log.map(Answer::Log);
                self.nodes[node].shards[shard].events.push_back(BrokerEvent::Answer { ticket, answer });
            }
        }
        true
    }

    pub fn carry_scan(&mut self, node: usize) -> bool {
        let Some((_, scan)) = self.nodes[node].scans.front_mut() else { return false };
        let Some(table) = self.redis.scan(self.now.mono_ms, scan) else { return true };
        let (link, Scan { channel, load, .. }) = self.nodes[node].scans.pop_front().unwrap();
        let link = &mut self.redis.links[link];
        if link.up {
            link.unread.push_back(Push::Loaded { channel, load, table });
        }
        true
    }

    pub fn carry_query(&mut self, node: usize, outside: &mut impl Outside) -> bool {
        let Some((shard, Query { ticket, kind })) = self.nodes[node].queries.pop_front() else {
            return false;
        };
        let answer = match kind {
            QueryKind::ViewOverrides { player } => {
                outside.overrides(self.redis.views(&player)).map(Answer::ViewOverrides)
            }
            QueryKind::Presence { channel, after, limit } => {
                Ok(Answer::Presence(self.redis.presence.page(&channel, after.as_deref(), limit)))
            }
            // No record is kept here: who resumes elsewhere gets a new session.
            QueryKind::ClaimSession { .. } => Ok(Answer::Session(None)),
            other => panic!("not for this connection: {other:?}"),
        };
        self.nodes[node].shards[shard].events.push_back(BrokerEvent::Answer { ticket, answer });
        true
    }

    pub fn carry_event(&mut self, node: usize, shard: usize, outside: &mut impl Outside) -> bool {
        let at = &mut self.nodes[node].shards[shard];
        let Some(mut event) = at.events.pop_front() else { return false };
        if let BrokerEvent::Gap { channel, position, logged } = &mut event
            && let Some(marked) = at.marked.remove(channel)
        {
            (*position, *logged) = marked;
        }
        self.input(node, shard, Input::Broker(event), outside);
        true
    }

    fn hub(&mut self, link: usize, input: HubInput<'_>, outside: &mut impl Outside) {
        let (node, place) = (link / self.links, link % self.links);
        self.nodes[node].hubs[place].handle(self.now.mono_ms, input);
        while let Some(output) = self.nodes[node].hubs[place].poll_output() {
            match output {
                HubOutput::Link(command) => {
                    self.redis.command(link, command, |subject| outside.refuses(subject));
                }
                HubOutput::Shards(shards, event) => self.send_to_shards(link, shards, &event, outside),
                HubOutput::Peer(to, message) => {
                    self.nodes[node].commands[to.place()].push_back(HubCommand::Peer(message));
                }
                HubOutput::Moved(subject) => self.nodes[node].topology.end_move(&subject),
                HubOutput::Load { channel, load } => {
                    outside.reloads(node, &channel);
                    let salt = outside.roll(1 << 30) as u64;
                    self.nodes[node].scans.push_back((link, Scan::new(channel, load, salt)));
                }
                HubOutput::ReadLog { channel, load, range, limit } => {
                    let asker = LogAsker::Hub { link, load };
                    self.nodes[node].log_reads.push_back(LogRead { asker, channel, range, limit });
                }
                what @ (HubOutput::BadEntity { .. }
                | HubOutput::BadTable { .. }
                | HubOutput::Oversized { .. }) => outside.unreadable(&what),
            }
        }
    }

    fn send_to_shards(
        &mut self,
        link: usize,
        shards: ShardSet,
        event: &BrokerEvent,
        outside: &mut impl Outside,
    ) {
        for shard in shards.iter() {
            if shard == ShardId::NODE {
                self.listen(link, event, outside);
            } else {
                let node = &mut self.nodes[link / self.links];
                node.shards[usize::from(shard.0)].push(event.clone(), outside);
            }
        }
    }

    /// The node receives what the others say from now on, or never: what they said before is to be made good.
    fn listen(&mut self, link: usize, event: &BrokerEvent, outside: &mut impl Outside) {
        let was_live = match event {
            BrokerEvent::Confirmed { after_break, .. } => *after_break,
            BrokerEvent::Refused { .. } => false,
            _ => return,
        };
        let shards = self.nodes[link / self.links].all_shards();
        self.hub(link, HubInput::Listening { shards, was_live }, outside);
    }

    /// A client sends text.
    pub fn text(&mut self, socket: SocketId, text: &str, outside: &mut impl Outside) {
        let SocketId { node, shard, conn } = socket;
        let payload = text.as_bytes();
        let message = Input::Message { conn, kind: MessageKind::Text, payload, cost_bytes: 0 };
        self.input(node, shard, message, outside);
    }

    /// One turn of an engine.
    pub fn input(&mut self, node: usize, shard: usize, input: Input<'_>, outside: &mut impl Outside) {
        self.handle(node, shard, input);
        let mut displaced = Vec::new();
        while let Some(output) = self.nodes[node].shards[shard].engine.poll_output() {
            match output {
                Output::Write { conn, frames } => {
                    if let Some(unsent) = outside.write(SocketId { node, shard, conn }, frames) {
                        self.handle(node, shard, Input::Blocked { conn, unsent });
                    }
                }
                Output::Close { conn, frames, code, .. } => {
                    outside.close(SocketId { node, shard, conn }, frames, code.as_u16());
                }
                Output::Broker(command) => self.broker_command(node, shard, command),
                Output::Authenticate { conn, token } => {
                    outside.authenticate(SocketId { node, shard, conn }, &token);
                }
                Output::Displace(holder) => displaced.push((holder, false)),
                Output::EndDetached(holder) => displaced.push((holder, true)),
                Output::Notice(notice) => outside.notice(notice),
            }
        }
        for (Holder { shard, session }, is_detached) in displaced {
            let displaced = match is_detached {
                true => Input::DetachedTooMany { session },
                false => Input::Displaced { session },
            };
            self.input(node, usize::from(shard.0), displaced, outside);
        }
    }

    fn handle(&mut self, node: usize, shard: usize, input: Input<'_>) {
        let engine = &mut self.nodes[node].shards[shard].engine;
        engine.handle(self.now, input);
        engine.check();
    }

    fn broker_command(&mut self, node: usize, shard: usize, command: BrokerCommand) {
        let node = &mut self.nodes[node];
        match command {
            BrokerCommand::Write(write) => node.writes.push_back((shard, write)),
            BrokerCommand::Query(Query {
                ticket,
                kind: QueryKind::Log { channel, range, limit, .. },
                ..
            }) => {
                let asker = LogAsker::Shard(shard, ticket);
                node.log_reads.push_back(LogRead { asker, channel, range, limit });
            }
            BrokerCommand::Query(query) if !matches!(query.kind, QueryKind::Fence { .. }) => {
                node.queries.push_back((shard, query));
            }
            BrokerCommand::Withdraw(ticket) => {
                let is_theirs = |asker: &LogAsker| *asker == LogAsker::Shard(shard, ticket);
                node.log_reads.retain(|read| !is_theirs(&read.asker));
                node.log_answers.retain(|(asker, _, _)| !is_theirs(asker));
                node.queries.retain(|(of, query)| (*of, query.ticket) != (shard, ticket));
            }
            command => node.send_to_hub(shard, command),
        }
    }

    /// Whether a shard has yet to write who is present: what failed is written again after a while.
    pub fn is_writing_presence(&self) -> bool {
        let mut shards = self.nodes.iter().flat_map(|node| &node.shards);
        shards.any(|shard| shard.engine.stats().presence_waiting > 0)
    }

    /// Behind the last client, when all has come to rest: only the nodes' own channel is left.
    pub fn check_nothing_is_left(&self) {
        let links = self.redis.links.len();
        assert!(self.redis.presence.is_empty(), "present where no one is: {:?}", self.redis.presence);
        assert_eq!(self.redis.subscriptions(), links, "Redis holds subscriptions that no one wants");
        for node in &self.nodes {
            for hub in &node.hubs {
                let stats = hub.stats();
                let counts = [stats.entities, stats.pattern_channels, stats.pattern_logs];
                assert_eq!(([stats.subjects, stats.live], counts), ([1, 1], [0; 3]), "{stats:?}");
            }
            for shard in &node.shards {
                let stats = shard.engine.stats();
                let gauges = [
                    stats.connections,
                    stats.detached,
                    stats.held_bytes,
                    stats.welcomed,
                    stats.subscriptions,
                    stats.targets,
                    stats.views,
                    stats.entities,
                    stats.frame_bytes,
                    stats.queued_bytes,
                    stats.publishing,
                    stats.loading,
                    stats.deferred,
                    stats.timers,
                    stats.releasing,
                    stats.present,
                    stats.presence_waiting,
                    stats.presence_reads,
                    stats.logs,
                    stats.catching_up,
                    stats.histories,
                ];
                assert_eq!(gauges, [0; 21], "{stats:?}");
            }
        }
    }
}
