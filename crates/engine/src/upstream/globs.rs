//! The patterns that shards want of one link. Each is matched here and in the shards, letter by letter; Redis holds only what
//! covers them ([`super::cover`]). A pattern is live while a confirmed prefix includes it.

use std::sync::Arc;

use drawbridge_protocol::glob;

use super::cover::Changes;
use super::hub::Hub;
use super::io::{HubOutput, LinkCommand};
use super::shards::{ShardId, ShardSet};
use crate::io::{BrokerEvent, Subject};

/// A pattern that a shard wants, or wanted a moment ago.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    pub(super) shards: ShardSet,
    /// Redis has confirmed a prefix that includes it.
    pub(super) is_live: bool,
    /// It was live when the link broke.
    pub(super) broken: bool,
    /// When it is given up if nobody wants it; 0: somebody does.
    pub(super) linger_until_ms: u64,
}

impl Hub {
    pub(super) fn want_pattern(&mut self, now_ms: u64, shard: ShardId, subject: Subject) {
        if let Some(pattern) = self.patterns.get_mut(&subject.name) {
            pattern.shards.insert(shard);
            pattern.linger_until_ms = 0;
            if pattern.is_live {
                self.confirm(&subject, ShardSet::only(shard), false);
                self.serve_pattern(&subject.name);
            }
            return;
        }
        let prefix = glob::literal_prefix(&subject.name);
        let class = self.settings.classes.of_pattern(&subject.name);
        let class = class.map_or(&*prefix, |(_, class)| class.name.literal_prefix());
        self.cover.want(now_ms, &prefix, class);
        let pattern = Pattern { shards: ShardSet::only(shard), ..Pattern::default() };
        self.patterns.insert(subject.name.clone(), pattern);
        if self.cover.is_live(&prefix) {
            self.pattern_goes_live(&subject.name);
        }
        self.change_cover();
    }

    /// The last shard's time is over.
    pub(super) fn forget_pattern(&mut self, now_ms: u64, name: &str) {
        let Some(pattern) = self.patterns.remove(name) else { return };
        self.live -= usize::from(pattern.is_live);
        self.interrupted -= usize::from(pattern.broken);
        self.cover.unwant(now_ms, &glob::literal_prefix(name));
        self.change_cover();
        if self.patterns.is_empty() {
            self.counters.forget_all();
        }
        self.forget_pattern_logs(name);
    }

    /// Redis has confirmed a part of the cover.
    pub(super) fn cover_subscribed(&mut self, name: &str) {
        self.cover.subscribed(name);
        let prefix = glob::literal_prefix(name);
        let is_waiting = |(_, pattern): &(&Arc<str>, &Pattern)| !pattern.is_live;
        let waiting: Vec<Arc<str>> =
            self.patterns.under(&prefix).filter(is_waiting).map(|(name, _)| name.clone()).collect();
        for name in waiting {
            if self.cover.is_live(&glob::literal_prefix(&name)) {
                self.pattern_goes_live(&name);
            }
        }
        self.change_cover();
    }

    /// Redis has ended a part of the cover.
    pub(super) fn cover_unsubscribed(&mut self, name: &str) {
        self.cover.unsubscribed(name);
        let prefix = glob::literal_prefix(name);
        let is_covered = |name: &str| self.cover.is_live(&glob::literal_prefix(name));
        let live = self.patterns.under(&prefix).filter(|(_, pattern)| pattern.is_live);
        let broken: Vec<Arc<str>> =
            live.filter(|(name, _)| !is_covered(name)).map(|(name, _)| name.clone()).collect();
        if !broken.is_empty() {
            // Redis ended it by itself: as if the link had broken for these.
            self.pattern_logs_break(|channel| broken.iter().any(|name| glob::glob_matches(name, channel)));
            broken.iter().for_each(|name| self.pattern_breaks(name));
        }
        self.change_cover();
    }

    /// Redis does not allow a part of the cover.
    pub(super) fn cover_refused(&mut self, now_ms: u64, name: &str, reason: &str) {
        self.cover.refused(name);
        let Changes { asked, ended, refused } = self.cover.changes();
        for prefix in refused {
            let is_refused = |(name, _): &(&Arc<str>, &Pattern)| glob::literal_prefix(name) == *prefix;
            let patterns: Vec<(Arc<str>, ShardSet)> = self
                .patterns
                .under(&prefix)
                .take_while(is_refused)
                .map(|(name, pattern)| (name.clone(), pattern.shards))
                .collect();
            for (name, shards) in patterns {
                if !shards.is_empty() {
                    let subject = Subject::pattern(name.clone());
                    let event = BrokerEvent::Refused { subject, reason: reason.into() };
                    self.outputs.push_back(HubOutput::Shards(shards, event));
                }
                self.forget_pattern(now_ms, &name);
            }
        }
        self.carry_out(asked, ended);
    }

    /// The link is gone: what is wanted is requested again when it is back.
    pub(super) fn patterns_break(&mut self, now_ms: u64) {
        self.cover.link_is_down();
        let mut names: Vec<Arc<str>> = self.patterns.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        for name in names {
            match self.patterns.get(&name) {
                Some(pattern) if pattern.shards.is_empty() => self.forget_pattern(now_ms, &name),
                Some(pattern) if pattern.is_live => self.pattern_breaks(&name),
                _ => {}
            }
        }
        self.cover.restore();
        self.change_cover();
    }

    pub(super) fn narrow_cover(&mut self, now_ms: u64) {
        if self.cover.next_deadline_ms().is_some_and(|at| at <= now_ms) {
            self.cover.narrow(now_ms);
            self.change_cover();
        }
    }

    /// The shards that want this channel by a pattern.
    pub(super) fn pattern_shards(&mut self, channel: &str) -> ShardSet {
        let mut shards = ShardSet::default();
        self.patterns.for_each_match(channel, |_, pattern| {
            if pattern.is_live {
                shards = shards.union(pattern.shards);
            }
        });
        shards
    }

    fn pattern_goes_live(&mut self, name: &Arc<str>) {
        let Some(pattern) = self.patterns.get_mut(name) else { return };
        pattern.is_live = true;
        let after_break = std::mem::take(&mut pattern.broken);
        let shards = pattern.shards;
        self.live += 1;
        self.interrupted -= usize::from(after_break);
        if !shards.is_empty() {
            self.confirm(&Subject::pattern(name.clone()), shards, after_break);
        }
        self.serve_pattern(name);
    }

    fn pattern_breaks(&mut self, name: &Arc<str>) {
        let Some(pattern) = self.patterns.get_mut(name) else { return };
        pattern.is_live = false;
        pattern.broken = true;
        let shards = pattern.shards;
        self.live -= 1;
        self.interrupted += 1;
        if !shards.is_empty() {
            let event = BrokerEvent::Interrupted(Subject::pattern(name.clone()));
            self.outputs.push_back(HubOutput::Shards(shards, event));
        }
    }

    /// Does what the cover wants done; of refusals [`Hub::cover_refused`] alone knows.
    fn change_cover(&mut self) {
        let Changes { asked, ended, .. } = self.cover.changes();
        self.carry_out(asked, ended);
    }

    fn carry_out(&mut self, asked: Vec<Arc<str>>, ended: Vec<Arc<str>>) {
        self.compact_waiting();
        self.waiting.extend(asked.into_iter().map(Subject::pattern));
        if !ended.is_empty() {
            let ended = ended.into_iter().map(Subject::pattern).collect();
            self.outputs.push_back(HubOutput::Link(LinkCommand::Unsubscribe(ended)));
        }
    }
}
