//! Where the logs of this shard's channels are: which logged event comes next, and what happens where another one comes. A
//! channel that is behind is shown no logged events until pages of the log have made good what is missing ([`super::catch_up`]).
//!
//! ```text
//!   at P ──event P+1──▶ at P+1
//!    │  any other, a gap on the way here, or the stream went on elsewhere
//!    ▼
//!  behind P ──page──▶ behind Q ──page that ends where the live stream is──▶ at R
//! ```
//!
//! Channels with a target are kept as long as that; of those seen through patterns alone, only so many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drawbridge_protocol::{ServerMessage, glob};
use hashbrown::HashMap;

use super::Engine;
use super::catch_up::Resuming;
use super::deliver::access;
use super::outbound::Outbound;
use crate::access::Access;
use crate::io::{BrokerCommand, ChannelPosition, LogPosition, LoggedOffset, Output, Publication, SessionId};
use crate::session::Session;
use crate::targets::{Subscriber, Target, TargetId};

/// How many channels that are seen through patterns alone are followed.
const MAX_BY_PATTERN: usize = 16_384;
/// No log comes so far: behind it nothing is read but where the log is, and never from memory.
const BEYOND: LoggedOffset = LoggedOffset((1 << 53) - 1);
/// How long events may be hidden from a client before it is sent `POSITION`, in milliseconds (contract §4: 10 s).
const POSITION_EVERY_MS: u64 = 5_000;

/// The log of one channel, as the shard's subscribers know it.
#[derive(Debug, Default)]
pub(super) struct ChannelLog {
    /// Up to here they were shown it; `None`: not known yet.
    pub(super) at: Option<LogPosition>,
    /// Events after `at` are missing: live logged events are not shown.
    pub(super) is_behind: bool,
    /// A page was requested.
    pub(super) is_out: bool,
    /// What `at` means the hub's memory does not say: the store is to be read.
    pub(super) asks_store: bool,
    /// Its place among those that are seen through patterns; 0: it has none.
    by_pattern: u64,
    /// Sessions that catch up.
    pub(super) resuming: Vec<Resuming>,
    /// The last event that was hidden from a subscriber, as a number of publication.
    hidden_seq: u64,
    /// When they are sent `POSITION`; 0: nothing was hidden since.
    position_at_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ChannelLogs {
    by_channel: HashMap<Arc<str>, ChannelLog>,
    /// Channels that are seen through patterns, in the order in which they were first. Invariant: a log whose channel has no
    /// target is among them.
    by_pattern: BTreeMap<u64, Arc<str>>,
    /// The last place in it.
    places: u64,
    /// Some that are still seen are followed no more.
    has_evicted: bool,
    /// When which channel's clients are sent `POSITION`.
    deadlines: BTreeSet<(u64, Arc<str>)>,
}

impl ChannelLogs {
    pub(super) fn get(&self, channel: &str) -> Option<&ChannelLog> {
        self.by_channel.get(channel)
    }

    pub(super) fn get_mut(&mut self, channel: &str) -> Option<&mut ChannelLog> {
        self.by_channel.get_mut(channel)
    }

    pub(super) fn get_or_insert(&mut self, channel: &Arc<str>) -> &mut ChannelLog {
        self.by_channel.entry(channel.clone()).or_default()
    }

    fn remove(&mut self, channel: &str) {
        let Some((channel, log)) = self.by_channel.remove_entry(channel) else { return };
        self.by_pattern.remove(&log.by_pattern);
        self.deadlines.remove(&(log.position_at_ms, channel));
    }

    /// The channel is among those that are seen through patterns, as the newest unless it is there already.
    fn put_by_pattern(&mut self, channel: &Arc<str>) {
        let log = self.by_channel.entry(channel.clone()).or_default();
        if log.by_pattern == 0 {
            self.places += 1;
            log.by_pattern = self.places;
            self.by_pattern.insert(self.places, channel.clone());
        }
    }

