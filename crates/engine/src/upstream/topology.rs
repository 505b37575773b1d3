//! Which link carries which subject. Today every link leads to the one address of the configuration, and a channel's link
//! follows from its name, so that each keeps its order and its count. An entry may be moved to another link; [`super::moves`]
//! is how, without a gap or a duplicate.
//!
//! In a Cluster the sharded channels have separate links behind those: one for each master that has slots. Such a link
//! stands for the master's slots and not for its address, so it stays when a replica takes over; what changes are slots that
//! get another master ([`super::slot_moves`]). These channels never move one by one.
//!
//! Patterns, and the channels that they can match, share the first link: one cover serves all patterns there, and where
//! Redis sends several copies of a publication they follow one another, so that one of them can be chosen. These never move.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::slot_moves::SlotMove;
use super::slots::{SLOTS, SlotHasher, SlotSet};
use crate::class::{Classes, ShardedChannels};
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
    /// The links of the masters; `None`: sharded channels are as any others.
    masters: Option<Masters>,
}

/// The links of a Cluster's masters.
#[derive(Debug)]
struct Masters {
    channels: ShardedChannels,
    hasher: SlotHasher,
    /// The place of the first of them.
    first: usize,
    /// The master of each link, by the link's place behind `first`; `None`: it has none.
    by_link: Vec<Option<Arc<str>>>,
    /// For each slot which of them has it.
    owners: Box<[u16]>,
    /// How many moves of slots there were.
    moves: u64,
}

/// The slots of one master.
#[derive(Clone, Debug)]
pub struct MasterSlots {
    /// Names it; not twice in one list.
    pub master: Arc<str>,
    /// What it has.
    pub slots: SlotSet,
}

