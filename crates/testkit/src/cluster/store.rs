//! What the nodes of a cluster, and services beside them, write to Redis and read from it by other ways than a link.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{
    Answer, BrokerEvent, ClaimedSession, LogReader, Outcome, PublishFailure, Query, QueryKind, WriteKind,
};
use drawbridge_engine::upstream::{HubInput, StoredLog};

use super::node::{LogAsker, LogRead};
use super::{Cluster, Outside};
use crate::redis::masters::ServerId;
use crate::redis::{Push, Scan};

impl Cluster {
    /// Redis takes a plain `PUBLISH`, of whoever. In a Cluster it may reach no master.
    pub fn publish(&mut self, channel: &Arc<str>, payload: &Bytes, outside: &mut impl Outside) {
        if let Ok(server) = self.route(None, channel, false, outside) {
            self.publish_at(server, channel, payload, false, outside);
        }
    }

    /// Redis publishes; `server`: in a Cluster, on a sharded channel.
    fn publish_at(
        &mut self,
        server: Option<ServerId>,
        channel: &Arc<str>,
        payload: &Bytes,
        is_committed: bool,
        outside: &mut impl Outside,
    ) {
        outside.published(channel, payload, is_committed);
        let Some(server) = server else { return self.redis.publish(channel, payload) };
        if self.redis.masters.owner_of(channel) != server {
            outside.published_by_former_master(channel, payload);
        }
        self.redis.publish_at(server, channel, payload);
    }

    pub fn carry_write(&mut self, node: usize, outside: &mut impl Outside) -> bool {
        let Some((shard, write)) = self.nodes[node].writes.pop_front() else { return false };
        let failure = outside.failure();
        // Of an unknown one Redis may have taken it or not.
        let is_taken =
            failure.is_none() || (failure == Some(PublishFailure::Unknown) && outside.roll(2) == 0);
        let mut outcome = failure.map_or(Ok(None), Err);
        if is_taken {
            match (self.take_from(Some(node), write.kind, outside), &outcome) {
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
        self.take_from(None, write, outside)
    }

    /// As [`Cluster::take`]; `node`: who writes, as far as it is one.
    fn take_from(&mut self, node: Option<usize>, write: WriteKind, outside: &mut impl Outside) -> Outcome {
        match write {
            WriteKind::Log { channel, entry } => {
                let server = self.route(node, &channel, true, outside)?;
                let (payload, position) = self.redis.logs_at(server).append(&channel, &entry);
                self.publish_at(server, &channel, &payload, true, outside);
                return Ok(Some(position));
            }
            WriteKind::Publish { channel, payload } => {
                let server = self.route(node, &channel, false, outside)?;
                self.publish_at(server, &channel, &payload, false, outside);
            }
            WriteKind::Commit { channel, commit } => {
                let payload = self.redis.commit(self.now.mono_ms, &channel, &commit)?;
                outside.published(&channel, &payload, true);
                self.redis.publish(&channel, &payload);
            }
            write @ WriteKind::Presence { .. } => {
                let instance =
                    node.map_or_else(|| "outside".into(), |node| self.nodes[node].instance.clone());
                if let Some((notices, payload)) = self.redis.presence.write(&instance, &write) {
                    self.redis.publish(&notices, &payload.into());
                }
            }
            // Only the node itself sets views.
            WriteKind::SetOverride { .. } => {}
            append @ WriteKind::Append { .. } => self.appended.push(append),
            record @ (WriteKind::SaveSession { .. } | WriteKind::EndSession { .. }) => {
                return node.map_or(Ok(None), |node| self.take_record(node, record));
            }
        }
        Ok(None)
    }

    /// Redis executes a reading of a log; its answer is on its way.
    pub fn carry_log_read(&mut self, node: usize, outside: &mut impl Outside) -> bool {
        let Some(LogRead { channel, .. }) = self.nodes[node].log_reads.front() else { return false };
        // Of a master that is not to be reached it waits.
        let Ok(server) = self.route(Some(node), channel, true, outside) else { return false };
        let Some(LogRead { asker, channel, range, limit, reader }) = self.nodes[node].log_reads.pop_front()
        else {
            return false;
        };
        let logs = self.redis.logs_at(server);
        let log = match reader != LogReader::Hub && !logs.has(&channel) {
            true => StoredLog::absent(),
            false => logs.read(&channel, range, limit),
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
            QueryKind::Presence { channel, after, limit } => outside
                .page(self.redis.presence.page(&channel, after.as_deref(), limit))
                .map(Answer::Presence),
            QueryKind::ClaimSession { player, session } => {
                let claimed = self
                    .claim(node, player, session.hash())
                    .map(|claimed| ClaimedSession { content: outside.record(claimed.content), ..claimed });
                Ok(Answer::Session(claimed))
            }
            other => panic!("not for this connection: {other:?}"),
        };
        self.nodes[node].shards[shard].events.push_back(BrokerEvent::Answer { ticket, answer });
        true
    }
}