    /// Whether the channel is among those that are seen through patterns, and says so itself.
    pub(super) fn is_by_pattern(&self, channel: &str) -> bool {
        let place = self.by_channel.get(channel).and_then(|log| self.by_pattern.get(&log.by_pattern));
        place.is_some_and(|name| **name == *channel)
    }

    /// Takes out the oldest of them if there are too many.
    fn pop_by_pattern(&mut self) -> Option<Arc<str>> {
        if self.by_pattern.len() <= MAX_BY_PATTERN {
            return None;
        }
        let (_, oldest) = self.by_pattern.pop_first()?;
        if let Some(log) = self.by_channel.get_mut(&oldest) {
            log.by_pattern = 0;
        }
        Some(oldest)
    }

    /// How many channels are followed.
    pub(super) fn len(&self) -> usize {
        self.by_channel.len()
    }

    /// How many sessions catch up, each once for each channel.
    pub(super) fn catching_up(&self) -> usize {
        self.by_channel.values().map(|log| log.resuming.len()).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &ChannelLog)> {
        self.by_channel.iter()
    }

    /// When [`Engine::send_hidden_positions`] must be called at the latest.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A logged event was hidden from a subscriber.
    pub(super) fn note_hidden(&mut self, channel: &Arc<str>, publication_seq: u64, now_ms: u64) {
        let Some(log) = self.by_channel.get_mut(channel) else { return };
        log.hidden_seq = publication_seq;
        if log.position_at_ms == 0 {
            log.position_at_ms = now_ms + POSITION_EVERY_MS;
            self.deadlines.insert((log.position_at_ms, channel.clone()));
        }
    }

    fn pop_due(&mut self, now_ms: u64) -> Option<(Arc<str>, u64, LogPosition)> {
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now_ms) {
            let (_, channel) = self.deadlines.pop_first()?;
            let Some(log) = self.by_channel.get_mut(&channel) else { continue };
            log.position_at_ms = 0;
            if let Some(at) = log.at {
                return Some((channel, log.hidden_seq, at));
            }
        }
        None
    }

    /// The log could not be read: there is no position that clients could be sent, and nothing that they wait for.
    pub(super) fn lose_position(&mut self, channel: &str) -> Option<(Vec<Resuming>, bool)> {
        let (channel, log) = self.by_channel.get_key_value_mut(channel)?;
        log.at = None;
        self.deadlines.remove(&(std::mem::take(&mut log.position_at_ms), channel.clone()));
        Some((std::mem::take(&mut log.resuming), std::mem::take(&mut log.is_behind)))
    }
}

impl Engine {
    /// Whether an event of a channel with `history` is to be shown now: it is the next of its log, or volatile.
    pub(super) fn continues_log(&mut self, publication: &Arc<Publication>) -> bool {
        let channel = &publication.channel;
        let next = publication.in_log.position();
        let Some(log) = self.logs.get_mut(channel) else {
            // What was on its way when the last one left begins nothing.
            if next.is_some() && self.is_seen_by_pattern(channel) {
                self.logs.get_or_insert(channel).at = next;
                self.follow_by_pattern(channel);
            }
            return true;
        };
        // A volatile event has no place in the log: it is shown at once, wherever that is.
        let Some(next) = next else { return true };
        match log.at {
            Some(_) if log.is_behind => false,
            Some(at) if next.offset <= at.offset => false,
            Some(at) if next.offset != at.offset.next() => {
                self.fall_behind(channel);
                false
            }
            _ => {
                self.log_goes_on(channel, next);
                true
            }
        }
    }

    /// The log has come to this event, which is about to be shown.
    pub(super) fn log_goes_on(&mut self, channel: &Arc<str>, next: LogPosition) {
        let Some(log) = self.logs.get_mut(channel) else { return };
        let before = log.at.replace(next);
        if let Some(before) = before.filter(|before| before.epoch != next.epoch) {
            self.announce_epoch(channel, LogPosition { offset: before.offset, ..next });
        }
    }

