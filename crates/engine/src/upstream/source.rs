//! Where a channel's events come from, beside the link: what is stored of them, and how that is merged with what comes live.

use super::log::Log;
use super::table::Table;

/// See the module.
#[derive(Debug, Default)]
pub(super) enum Source {
    /// Nothing is stored: events count as they come.
    #[default]
    Plain,
    /// The last event of each entity.
    Table(Box<Table>),
    /// All events of a while, numbered by Redis.
    Log(Box<Log>),
}

impl Source {
    pub(super) fn table(&self) -> Option<&Table> {
        match self {
            Source::Table(table) => Some(table),
            Source::Plain | Source::Log(_) => None,
        }
    }

    pub(super) fn table_mut(&mut self) -> Option<&mut Table> {
        match self {
            Source::Table(table) => Some(table),
            Source::Plain | Source::Log(_) => None,
        }
    }

    pub(super) fn log_mut(&mut self) -> Option<&mut Log> {
        match self {
            Source::Log(log) => Some(log),
            Source::Plain | Source::Table(_) => None,
        }
    }

    /// The link is gone: what is stored is read again when the channel is confirmed.
    pub(super) fn link_broke(&mut self) {
        match self {
            Source::Plain => {}
            // What broke with the link is no fault of the table: it is read without a pause.
            Source::Table(table) => table.reads = 0,
            Source::Log(log) => log.link_broke(),
        }
    }

    /// Whether the stored part is read before the channel goes live.
    pub(super) fn is_stored(&self) -> bool {
        !matches!(self, Source::Plain)
    }

    /// Takes the table out if it waits for this reading.
    pub(super) fn take_table(&mut self, load: u64) -> Option<Box<Table>> {
        match std::mem::take(self) {
            Source::Table(table) if table.awaits(load) => Some(table),
            other => {
                *self = other;
                None
            }
        }
    }
}
