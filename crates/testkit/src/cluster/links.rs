//! The links of a cluster's nodes, their hubs, and what those send to each other and to the shards.

use std::sync::Arc;

use drawbridge_engine::io::{
    Answer, BrokerCommand, BrokerEvent, BrokerStatus, PlayerAction, PlayerCommand, Query, QueryKind, Subject,
    Ticket,
};
use drawbridge_engine::upstream::{Carries, HubInput, HubOutput, LinkId, LoadedTable, ShardId, ShardSet};

use super::node::{HubCommand, LogAsker, LogRead};
use super::{Cluster, Outside};
use crate::redis::{Push, Scan};

impl Cluster {
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

    /// All links are up again that lead anywhere.
    pub fn mend(&mut self, outside: &mut impl Outside) {
        for link in 0..self.redis.links.len() {
            match self.is_of_master(link) {
                true => _ = self.carry_target(link, outside),
                false if !self.is_up(link) => self.link_up(link, outside),
                false => {}
            }
        }
    }

    pub(super) fn link_up(&mut self, link: usize, outside: &mut impl Outside) {
        self.redis.links[link].up = true;
        self.hub(link, HubInput::LinkUp, outside);
        self.send_status(link / self.links);
    }

    fn send_status(&mut self, node: usize) {
        let leads = |link: &usize| !self.is_of_master(*link) || self.target_of(*link).is_some();
        let links = (node * self.links..(node + 1) * self.links).filter(leads);
        let (of_masters, of_all): (Vec<usize>, Vec<usize>) =
            links.into_iter().filter(|link| !self.is_up(*link)).partition(|link| self.is_of_master(*link));
        let status = match (of_all.is_empty(), of_masters.is_empty()) {
            (false, _) => BrokerStatus::Degraded,
            (true, false) => BrokerStatus::Partial,
            (true, true) => BrokerStatus::Ok,
        };
        let node = &mut self.nodes[node];
        if std::mem::replace(&mut node.status, status) != status {
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

    pub fn carry_push(&mut self, link: usize, outside: &mut impl Outside) -> bool {
        let Some(push) = self.redis.links[link].read() else { return false };
        match push {
            Push::Subscribed(subject) => self.hub(link, HubInput::Subscribed(&subject), outside),
            Push::Unsubscribed(subject) => self.hub(link, HubInput::Unsubscribed(&subject), outside),
            Push::Refused(subject) => {
                self.hub(link, HubInput::Refused { subject: &subject, reason: "NOPERM" }, outside);
            }
            Push::Elsewhere(subject) => self.hub(link, HubInput::Deferred(&subject), outside),
            Push::Loaded { channel, load, table } => {
                let hub = &self.nodes[link / self.links].hubs[link % self.links];
                let classes = hub.settings().classes.clone();
                let table = outside.table(table);
                let table = table.map(|stored| LoadedTable::read(&classes, &channel, stored));
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
            HubCommand::GiveSlots(slots) => self.hub(link, HubInput::GiveSlots(slots), outside),
            HubCommand::TakeSlots(slots) => self.hub(link, HubInput::TakeSlots(slots), outside),
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

    pub(super) fn hub(&mut self, link: usize, input: HubInput<'_>, outside: &mut impl Outside) {
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
                HubOutput::ReadLog { channel, load, range, limit, reader } => {
                    let asker = LogAsker::Hub { link, load };
                    self.nodes[node].log_reads.push_back(LogRead { asker, channel, range, limit, reader });
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
        if let BrokerEvent::Confirmed { subject, .. } = event
            && !subject.is_pattern()
        {
            assert!(
                self.redis.links[link].is_confirmed(subject),
                "{subject:?} is confirmed before Redis does"
            );
        }
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
}