    /// Whether a confirmed pattern matches this channel.
    fn is_seen_by_pattern(&mut self, channel: &str) -> bool {
        let mut matched = std::mem::take(&mut self.matched);
        self.targets.matching_patterns(channel, &mut matched);
        let is_seen = matched.drain(..).any(|id| self.targets[id].is_confirmed);
        self.matched = matched;
        is_seen
    }

    /// A channel is followed for those who see it through patterns. Where they are too many the oldest is followed no more.
    pub(super) fn follow_by_pattern(&mut self, channel: &Arc<str>) {
        self.logs.put_by_pattern(channel);
        let Some(oldest) = self.logs.pop_by_pattern() else { return };
        let has_target = self.targets.find_channel(&oldest).is_some();
        match self.logs.get(&oldest) {
            None => {}
            Some(_) if has_target => {}
            Some(log) if log.is_behind || !log.resuming.is_empty() => self.logs.put_by_pattern(&oldest),
            Some(_) => {
                self.logs.remove(&oldest);
                self.logs.has_evicted = true;
            }
        }
    }

    /// The broker has confirmed a channel with `history`, whose live stream goes on behind this position. Returns where its
    /// subscribers are, and whether that is known: then what they have missed is read.
    pub(super) fn log_confirmed(&mut self, channel: &Arc<str>, position: LogPosition) -> (LogPosition, bool) {
        let log = self.logs.get_or_insert(channel);
        let known = log.at;
        let at = *log.at.get_or_insert(position);
        log.is_behind |= at != position;
        self.ask_log(channel);
        (at, known.is_some())
    }

    /// The live stream of a channel goes on elsewhere.
    pub(super) fn log_moved(
        &mut self,
        channel: &Arc<str>,
        from: LogPosition,
        to: LogPosition,
        is_whole: bool,
    ) {
        let Some(log) = self.logs.get_mut(channel) else {
            // Whoever is new to it has missed nothing. If it was followed no more, what was missed is not known.
            let viewers = if self.logs.has_evicted { self.viewers(channel) } else { Vec::new() };
            if !viewers.is_empty() {
                self.logs.get_or_insert(channel).at = Some(to);
                self.follow_by_pattern(channel);
                self.resync(&viewers, channel, "gap", Some(ChannelPosition::Logged(to)));
            }
            return;
        };
        match log.at {
            None => log.at = Some(to),
            Some(at) if at == to => {}
            Some(at) if at == from && is_whole && !log.is_behind => {
                self.log_goes_on(channel, to);
                self.set_position(channel, to);
            }
            Some(_) => self.fall_behind(channel),
        }
    }

    /// Logged events of a channel were dropped on the way here, from this one on: they are read from the log.
    pub(super) fn log_gap(&mut self, channel: &Arc<str>, first: LogPosition) {
        if self.logs.get(channel).is_none_or(|log| log.at.is_none()) {
            // As in `continues_log`: the channel begins with it for those who see it through patterns.
            if !self.is_seen_by_pattern(channel) {
                return;
            }
            self.logs.get_or_insert(channel).at = Some(first.before());
            self.follow_by_pattern(channel);
        }
        self.fall_behind(channel);
    }

    /// Events of a channel are missing: its subscribers are shown no logged event until these have been read.
    fn fall_behind(&mut self, channel: &Arc<str>) {
        let Some(log) = self.logs.get_mut(channel) else { return };
        log.is_behind |= log.at.is_some();
        self.ask_log(channel);
    }

    /// A pattern is live again after a break of its link: what was missed of the channels that are followed for it is read at
    /// once. Channels with a subscription by name are read when that is confirmed.
    pub(super) fn pattern_confirmed_again(&mut self, pattern: &str) {
        for channel in self.followed_under(pattern) {
            if self.targets.find_channel(&channel).is_none() {
                self.fall_behind(&channel);
            }
        }
    }

    /// The channels under a pattern that are followed for those who see them through patterns.
    fn followed_under(&mut self, pattern: &str) -> Vec<Arc<str>> {
        // At most one step each.
        self.targets.work.add(self.logs.by_pattern.len() as u64);
        let is_under = |channel: &&Arc<str>| glob::glob_matches(pattern, channel);
        self.logs.by_pattern.values().filter(is_under).cloned().collect()
    }

