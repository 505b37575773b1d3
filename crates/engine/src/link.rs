//! One socket of a session: which connection it is, whether it takes bytes, when it last sent anything, and what it may
//! send. A session without a link is detached: nothing is written, and what arrives waits in its outbox.

use crate::class::ClassId;
use crate::io::ConnId;
use crate::rate_limit::Bucket;

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    /// The shell's name of the connection.
    pub(crate) conn: ConnId,
    /// The socket is full: nothing is written until it takes bytes again.
    pub(crate) is_blocked: bool,
    /// Heartbeats sent since the last sign of life.
    silent_heartbeats: u8,
    pub(crate) messages: Bucket,
    pub(crate) bytes: Bucket,
    pub(crate) subscribes: Bucket,
    /// In steps.
    pub(crate) work: Bucket,
    /// Boxed because an idle connection has none of it.
    rare: Option<Box<Rare>>,
}

/// What only some connections have.
#[derive(Debug, Default)]
struct Rare {
    /// When the last `BAD_MESSAGE`s in a row came, within the window in which they are counted.
    bad_messages: Vec<u64>,
    publishes: Vec<(ClassId, Bucket)>,
}

impl Link {
    /// A socket that just finished its handshake.
    pub(crate) fn new(conn: ConnId) -> Self {
        Link {
            conn,
            is_blocked: false,
            silent_heartbeats: 0,
            messages: Bucket::default(),
            bytes: Bucket::default(),
            subscribes: Bucket::default(),
            work: Bucket::default(),
            rare: None,
        }
    }

    /// The client has sent something.
    pub(crate) fn received(&mut self) {
        self.silent_heartbeats = 0;
    }

    /// Counts a heartbeat that is sent. Returns whether `max` were sent before it and the client was silent.
    pub(crate) fn is_dead_at_heartbeat(&mut self, max: u8) -> bool {
        let is_dead = self.silent_heartbeats >= max;
        self.silent_heartbeats = self.silent_heartbeats.saturating_add(1);
        is_dead
    }

    /// Counts a `BAD_MESSAGE`. Returns how many came in a row within the last `window_ms`.
    pub(crate) fn count_bad_message(&mut self, now_ms: u64, window_ms: u64) -> usize {
        let times = &mut self.rare.get_or_insert_default().bad_messages;
        times.retain(|at| at + window_ms > now_ms);
        times.push(now_ms);
        times.len()
    }

    /// A good message ends the row of bad ones.
    pub(crate) fn forget_bad_messages(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.bad_messages.clear();
        }
    }

    /// The bucket of this class's publishes.
    pub(crate) fn publish_bucket(&mut self, class: ClassId) -> &mut Bucket {
        let publishes = &mut self.rare.get_or_insert_default().publishes;
        let at = publishes.iter().position(|(id, _)| *id == class).unwrap_or_else(|| {
            publishes.push((class, Bucket::default()));
            publishes.len() - 1
        });
        &mut publishes[at].1
    }
}
