//! Which link carries which subject. Today every link leads to the one address of the configuration, and a channel's link
//! follows from its name, so that each keeps its order and its count. An entry may be moved to another link; [`super::moves`]
//! is how, without a gap or a duplicate.
//!
//! Patterns, and the channels that they can match, share the first link: one cover serves all patterns there, and where
//! Redis sends several copies of a publication they follow one another, so that one of them can be chosen. These never move.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::class::Classes;
use crate::io::{Subject, SubjectKind};
use crate::settings::Reserved;

/// How many subjects may be away from the link that their names choose, so that what is remembered of them is bounded.
const MAX_MOVED: usize = 16_384;

/// Names one link of a node. Only the upstream and who runs its links know what it represents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(u16);

impl LinkId {
    /// The link at this place among those of the node.
    pub fn at(place: usize) -> Self {
        LinkId(place as u16)
    }

    /// Its place among the links of the node.
    pub fn place(self) -> usize {
        usize::from(self.0)
    }
}

/// How a moved entry gets from one link to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// What moves.
    pub subject: Subject,
    /// The link that its name chooses.
    pub home: LinkId,
    /// The link that gives it away.
    pub from: LinkId,
    /// The link that takes it.
    pub to: LinkId,
    /// The channel of the marker that both links read; nobody else knows it.
    pub marker: Arc<str>,
}

/// See the module.
#[derive(Debug)]
pub struct Topology {
    links: usize,
    /// What the channels of the first link begin with.
    first: Vec<Box<str>>,
    reserved: Box<str>,
    /// What every link is subscribed to: where nodes notify each other.
    everywhere: Arc<str>,
    /// Entries that are not on the link that their name chooses.
    moved: HashMap<Subject, LinkId>,
    max_moved: usize,
    /// Entries on their way.
    moving: HashSet<Subject>,
    /// What the names of markers are made of: random and secret.
    seed: u128,
    moves: u64,
}

impl Topology {
    /// So many links to one address; at least one.
    pub fn standalone(
        links: usize,
        classes: &Classes,
        reserved: &Reserved,
        everywhere: Arc<str>,
        seed: u128,
    ) -> Self {
        let mut first: Vec<Box<str>> = vec![reserved.prefix().into()];
        for (_, class) in classes.iter().filter(|(_, class)| class.patterns) {
            let prefix = class.name.literal_prefix();
            if !first.iter().any(|known| **known == *prefix) {
                first.push(prefix.into());
            }
        }
        let reserved = reserved.prefix().into();
        Topology {
            links: links.max(1),
            first,
            reserved,
            everywhere,
            moved: HashMap::new(),
            max_moved: MAX_MOVED,
            moving: HashSet::new(),
            seed,
            moves: 0,
        }
    }

    /// The links that subscribe to this subject.
    pub fn links_of(&self, subject: &Subject) -> impl Iterator<Item = LinkId> + use<> {
        let places = if *subject.name == *self.everywhere {
            0..self.links
        } else {
            let place = self.link_of(subject).place();
            place..place + 1
        };
        places.map(LinkId::at)
    }

    /// The link that carries this subject, or will when its move is over.
    pub fn link_of(&self, subject: &Subject) -> LinkId {
        if self.moved.is_empty() {
            return self.home_of(subject);
        }
        self.moved.get(subject).copied().unwrap_or_else(|| self.home_of(subject))
    }

    /// The link that a subject's name chooses.
    pub fn home_of(&self, subject: &Subject) -> LinkId {
        if self.links == 1 || self.is_first(subject) {
            return LinkId::at(0);
        }
        let mut hasher = foldhash::quality::FixedState::with_seed(0x6472_6177).build_hasher();
        hasher.write(subject.name.as_bytes());
        LinkId::at((hasher.finish() % self.links as u64) as usize)
    }

    /// From now on this link carries the subject; what is to be done for it. `None`: it does already, never moves, is on its
    /// way, or too many others have moved.
    pub fn begin_move(&mut self, subject: Subject, to: LinkId) -> Option<Move> {
        let (from, home) = (self.link_of(&subject), self.home_of(&subject));
        if self.moved.len() >= self.max_moved && from == home {
            return None;
        }
        if from == to || to.place() >= self.links || self.is_first(&subject) {
            return None;
        }
        // One move at a time: the next begins when this one is over.
        if !self.moving.insert(subject.clone()) {
            return None;
        }
        match home == to {
            true => self.moved.remove(&subject),
            false => self.moved.insert(subject.clone(), to),
        };
        self.moves += 1;
        let number = {
            let mut hasher = foldhash::quality::FixedState::with_seed(self.moves).build_hasher();
            hasher.write_u128(self.seed);
            hasher.finish()
        };
        Some(Move { subject, home, from, to, marker: format!("{}move:{number:016x}", self.reserved).into() })
    }