    /// Requests the next page of a log, for all who need one; not while one is on its way.
    pub(super) fn ask_log(&mut self, channel: &Arc<str>) {
        let Some(log) = self.logs.get(channel).filter(|log| !log.is_out) else { return };
        let from = |asks_store, offset| if asks_store { BEYOND } else { offset };
        let behind = log.at.filter(|_| log.is_behind).map(|at| from(log.asks_store, at.offset));
        let wanting = log.resuming.iter().filter(|one| self.wants_page(one));
        let (paying, owing): (Vec<_>, Vec<_>) = wanting
            .map(|one| {
                let after = from(one.asks_store, one.cursor.offset);
                (after, one.session, self.work_is_paid_in_ms(one.session))
            })
            .partition(|(_, _, paid_in_ms)| paid_in_ms.is_none());
        let paying = paying.into_iter().map(|(after, ..)| after);
        let after = behind.into_iter().chain(paying).min();
        for (_, session, paid_in_ms) in owing {
            self.catch_up_later(session, paid_in_ms.unwrap_or_default());
        }
        let Some(after) = after else { return };
        if let Some(log) = self.logs.get_mut(channel) {
            log.is_out = true;
        }
        let channel = channel.clone();
        self.out.outputs.push_back(Output::Broker(BrokerCommand::CatchUp { channel, after }));
    }

    /// What clients are shown as the channel's position.
    pub(super) fn set_position(&mut self, channel: &str, at: LogPosition) {
        if let Some(id) = self.targets.find_channel(channel)
            && let Some(ChannelPosition::Logged(position)) = &mut self.targets[id].position
        {
            *position = at;
        }
    }

    /// Takes a target out, and what is known of its log where no one sees it any more.
    pub(super) fn remove_target(&mut self, id: TargetId) -> Target {
        let target = self.targets.remove(id);
        let name = &target.subject.name;
        if target.subject.is_pattern() {
            for channel in self.followed_under(name) {
                if self.targets.find_channel(&channel).is_none() && !self.is_followed(&channel) {
                    self.logs.remove(&channel);
                }
            }
            self.logs.has_evicted &= !self.logs.by_pattern.is_empty();
        } else if self.logs.get(name).is_some() {
            match self.is_followed(name) {
                true => self.follow_by_pattern(name),
                false => self.logs.remove(name),
            }
        }
        target
    }

    /// Whether someone is shown a channel by a pattern, or catches up on it. Of any other channel events come and go
    /// unnoticed, and the next one follows nothing.
    fn is_followed(&mut self, channel: &str) -> bool {
        if self.logs.get(channel).is_some_and(|log| !log.resuming.is_empty()) {
            return true;
        }
        let mut matched = std::mem::take(&mut self.matched);
        self.targets.matching_patterns(channel, &mut matched);
        let is_shown = |id| self.targets[id].subscribers.iter().any(|one| one.phase.is_shown_events());
        let is_followed = matched.drain(..).any(is_shown);
        self.matched = matched;
        is_followed
    }

