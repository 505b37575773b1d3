//! What this shard's connections are subscribed to: each channel or pattern with its subscribers, and whether the
//! broker has confirmed it. It owns the indexes by name; it leaves rights to [`crate::permissions`] and the
//! connections' side of a subscription to [`crate::connection`].

use std::rc::Rc;
use std::sync::Arc;

use drawbridge_protocol::RequestId;
use hashbrown::HashMap;
use slab::Slab;

use crate::expr::Expr;
use crate::interest::PatternIndex;
use crate::io::{ConnId, Position, Publication, Subject, SubjectRef, Ticket};
use crate::view::View;

/// A place in [`Targets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TargetId(pub(crate) u32);

/// One channel or pattern that at least one connection of this shard wants.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) subject: Subject,
    pub(crate) subscribers: Vec<Subscriber>,
    /// The broker has confirmed it, and the link has not broken since.
    pub(crate) live: bool,
    /// Where the channel's count stands, once it was confirmed.
    pub(crate) position: Option<Position>,
    /// Who is told when it is confirmed.
    pub(crate) waiters: Vec<Waiter>,
}

/// One connection on one target.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) conn: ConnId,
    /// Redis has confirmed it, and the client was told (or is in its `WELCOME`).
    pub(crate) live: bool,
    /// What its connection published up to this was before it subscribed, and is not shown to it.
    pub(crate) since: Ticket,
    /// The client's filter as it was asked for: folded anew when the claims change.
    pub(crate) filter: Option<Expr>,
    /// What is left of the views to ask of each event; for a pattern only the client's part.
    pub(crate) view: Option<Rc<View>>,
}

impl Subscriber {
    /// Whether this connection published it, before it subscribed.
    pub(crate) fn is_own_past(&self, connection: u64, publication: &Publication) -> bool {
        publication
            .sender
            .is_some_and(|sender| sender.ticket <= self.since && sender.connection == connection)
    }
}

/// What one pattern subscriber may see of one real channel.
#[derive(Clone, Debug)]
pub(crate) enum Judgement {
    /// Nothing.
    Hidden,
    /// What the view shows; `None`: everything.
    Shown(Option<Rc<View>>),
}

/// Looks a judgement up without owning the channel's name.
#[derive(Hash)]
struct JudgedRef<'a>(TargetId, &'a str);

impl hashbrown::Equivalent<(TargetId, Arc<str>)> for JudgedRef<'_> {
    fn equivalent(&self, key: &(TargetId, Arc<str>)) -> bool {
        self.0 == key.0 && *self.1 == *key.1
    }
}

/// What was judged of the real channels that reach one connection through its patterns: bounded for all of them
/// together, and forgotten as a whole.
#[derive(Debug, Default)]
pub(crate) struct Judged(HashMap<(TargetId, Arc<str>), Judgement>);

impl Judged {
    const MAX_CHANNELS: usize = 1_024;

    pub(crate) fn get(&self, pattern: TargetId, channel: &str) -> Option<&Judgement> {
        self.0.get(&JudgedRef(pattern, channel))
    }

    pub(crate) fn insert(&mut self, pattern: TargetId, channel: Arc<str>, judgement: Judgement) {
        if self.0.len() >= Self::MAX_CHANNELS {
            self.0.clear();
        }
        self.0.insert((pattern, channel), judgement);
    }

    /// A pattern was left, or is to be judged anew.
    pub(crate) fn forget(&mut self, pattern: TargetId) {
        self.0.retain(|(other, _), _| *other != pattern);
    }
}

/// A subscription that waits for the broker's confirmation.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) conn: ConnId,
    pub(crate) reply: Reply,
}

/// What a connection is told when its subscription is live.
#[derive(Debug)]
pub(crate) enum Reply {
    /// `CHANNEL_SUBSCRIBED` to this request.
    Request(RequestId),
    /// `CHANNEL_SUBSCRIBED` without an id: from a service.
    Server,
    /// `CHANNEL_SUBSCRIBED` without an id: from a template, or pending in `WELCOME`.
    Told,
    /// Nothing: a request without an id.
    Silent,
    /// `WELCOME` waits for it.
    Welcome,
}

/// All targets of a shard.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    slab: Slab<Target>,
    by_subject: HashMap<Subject, TargetId>,
    patterns: PatternIndex<TargetId>,
}

impl Targets {
    /// The target of this name.
    pub(crate) fn find(&self, subject: &Subject) -> Option<TargetId> {
        self.by_subject.get(subject).copied()
    }

    /// The target of this exact channel.
    pub(crate) fn find_channel(&self, name: &str) -> Option<TargetId> {
        self.by_subject.get(&SubjectRef { name, pattern: false }).copied()
    }

    /// The target of this name, made if it is new; says whether it is.
    pub(crate) fn find_or_insert(&mut self, subject: &Subject) -> (TargetId, bool) {
        if let Some(id) = self.find(subject) {
            return (id, false);
        }
        let target = Target {
            subject: subject.clone(),
            subscribers: Vec::new(),
            live: false,
            position: None,
            waiters: Vec::new(),
        };
        let id = TargetId(self.slab.insert(target) as u32);
        self.by_subject.insert(subject.clone(), id);
        if subject.pattern {
            self.patterns.insert(subject.name.clone(), id);
        }
        (id, true)
    }

    /// Forgets a target.
    pub(crate) fn remove(&mut self, id: TargetId) -> Option<Target> {
        let target = self.slab.try_remove(id.0 as usize)?;
        self.by_subject.remove(&target.subject);
        if target.subject.pattern {
            self.patterns.remove(&target.subject.name);
        }
        Some(target)
    }

    pub(crate) fn get(&self, id: TargetId) -> Option<&Target> {
        self.slab.get(id.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, id: TargetId) -> Option<&mut Target> {
        self.slab.get_mut(id.0 as usize)
    }

    /// The patterns that match a real channel.
    pub(crate) fn matching_patterns(&self, channel: &str, found: &mut Vec<TargetId>) {
        if !self.patterns.is_empty() {
            self.patterns.for_each_match(channel, |_, id| found.push(*id));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
}
