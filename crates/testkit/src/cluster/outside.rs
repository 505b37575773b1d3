//! What is around a cluster: the sockets' other ends, and what goes wrong.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{
    BrokerEvent, ConnId, Notice, Now, PlayerOverrides, PresencePage, PublishFailure, Subject,
};
use drawbridge_engine::upstream::{HubOutput, StoredLog, StoredTable};
use drawbridge_protocol::Frame;

use crate::dice::Chance;

/// One socket of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId {
    pub node: usize,
    pub shard: usize,
    pub conn: ConnId,
}

/// What is at the other end of the sockets, and what goes wrong. By default nothing does.
pub trait Outside: Chance {
    /// Returns the frames that the socket does not take, if it takes no more for a while.
    fn write(&mut self, socket: SocketId, frames: Vec<Frame>) -> Option<Vec<Frame>>;

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, code: u16);

    /// A token is to be verified.
    fn authenticate(&mut self, socket: SocketId, token: &str) {
        panic!("unexpected token of {socket:?}: {token}");
    }

    /// What an operator would read. That a player lacks a right is no fault.
    fn notice(&mut self, notice: Notice) {
        assert!(matches!(notice, Notice::AccessDenied { .. }), "unexpected {notice:?}");
    }

    /// What a hub drops because it cannot be read.
    fn unreadable(&mut self, what: &HubOutput) {
        panic!("unexpected {what:?}");
    }

    /// Redis is about to publish this. `is_committed`: it is in the channel's table.
    fn published(&mut self, _channel: &Arc<str>, _payload: &Bytes, _is_committed: bool) {}

    /// As [`Outside::published`], by a server of a Cluster that is not the master of the channel's slot any more and does not know it
    /// yet: whoever is subscribed at the new one does not receive it.
    fn published_by_former_master(&mut self, _channel: &Arc<str>, _payload: &Bytes) {}

    /// A node reads this from the exact subscription.
    fn received(&mut self, _now: Now, _node: usize, _channel: &Arc<str>, _payload: &Bytes) {}

    /// A node reads the table of this channel again: what it knew of it is void.
    fn reloads(&mut self, _node: usize, _channel: &str) {}

    /// Whether Redis refuses a subscription.
    fn refuses(&mut self, _subject: &Subject) -> bool {
        false
    }

    /// Whether a master of a Cluster cannot begin a subscription just now.
    fn defers(&mut self) -> bool {
        false
    }

    /// Whether the queue to a shard has no room for this.
    fn drops(&mut self, _event: &BrokerEvent) -> bool {
        false
    }

    /// How a write fails.
    fn failure(&mut self) -> Option<PublishFailure> {
        None
    }

    /// What Redis answers to the query for view overrides.
    fn overrides(&mut self, stored: PlayerOverrides) -> Result<PlayerOverrides, Arc<str>> {
        Ok(stored)
    }

    /// What Redis answers to a reading of a log.
    fn log(&mut self, stored: StoredLog) -> Result<StoredLog, Arc<str>> {
        Ok(stored)
    }

    /// What Redis returns of the record of a session that is claimed.
    fn record(&mut self, stored: Bytes) -> Bytes {
        stored
    }

    /// What Redis answers to the query for a page of players.
    fn page(&mut self, stored: PresencePage) -> Result<PresencePage, Arc<str>> {
        Ok(stored)
    }

    /// What Redis answers to the query for a table.
    fn table(&mut self, stored: StoredTable) -> Result<StoredTable, Arc<str>> {
        Ok(stored)
    }
}