    /// The move of this subject is over.
    pub fn end_move(&mut self, subject: &Subject) {
        self.moving.remove(subject);
    }

    /// Whether it stays on the first link whatever happens.
    fn is_first(&self, subject: &Subject) -> bool {
        match subject.kind {
            SubjectKind::Pattern => true,
            SubjectKind::Channel => self.first.iter().any(|prefix| subject.name.starts_with(&**prefix)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_protocol::template::ClassName;

    use super::*;
    use crate::class::Class;
    use crate::expr::{Vars, compile};

    fn class(name: &str, patterns: bool) -> Class {
        let rule = compile("true", Vars::FILTER).unwrap();
        Class {
            subscribe: rule.clone(),
            publish: rule,
            patterns,
            ..Class::plain(ClassName::parse(name).unwrap())
        }
    }

    fn topology(classes: Vec<Class>) -> Topology {
        let everywhere = "drawbridge:nodes".into();
        Topology::standalone(4, &Classes::new(classes), &Reserved::new("drawbridge:"), everywhere, 7)
    }

    fn links(topology: &Topology, subject: Subject) -> Vec<usize> {
        topology.links_of(&subject).map(LinkId::place).collect()
    }

    #[test]
    fn every_link_hears_what_nodes_tell_each_other() {
        let topology = topology(vec![]);
        assert_eq!(links(&topology, Subject::channel("drawbridge:nodes")), [0, 1, 2, 3]);
        assert_eq!(links(&topology, Subject::channel("drawbridge:control")), [0]);
    }

    #[test]
    fn patterns_share_the_first_link_with_what_they_can_cover_and_never_move() {
        let mut topology = topology(vec![class("room:{room}", true), class("chat:{name}", false)]);
        for subject in [
            Subject::pattern("room:*"),
            Subject::channel("room:42"),
            Subject::channel("room:42:chat"),
            Subject::channel("drawbridge:control"),
        ] {
            assert_eq!(topology.link_of(&subject), LinkId::at(0), "{subject:?}");
            assert_eq!(topology.begin_move(subject, LinkId::at(1)), None);
        }
    }

    #[test]
    fn other_channels_spread_over_the_pool_always_alike() {
        let topology = topology(vec![class("chat:{name}", false)]);
        let mut used = [0; 4];
        for at in 0..400 {
            let subject = Subject::channel(format!("chat:{at}"));
            let link = topology.link_of(&subject);
            assert_eq!(link, topology.link_of(&subject));
            used[link.place()] += 1;
        }
        assert!(used.iter().all(|count| *count > 50), "{used:?}");
    }

    #[test]
    fn what_moved_is_found_on_its_new_link_and_leaves_nothing_when_it_is_home_again() {
        let mut topology = topology(vec![]);
        let subject = Subject::channel("chat:1");
        let home = topology.link_of(&subject);
        let other = LinkId::at((home.place() + 1) % 4);
        let there = topology.begin_move(subject.clone(), other).unwrap();
        assert_eq!((there.from, there.to, topology.link_of(&subject)), (home, other, other));
        assert!(there.marker.starts_with("drawbridge:move:"));
        assert_eq!(topology.begin_move(subject.clone(), other), None);
        assert_eq!(topology.begin_move(subject.clone(), home), None, "it is on its way");
        topology.end_move(&subject);
        let back = topology.begin_move(subject, home).unwrap();
        assert_ne!(back.marker, there.marker);
        assert!(topology.moved.is_empty());
    }

    #[test]
    fn so_many_move_and_no_more_until_some_are_home_again() {
        let mut topology = Topology { max_moved: 2, ..topology(vec![]) };
        let away = |topology: &mut Topology, at: usize| {
            let subject = Subject::channel(format!("chat:{at}"));
            let other = LinkId::at((topology.home_of(&subject).place() + 1) % 4);
            topology.begin_move(subject, other)
        };
        assert!(away(&mut topology, 1).is_some() && away(&mut topology, 2).is_some());
        assert_eq!(away(&mut topology, 3), None);
        let first = Subject::channel("chat:1");
        topology.end_move(&first);
        let home = topology.home_of(&first);
        assert!(topology.begin_move(first, home).is_some());
        assert!(away(&mut topology, 3).is_some());
    }
}