    /// Who is shown the events of a real channel, by its name or by a pattern; each once.
    pub(super) fn viewers(&mut self, channel: &Arc<str>) -> Vec<SessionId> {
        let mut sessions = Vec::new();
        if let Some(id) = self.targets.find_channel(channel) {
            let shown = self.targets[id].subscribers.iter().filter(|theirs| theirs.phase.is_shown_events());
            sessions.extend(shown.map(|theirs| theirs.session));
        }
        let mut matched = std::mem::take(&mut self.matched);
        self.targets.matching_patterns(channel, &mut matched);
        for id in matched.drain(..) {
            let shown = self.targets[id].subscribers.iter().filter(|theirs| theirs.phase.is_shown_events());
            for subscriber in shown {
                let session = &mut self.sessions[subscriber.session];
                let is_held = session.holds_events();
                if session.is_catching_up(channel) && !is_held {
                    continue;
                }
                let access = access(&self.settings, &mut self.views, session, channel);
                match access {
                    Access::Denied => {}
                    // What the channel has lost its client may not know of.
                    Access::Granted(_) if is_held => session.shown_logs.get_or_insert_default().note(channel),
                    Access::Granted(_) => sessions.push(subscriber.session),
                }
            }
        }
        self.matched = matched;
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// Another epoch goes on where the one before ended: who is subscribed by the channel's name is sent `POSITION` before
    /// its first event. Through patterns [`Outbound::announce_position`] sends it.
    fn announce_epoch(&mut self, channel: &Arc<str>, at: LogPosition) {
        let Some(id) = self.targets.find_channel(channel) else { return };
        let shown = self.targets[id].subscribers.iter().filter(|theirs| theirs.phase.is_shown_events());
        let sessions: Vec<SessionId> = shown.map(|theirs| theirs.session).collect();
        for session in sessions {
            self.send_position(session, channel, at);
        }
    }

    /// Sends a client its position, behind all that it was sent of the channel.
    pub(super) fn send_position(&mut self, id: SessionId, channel: &Arc<str>, at: LogPosition) {
        self.flush_channel(id, channel);
        let session = &mut self.sessions[id];
        if session.is_open() {
            self.out.send_position(session, channel, at);
        }
    }

    /// Sends their positions to clients from whom events have been hidden for a while.
    ///
    /// Why one time for each channel: nothing is kept for a subscription, and no timer runs where nothing is hidden.
    pub(super) fn send_hidden_positions(&mut self) {
        while let Some((channel, hidden_seq, at)) = self.logs.pop_due(self.out.now.mono_ms) {
            let mut sessions = Vec::new();
            if let Some(id) = self.targets.find_channel(&channel)
                && let Some(audiences) = &self.targets[id].audiences
            {
                let target = &self.targets[id];
                let missed = audiences.iter().filter(|(_, audience)| !audience.was_shown_since(hidden_seq));
                let members = missed.flat_map(|(_, audience)| &audience.members);
                let members = members.map(|slot| target.subscriber_at(*slot));
                sessions.extend(members.filter(|one| one.phase.is_shown_events()).map(|one| one.session));
            }
            let mut matched = std::mem::take(&mut self.matched);
            self.targets.matching_patterns(&channel, &mut matched);
            for id in matched.drain(..) {
                for subscriber in
                    self.targets[id].subscribers.iter().filter(|one| one.phase.is_shown_events())
                {
                    let session = &mut self.sessions[subscriber.session];
                    let cache = session.access.as_mut().filter(|_| session.catching_up.is_none());
                    if cache.is_some_and(|cache| cache.has_missed(&channel, hidden_seq)) {
                        sessions.push(subscriber.session);
                    }
                }
            }
            self.matched = matched;
            sessions.sort_unstable();
            sessions.dedup();
            for session in sessions {
                // Where nothing can be written now, what is queued comes first.
                if !self.sessions[session].is_blocked() {
                    self.send_position(session, &channel, at);
                }
            }
        }
        self.enforce_limits();
    }
}

impl Outbound {
    fn send_position(&mut self, session: &mut Session, channel: &str, at: LogPosition) {
        let (epoch, offset) = (at.epoch.as_str(), at.offset.0);
        self.send(session, &ServerMessage::Position { channel, epoch, offset });
    }

    /// A logged event is about to be sent through a pattern: before the first of its channel, and of its epoch, the client
    /// is sent `POSITION`.
    pub(super) fn announce_position(
        &mut self,
        session: &mut Session,
        subscriber: &Subscriber,
        publication: &Publication,
        at: LogPosition,
    ) {
        if !subscriber.phase.is_shown_events() || !session.is_open() {
            return;
        }
        let channel = &publication.channel;
        let Some(cache) = &mut session.access else { return };
        if cache.is_new_epoch(channel, at.epoch, self.publication_seq) {
            session.shown_logs.get_or_insert_default().note(channel);
            self.send_position(session, channel, at.before());
        }
    }
}
