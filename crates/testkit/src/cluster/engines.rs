//! The engines of a cluster: what they are passed, and what they want done.

use drawbridge_engine::backlog::superseded;
use drawbridge_engine::io::{
    BrokerCommand, BrokerEvent, Holder, Input, MessageKind, Output, Query, QueryKind,
};

use super::node::{LogAsker, LogRead};
use super::{Cluster, Outside, SocketId};

impl Cluster {
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
                kind: QueryKind::Log { channel, range, limit, reader },
                ..
            }) => {
                let asker = LogAsker::Shard(shard, ticket);
                node.log_reads.push_back(LogRead { asker, channel, range, limit, reader });
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

    /// A shard lags: superseded states of entities are dropped.
    pub fn catch_up(&mut self, node: usize, shard: usize) {
        let events = &mut self.nodes[node].shards[shard].events;
        let mut superseded = superseded(events.iter()).into_iter();
        events.retain(|_| !superseded.next().unwrap());
    }
}
