//! A Redis that does nothing but Pub/Sub, in virtual time: every link has its subscriptions and a queue of what
//! Redis has sent on it and the link has not read yet.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{Subject, Ticket};
use drawbridge_engine::upstream::LinkCommand;
use drawbridge_protocol::glob::glob_matches;

/// What a link reads.
#[derive(Clone, Debug)]
pub enum Push {
    Subscribed(Subject),
    Unsubscribed(Subject),
    Refused(Subject),
    Message {
        pattern: Option<Arc<str>>,
        channel: Arc<str>,
        payload: Bytes,
    },
    /// The answer to a shard that waits for all that was published before.
    Fence {
        shard: usize,
        ticket: Ticket,
        channel: Arc<str>,
    },
}

#[derive(Debug, Default)]
pub struct Link {
    pub up: bool,
    subscriptions: Vec<Subject>,
    pub unread: VecDeque<Push>,
}

#[derive(Debug, Default)]
pub struct Redis {
    pub links: Vec<Link>,
    /// Its ACL allows the patterns of whole classes only.
    pub refuses_narrow: bool,
    /// Every publication: channel and number, in Redis' order.
    pub log: Vec<(Arc<str>, u64)>,
}

impl Redis {
    pub fn command(&mut self, link: usize, command: LinkCommand) {
        if !self.links[link].up {
            return;
        }
        let link = &mut self.links[link];
        match command {
            LinkCommand::Subscribe(subjects) => {
                for subject in subjects {
                    assert!(!link.subscriptions.contains(&subject), "a second subscription to {subject:?}");
                    if subject.is_pattern() && self.refuses_narrow && !subject.name.ends_with(":*") {
                        link.unread.push_back(Push::Refused(subject));
                        continue;
                    }
                    link.subscriptions.push(subject.clone());
                    link.unread.push_back(Push::Subscribed(subject));
                }
            }
            LinkCommand::Unsubscribe(subjects) => {
                for subject in subjects {
                    link.subscriptions.retain(|other| *other != subject);
                    link.unread.push_back(Push::Unsubscribed(subject));
                }
            }
            LinkCommand::Mark(marker) => self.send(&marker, &Bytes::new()),
        }
    }

    /// One publication, numbered by who publishes it.
    pub fn publish(&mut self, channel: &Arc<str>, number: u64, payload: &Bytes) {
        self.log.push((channel.clone(), number));
        self.send(channel, payload);
    }

    /// To all who are subscribed now, on all links at once.
    fn send(&mut self, channel: &Arc<str>, payload: &Bytes) {
        for link in self.links.iter_mut().filter(|link| link.up) {
            let matches = |subject: &Subject| match subject.is_pattern() {
                true => glob_matches(&subject.name, channel),
                false => subject.name == *channel,
            };
            let (exact, patterns): (Vec<_>, Vec<_>) = link
                .subscriptions
                .iter()
                .filter(|subject| matches(subject))
                .partition(|subject| !subject.is_pattern());
            for subject in exact.into_iter().chain(patterns) {
                link.unread.push_back(Push::Message {
                    pattern: subject.is_pattern().then(|| subject.name.clone()),
                    channel: channel.clone(),
                    payload: payload.clone(),
                });
            }
        }
    }

    /// Returns what the link had not read yet.
    pub fn cut(&mut self, link: usize) -> VecDeque<Push> {
        std::mem::take(&mut self.links[link]).unread
    }

    /// Once all is quiet no pattern that Redis holds is under another one.
    pub fn check_covers(&self) {
        for link in &self.links {
            let patterns: Vec<&str> = link
                .subscriptions
                .iter()
                .filter(|subject| subject.is_pattern())
                .map(|subject| &*subject.name)
                .collect();
            for pattern in &patterns {
                let is_wider =
                    |other: &&&str| *other != pattern && pattern.starts_with(other.trim_end_matches('*'));
                assert!(!patterns.iter().any(|other| is_wider(&other)), "{patterns:?}");
            }
        }
    }

    pub fn subscriptions(&self) -> usize {
        self.links.iter().map(|link| link.subscriptions.len()).sum()
    }
}
