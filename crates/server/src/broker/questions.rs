//! What the broker is asked to read. Each question is answered once, however long Redis is away; there is at most one
//! for each entity channel and one for each connection.

use std::sync::Arc;

use drawbridge_engine::interest::ShardId;
use drawbridge_engine::io::Ticket;
use tokio::sync::mpsc;

/// One question.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// A hub wants the table of an entity channel; an [`Order::Loaded`](super::interest::Order) answers.
    Table {
        /// Whose.
        link: usize,
        channel: Arc<str>,
        load: u64,
    },
    /// A shard wants to know how services narrowed a player's views; `BrokerEvent::Views` answers.
    Views { shard: ShardId, ticket: Ticket, player: Arc<str> },
}

/// Where questions are asked, by any thread.
pub(super) type QuestionSender = mpsc::UnboundedSender<Question>;
/// Where they are taken out.
pub(super) type QuestionReceiver = mpsc::UnboundedReceiver<Question>;
