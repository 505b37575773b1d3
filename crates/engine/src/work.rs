//! How much work the engine does for a client, in *steps*: the unit of [`crate::expr::Expr::work`], about 40
//! instructions. Who pays for it is decided in `engine/costs`.
//!
//! What is counted is what grows with a table, with a log or with a client's input: entities that are examined, filters that are
//! evaluated, what is sent of entities, and what is read and sent again of logs. The rest of a request is paid with its message.

use std::cell::Cell;
use std::rc::Rc;

use crate::settings::Rate;

/// Steps for which one token of `limits.work` is taken: about the CPU time of an ordinary message.
pub const STEPS_PER_TOKEN: u64 = 256;

/// What the snapshots of one shard do in a turn, in steps: about a millisecond's work, and about what one message of them holds.
/// Events of the broker, and what other sockets send, wait for no more than that.
pub const SNAPSHOT_STEPS: u64 = 128 * STEPS_PER_TOKEN;

/// To look at one entity, or one cell of the grid.
pub(crate) const EXAMINE: u64 = 2;
/// To read one entity of a stored table and put it into an index.
pub(crate) const INDEX: u64 = 72;
/// To note that an entity came into view or left it, and to send that.
pub(crate) const NOTIFY: u64 = 40;
/// To check the right to one subscription again.
pub(crate) const AUTHORIZE: u64 = 64;
/// To have one page of a log read for a session: what Redis and its link do.
pub(crate) const PAGE: u64 = 512;
/// So many bytes are copied and written in one step.
const BYTES_COPIED: usize = 16;
/// An expression that walks through JSON takes its steps again for each so many bytes.
const BYTES_WALKED: usize = 256;
/// The same for the data of an entity, which is not parsed yet: each path is searched for in its text.
const BYTES_SEARCHED: usize = 32;

/// Counts steps; clones count together. One for each shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkMeter(Rc<Cell<u64>>);

impl WorkMeter {
    pub(crate) fn add(&self, steps: u64) {
        self.0.set(self.0.get().saturating_add(steps));
    }

    /// All steps so far.
    pub(crate) fn total(&self) -> u64 {
        self.0.get()
    }
}

/// To send this many bytes of an entity.
pub(crate) fn to_send(bytes: usize) -> u64 {
    NOTIFY + (bytes / BYTES_COPIED) as u64
}

/// To evaluate an expression of this [`Expr::work`](crate::expr::Expr::work) over a JSON text of this many bytes.
pub(crate) fn to_evaluate(work: usize, bytes: usize) -> u64 {
    work.saturating_mul(1 + bytes / BYTES_WALKED) as u64
}

/// To evaluate a view of this [`Expr::work`](crate::expr::Expr::work) about an entity whose data has this many bytes.
pub(crate) fn to_show(work: usize, bytes: usize) -> u64 {
    work.saturating_mul(1 + bytes / BYTES_SEARCHED) as u64
}

/// The same for so many entities, whose data has this many bytes together: at least what each of them takes.
pub(crate) fn to_show_all(work: usize, entities: usize, bytes: usize) -> u64 {
    work.saturating_mul(entities + bytes / BYTES_SEARCHED) as u64
}

/// A rate of tokens as one of steps.
pub fn in_steps(tokens: Rate) -> Rate {
    Rate {
        per_second: tokens.per_second.saturating_mul(STEPS_PER_TOKEN),
        burst: tokens.burst.saturating_mul(STEPS_PER_TOKEN),
    }
}