/// What is to be done after slots got other masters.
#[derive(Debug, Default)]
pub struct Reassigned {
    /// Between which links, in order.
    pub moves: Vec<SlotMove>,
    /// Links that lead to a master now and did not before.
    pub opened: Vec<LinkId>,
    /// Links that lead to no master any more.
    pub closed: Vec<LinkId>,
    /// Masters that have slots and got no link, because there are more than links.
    pub without_link: usize,
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
            masters: None,
        }
    }

    /// In a Cluster: sharded channels have at most so many separate links, one for each master. Until it is known who has
    /// which slots, they are all at the first of these.
    #[must_use]
    pub fn with_masters(mut self, max: usize, channels: ShardedChannels, hasher: SlotHasher) -> Self {
        let (by_link, owners) = (vec![None; max], vec![0; usize::from(SLOTS)].into());
        if max > 0 && !channels.is_empty() {
            let first = self.links;
            self.masters = Some(Masters { channels, hasher, first, by_link, owners, moves: 0 });
        }
        self
    }

    /// Slots have these masters now; a slot that none has stays where it is. Returns what moves.
    pub fn assign(&mut self, masters: &[MasterSlots]) -> Reassigned {
        self.masters.as_mut().map(|known| known.assign(masters)).unwrap_or_default()
    }

    /// The master that this link leads to; `None`: it has none now, or is not the link of a master.
    pub fn master_of(&self, link: LinkId) -> Option<&Arc<str>> {
        let masters = self.masters.as_ref()?;
        masters.by_link.get(link.place().checked_sub(masters.first)?)?.as_ref()
    }

    /// What every link is subscribed to.
    pub fn everywhere(&self) -> &Arc<str> {
        &self.everywhere
    }

    /// The links that subscribe to this subject.
    pub fn links_of(&self, subject: &Subject) -> impl Iterator<Item = LinkId> + use<> {
        let (one, all) = match *subject.name == *self.everywhere {
            true => (None, self.links_in_use()),
            false => (Some(self.link_of(subject)), Vec::new()),
        };
        one.into_iter().chain(all)
    }

    /// Those of the pool, and those of masters that have one.
    fn links_in_use(&self) -> Vec<LinkId> {
        let pool = (0..self.links).map(LinkId::at);
        pool.chain(self.masters.as_ref().into_iter().flat_map(Masters::links_in_use)).collect()
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
        if let Some(link) = self.masters.as_ref().and_then(|masters| masters.link_of(subject)) {
            return link;
        }
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
        if from == to || from.place().max(to.place()) >= self.links || self.is_first(&subject) {
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

impl Masters {
    /// The link of a sharded channel.
    fn link_of(&self, subject: &Subject) -> Option<LinkId> {
        if subject.is_pattern() || !self.channels.contain(&subject.name) {
            return None;
        }
        let owner = self.owners.get(usize::from(self.hasher.slot_of(&subject.name)))?;
        Some(LinkId::at(self.first + usize::from(*owner)))
    }

    fn links_in_use(&self) -> impl Iterator<Item = LinkId> {
        let links = (self.first..).map(LinkId::at).zip(&self.by_link);
        links.filter_map(|(link, master)| master.as_ref().map(|_| link))
    }

    fn assign(&mut self, masters: &[MasterSlots]) -> Reassigned {
        let (chosen, without_link) = self.choose(masters);
        let before: Vec<LinkId> = self.links_in_use().collect();
        self.by_link.fill(None);
        let mut moved: BTreeMap<(u16, u16), SlotSet> = BTreeMap::new();
        for (link, master) in chosen {
            if let Some(known) = self.by_link.get_mut(usize::from(link)) {
                *known = Some(master.master.clone());
            }
            for slot in master.slots.iter() {
                let before = std::mem::replace(&mut self.owners[usize::from(slot)], link);
                if before != link {
                    moved.entry((before, link)).or_default().insert(slot);
                }
            }
        }
        let moves = moved.into_iter().map(|((from, to), slots)| {
            self.moves += 1;
            let link = |place: u16| LinkId::at(self.first + usize::from(place));
            SlotMove { number: self.moves, from: link(from), to: link(to), slots: Arc::new(slots) }
        });
        let moves = moves.collect();
        let in_use: Vec<LinkId> = self.links_in_use().collect();
        let only = |these: &[LinkId], not: &[LinkId]| -> Vec<LinkId> {
            these.iter().filter(|link| !not.contains(link)).copied().collect()
        };
        Reassigned { moves, opened: only(&in_use, &before), closed: only(&before, &in_use), without_link }
    }

    /// Chooses a link for each master: the one that it has; else, of those whose master is gone, the one that shares most slots
    /// with it, as after a failover; else a free one.
    fn choose<'m>(&self, masters: &'m [MasterSlots]) -> (Vec<(u16, &'m MasterSlots)>, usize) {
        let mut chosen: Vec<(u16, &MasterSlots)> = Vec::new();
        let mut free: Vec<u16> = Vec::new();
        let mut left: Vec<&MasterSlots> = masters.iter().filter(|master| !master.slots.is_empty()).collect();
        for (link, known) in (0..).zip(&self.by_link) {
            match known.as_ref().and_then(|known| left.iter().position(|master| master.master == *known)) {
                Some(at) => chosen.push((link, left.swap_remove(at))),
                None => free.push(link),
            }
        }
        left.sort_by(|one, other| one.master.cmp(&other.master));
        let shared = |link: u16, master: &MasterSlots| {
            master.slots.iter().filter(|slot| self.owners[usize::from(*slot)] == link).count()
        };
        let mut pairs: Vec<(usize, u16, usize)> = Vec::new();
        for (at, master) in left.iter().enumerate() {
            pairs.extend(free.iter().map(|link| (shared(*link, master), *link, at)));
        }
        // Most shared slots first; then in the order of the links, so that equal maps choose alike.
        pairs.sort_by_key(|(shared, link, at)| (std::cmp::Reverse(*shared), *link, *at));
        let mut is_placed = vec![false; left.len()];
        for (_, link, at) in pairs {
            if !is_placed[at] && free.contains(&link) {
                is_placed[at] = true;
                free.retain(|other| *other != link);
                chosen.push((link, left[at]));
            }
        }
        (chosen, is_placed.iter().filter(|is_placed| !**is_placed).count())
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

    fn slots(slots: std::ops::Range<u16>) -> SlotSet {
        slots.collect()
    }

    fn master(name: &str, range: std::ops::Range<u16>) -> MasterSlots {
        MasterSlots { master: name.into(), slots: slots(range) }
    }

    /// Two links of the pool, and at most three masters.
    fn cluster() -> Topology {
        let sharded = Class { sharded: true, ..class("room:{r}", false) };
        let classes = Classes::new(vec![sharded, class("chat:{name}", false)]);
        let reserved = Reserved::new("drawbridge:");
        let channels = ShardedChannels::new(&classes, &reserved);
        Topology::standalone(2, &classes, &reserved, "drawbridge:nodes".into(), 7).with_masters(
            3,
            channels,
            SlotHasher::default(),
        )
    }

    fn moves(reassigned: &Reassigned) -> Vec<(usize, usize, usize)> {
        let places = |moved: &SlotMove| (moved.from.place(), moved.to.place(), moved.slots.len());
        reassigned.moves.iter().map(places).collect()
    }

    fn masters(topology: &Topology) -> Vec<&str> {
        (2..5).map(|place| topology.master_of(LinkId::at(place)).map_or("", |master| master)).collect()
    }

    #[test]
    fn a_sharded_channel_is_on_the_link_of_its_slots_master() {
        let mut topology = cluster();
        let (room, nodes) = (Subject::channel("room:42"), Subject::channel("drawbridge:nodes"));
        assert_eq!(links(&topology, room.clone()), [2], "nothing is known yet");
        assert_eq!(links(&topology, nodes.clone()), [0, 1]);
        let reassigned = topology.assign(&[master("a", 0..8_000), master("b", 8_000..SLOTS)]);
        assert_eq!(moves(&reassigned), [(2, 3, 8_000)], "the larger one takes the link that has all");
        assert_eq!(masters(&topology), ["b", "a", ""]);
        assert_eq!(links(&topology, room.clone()), [2], "slot 16332");
        assert_eq!(links(&topology, Subject::channel("room:1")).len(), 1);
        assert_eq!(links(&topology, nodes), [0, 1, 2, 3]);
        assert!(links(&topology, Subject::channel("chat:1"))[0] < 2);
        assert_eq!(topology.begin_move(room, LinkId::at(0)), None);
        assert_eq!(topology.begin_move(Subject::channel("chat:1"), LinkId::at(2)), None);
    }

    #[test]
    fn a_promoted_replica_gets_the_link_of_its_master() {
        let mut topology = cluster();
        topology.assign(&[master("a", 0..8_000), master("b", 8_000..SLOTS)]);
        let reassigned = topology.assign(&[master("a2", 0..8_000), master("b", 8_000..SLOTS)]);
        assert_eq!((moves(&reassigned), masters(&topology)), (vec![], vec!["b", "a2", ""]));
        // Both at once.
        topology.assign(&[master("a", 0..8_000), master("b2", 8_000..SLOTS)]);
        assert_eq!(masters(&topology), ["b2", "a", ""]);
    }

    #[test]
    fn only_slots_with_another_master_move() {
        let mut topology = cluster();
        topology.assign(&[master("a", 0..8_000), master("b", 8_000..SLOTS)]);
        // Most of one's slots go to a new one: the old one keeps its link.
        let reassigned =
            topology.assign(&[master("a", 0..100), master("b", 8_000..SLOTS), master("c", 100..8_000)]);
        assert_eq!((moves(&reassigned), masters(&topology)), (vec![(3, 4, 7_900)], vec!["b", "a", "c"]));
        let back = topology.assign(&[master("a", 0..8_000), master("b", 8_000..SLOTS)]);
        assert_eq!((moves(&back), masters(&topology)), (vec![(4, 3, 7_900)], vec!["b", "a", ""]));
        assert_eq!((reassigned.opened, back.closed.clone()), (vec![LinkId::at(4)], vec![LinkId::at(4)]));
        assert!(back.moves[0].number > reassigned.moves[0].number);
        // Nobody has a slot for a moment.
        let reassigned = topology.assign(&[master("a", 1..8_000), master("b", 8_000..SLOTS)]);
        assert_eq!(moves(&reassigned), []);
    }

    #[test]
    fn more_masters_than_links_are_counted() {
        let mut topology = cluster();
        let all =
            ["a", "b", "c", "d"].iter().zip(0..).map(|(name, at)| master(name, at * 4_096..(at + 1) * 4_096));
        assert_eq!(topology.assign(&all.collect::<Vec<_>>()).without_link, 1);
    }
}
