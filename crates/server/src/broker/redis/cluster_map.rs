//! Which master of a Redis Cluster has which slot: the slot of a key, the map of one moment ([`ClusterMap`]), and the handle by
//! which all parts of the broker share the newest one ([`Cluster`]). How the map is learnt is left to
//! [`cluster_watch`](super::cluster_watch).

use std::sync::Arc;

use drawbridge_engine::upstream::{SLOTS, crc16};
use redis::Value;
use tokio::sync::{Notify, watch};

use super::RedisAddress;
use super::command_connection::text;

/// In the map, a slot that no master has.
const NOBODY: u16 = u16::MAX;

/// The slot of a key or of a channel: from 0 to 16383. Only the text between the first `{` and the next `}` is hashed; if
/// there is none, the whole name.
pub(super) fn slot_of(name: &[u8]) -> u16 {
    crc16(0, hash_tag(name).unwrap_or(name)) % SLOTS
}

fn hash_tag(name: &[u8]) -> Option<&[u8]> {
    let rest = &name[name.iter().position(|byte| *byte == b'{')? + 1..];
    let tag = &rest[..rest.iter().position(|byte| *byte == b'}')?];
    (!tag.is_empty()).then_some(tag)
}

/// A master of the Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Master {
    /// Where it listens.
    pub(super) address: RedisAddress,
    /// Whether the other masters say that it failed.
    pub(super) is_failed: bool,
}

/// Which master has which slot, as the Cluster said at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterMap {
    /// Counts the changes that this node has seen; 0: nothing is known yet.
    version: u64,
    /// The Cluster's configuration epoch: a higher one is the newer truth.
    epoch: u64,
    /// In the order of their addresses, also those without slots.
    masters: Vec<Master>,
    /// For each slot the place of its master in `masters`, or [`NOBODY`].
    owners: Box<[u16]>,
}

impl Default for ClusterMap {
    fn default() -> Self {
        let owners = vec![NOBODY; usize::from(SLOTS)].into();
        ClusterMap { version: 0, epoch: 0, masters: Vec::new(), owners }
    }
}

impl ClusterMap {
    /// Reads the answers to `CLUSTER SLOTS`, `CLUSTER SHARDS` and `CLUSTER INFO`. The second adds masters without slots and who
    /// failed, the third the epoch; both may be missing. `answered_by`: the host of the server, which stands for one that the answers
    /// leave out. `by_tls`: how masters are reached; the first answer names only ports of that kind, the second both.
    ///
    /// # Errors
    /// What is wrong with the answer to `CLUSTER SLOTS`.
    pub(super) fn read(
        slots: &Value,
        shards: &Value,
        info: &Value,
        answered_by: &str,
        by_tls: bool,
    ) -> Result<Self, String> {
        let mut map = ClusterMap { epoch: epoch_in(info), ..ClusterMap::default() };
        let Value::Array(ranges) = slots else {
            return Err("CLUSTER SLOTS: an unexpected answer".to_owned());
        };
        for range in ranges {
            let (from, to, address) = owned_range(range, answered_by)
                .ok_or_else(|| "CLUSTER SLOTS: a range that cannot be read".to_owned())?;
            let place = map.place_of(&address);
            map.owners[usize::from(from)..=usize::from(to)].fill(place);
        }
        for Master { address, is_failed } in masters_in(shards, answered_by, by_tls) {
            let place = map.place_of(&address);
            map.masters[usize::from(place)].is_failed = is_failed;
        }
        map.sort();
        match map.masters.is_empty() {
            true => Err("the Cluster names no master: no slots are assigned yet".to_owned()),
            false => Ok(map),
        }
    }

    /// Counts the changes that this node has seen; 0: nothing is known yet.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// All masters, in the order of their addresses.
    pub(super) fn masters(&self) -> &[Master] {
        &self.masters
    }

    /// The master that has this slot; `None`: none has it, as far as is known.
    pub(super) fn master_of(&self, slot: u16) -> Option<&Master> {
        self.masters.get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    /// The place among [`ClusterMap::masters`] of the one that has this slot; `None`: no master has it.
    pub(super) fn place_of_slot(&self, slot: u16) -> Option<usize> {
        let owner = usize::from(*self.owners.get(usize::from(slot))?);
        (owner < self.masters.len()).then_some(owner)
    }

    /// A slot of this master, always the same one while it has it; `None`: it has none.
    pub(super) fn first_slot_of(&self, address: &RedisAddress) -> Option<u16> {
        let place = self.masters.iter().position(|master| master.address == *address)?;
        let slot = self.owners.iter().position(|owner| usize::from(*owner) == place)?;
        u16::try_from(slot).ok()
    }

    /// How many slots no master has.
    pub(super) fn uncovered(&self) -> usize {
        self.owners.iter().filter(|owner| **owner == NOBODY).count()
    }

    /// The place of a master, which is added where it is new.
    fn place_of(&mut self, address: &RedisAddress) -> u16 {
        let known = self.masters.iter().position(|master| master.address == *address);
        let place = known.unwrap_or_else(|| {
            self.masters.push(Master { address: address.clone(), is_failed: false });
            self.masters.len() - 1
        });
        // No more masters than slots.
        u16::try_from(place).unwrap_or(NOBODY)
    }

    /// Brings the masters into the order of their addresses, so that equal maps are equal.
    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.masters.len()).collect();
        order.sort_by_key(|place| self.masters[*place].address.to_string());
        let mut places = vec![NOBODY; order.len()];
        for (after, before) in order.iter().enumerate() {
            places[*before] = u16::try_from(after).unwrap_or(NOBODY);
        }
        for owner in &mut self.owners {
            *owner = places.get(usize::from(*owner)).copied().unwrap_or(NOBODY);
        }
        self.masters = order.into_iter().map(|place| self.masters[place].clone()).collect();
    }

    /// Whether both say the same of masters and slots.
    fn agrees(&self, other: &ClusterMap) -> bool {
        self.masters == other.masters && self.owners == other.owners
    }
}

/// One entry of `CLUSTER SLOTS`: the first and the last slot, and the master.
fn owned_range(range: &Value, answered_by: &str) -> Option<(u16, u16, RedisAddress)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(from), Value::Int(to), Value::Array(master), ..] = &parts[..] else { return None };
    let [host, Value::Int(port), ..] = &master[..] else { return None };
    let (from, to) = (u16::try_from(*from).ok()?, u16::try_from(*to).ok()?);
    (from <= to && to < SLOTS).then_some((from, to, address(host, *port, answered_by)?))
}

/// An address as a Cluster states it: without a host, or with `?`, it is the host that answered.
fn address(host: &Value, port: i64, answered_by: &str) -> Option<RedisAddress> {
    let host =
        text(host).filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| answered_by.to_owned());
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    Some(RedisAddress::Tcp { host, port })
}

/// The masters that `CLUSTER SHARDS` names; none where the server does not know that command.
fn masters_in(shards: &Value, answered_by: &str, by_tls: bool) -> Vec<Master> {
    let port = if by_tls { "tls-port" } else { "port" };
    let Value::Array(shards) = shards else { return Vec::new() };
    let nodes = shards.iter().filter_map(|shard| match member(shard, "nodes")? {
        Value::Array(nodes) => Some(nodes),
        _ => None,
    });
    let master = |node: &Value| {
        if member(node, "role").and_then(text)? != "master" {
            return None;
        }
        let Some(Value::Int(port)) = member(node, port) else { return None };
        let host = member(node, "endpoint").or_else(|| member(node, "ip"))?;
        let is_failed = member(node, "health").and_then(text).as_deref() == Some("fail");
        Some(Master { address: address(host, *port, answered_by)?, is_failed })
    };
    nodes.flatten().filter_map(master).collect()
}

/// A member of a map, in either form of an answer.
fn member<'v>(of: &'v Value, name: &str) -> Option<&'v Value> {
    let is_it = |found: &Value| text(found).as_deref() == Some(name);
    match of {
        Value::Map(members) => members.iter().find(|(found, _)| is_it(found)).map(|(_, value)| value),
        Value::Array(parts) => parts.chunks_exact(2).find(|pair| is_it(&pair[0])).map(|pair| &pair[1]),
        _ => None,
    }
}

fn epoch_in(info: &Value) -> u64 {
    let info = text(info).unwrap_or_default();
    let stated = info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"));
    stated.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0)
}

/// The newest map, for all parts of the broker: written by the watch and by redirections, read by everyone.
#[derive(Clone, Debug)]
pub(super) struct Cluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    map: watch::Sender<Arc<ClusterMap>>,
    doubt: Notify,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster(Arc::new(Shared { map: watch::Sender::default(), doubt: Notify::new() }))
    }
}

impl Cluster {
    /// The newest map.
    pub(super) fn map(&self) -> Arc<ClusterMap> {
        self.0.map.borrow().clone()
    }

    /// Follows the map.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.0.map.subscribe()
    }

    /// Something contradicts the map, as a lost connection does: it is read again at once.
    pub(super) fn doubt(&self) {
        self.0.doubt.notify_one();
    }

    /// Waits for a [`Cluster::doubt`].
    pub(super) async fn doubted(&self) {
        self.0.doubt.notified().await;
    }

    /// A server said `MOVED`: this master has the slot. The whole map is read again at once.
    pub(super) fn moved(&self, slot: u16, to: &RedisAddress) {
        self.doubt();
        self.0.map.send_if_modified(|map| {
            if slot >= SLOTS || map.master_of(slot).is_some_and(|master| master.address == *to) {
                return false;
            }
            let mut next = ClusterMap::clone(map);
            next.owners[usize::from(slot)] = next.place_of(to);
            next.sort();
            next.version += 1;
            *map = Arc::new(next);
            true
        });
    }

    /// The Cluster was read. Returns whether anything has changed. `None`: it is an older truth than the one that is known, as a
    /// server says it that was cut off from the others; it counts only where `is_only`: no server says more.
    pub(super) fn learnt(&self, read: ClusterMap, is_only: bool) -> Option<bool> {
        let mut is_older = false;
        let has_changed = self.0.map.send_if_modified(|map| {
            is_older = read.epoch < map.epoch && !is_only;
            if is_older {
                return false;
            }
            let has_changed = !read.agrees(map);
            let version = map.version + u64::from(has_changed);
            *map = Arc::new(ClusterMap { version, ..read });
            has_changed
        });
        (!is_older).then_some(has_changed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn tcp(host: &str, port: u16) -> RedisAddress {
        RedisAddress::Tcp { host: host.into(), port }
    }

    fn range(from: i64, to: i64, host: Value, port: i64) -> Value {
        let node = |host, port| Value::Array(vec![host, Value::Int(port), bulk("id"), Value::Array(vec![])]);
        let replica = node(bulk("replica"), 1);
        Value::Array(vec![Value::Int(from), Value::Int(to), node(host, port), replica])
    }

    fn info(epoch: u64) -> Value {
        bulk(&format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\ncluster_my_epoch:1\r\n"))
    }

    fn read(ranges: Vec<Value>, epoch: u64) -> ClusterMap {
        ClusterMap::read(&Value::Array(ranges), &Value::Nil, &info(epoch), "asked", false).unwrap()
    }

    fn two_masters(boundary: i64, epoch: u64) -> ClusterMap {
        read(vec![range(0, boundary, bulk("b"), 1), range(boundary + 1, 16_383, bulk("a"), 1)], epoch)
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(0, b"123456789"), 0x31c3);
        for (name, slot) in [("", 0), ("foo", 12_182), ("bar", 5_061), ("somekey", 11_058)] {
            assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
        }
        let same = |one: &str, other: &str| assert_eq!(slot_of(one.as_bytes()), slot_of(other.as_bytes()));
        same("{user1000}.following", "user1000");
        same("foo{bar}{zap}", "bar");
        same("foo{{bar}}zap", "{bar");
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(0, b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{bar"), crc16(0, b"foo{bar") % SLOTS);
    }

    #[test]
    fn masters_and_their_slots_are_read() {
        let map = two_masters(100, 7);
        let addresses: Vec<_> = map.masters().iter().map(|master| master.address.clone()).collect();
        assert_eq!(addresses, [tcp("a", 1), tcp("b", 1)]);
        assert_eq!(map.master_of(100).unwrap().address, tcp("b", 1));
        assert_eq!(map.master_of(101).unwrap().address, tcp("a", 1));
        assert_eq!(map.first_slot_of(&tcp("a", 1)), Some(101));
        assert_eq!((map.epoch, map.uncovered(), map.master_of(SLOTS)), (7, 0, None));
        let partial = read(vec![range(0, 9, bulk("a"), 1)], 0);
        assert_eq!((partial.uncovered(), partial.master_of(10)), (16_374, None));
    }

    #[test]
    fn a_host_that_is_left_out_is_the_one_that_was_asked() {
        for host in [Value::Nil, bulk(""), bulk("?")] {
            let map = read(vec![range(0, 9, host, 7)], 0);
            assert_eq!(map.masters()[0].address, tcp("asked", 7));
        }
    }

    #[test]
    fn answers_that_cannot_be_right_are_no_map() {
        let read = |slots: Value| ClusterMap::read(&slots, &Value::Nil, &Value::Nil, "asked", false);
        for slots in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![range(0, 16_384, bulk("a"), 1)]),
            Value::Array(vec![range(9, 1, bulk("a"), 1)]),
            Value::Array(vec![range(-1, 1, bulk("a"), 1)]),
            Value::Array(vec![range(0, 1, bulk("a"), 0)]),
            Value::Array(vec![Value::Int(1)]),
        ] {
            assert!(read(slots.clone()).is_err(), "{slots:?}");
        }
    }

    #[test]
    fn shards_name_masters_without_slots_and_those_that_failed() {
        let node = |port: i64, role: &str, health: &str| {
            let members = [("endpoint", bulk("a")), ("role", bulk(role)), ("health", bulk(health))];
            let mut members: Vec<_> = members.into_iter().map(|(name, value)| (bulk(name), value)).collect();
            members.extend([(bulk("port"), Value::Int(port)), (bulk("tls-port"), Value::Int(port + 10))]);
            Value::Map(members)
        };
        let nodes =
            vec![node(1, "master", "fail"), node(2, "master", "online"), node(3, "replica", "online")];
        let shard =
            Value::Array(vec![bulk("slots"), Value::Array(vec![]), bulk("nodes"), Value::Array(nodes)]);
        let slots = Value::Array(vec![range(0, 16_383, bulk("a"), 1)]);
        let shards = Value::Array(vec![shard]);
        let map = ClusterMap::read(&slots, &shards, &info(1), "asked", false).unwrap();
        let masters: Vec<_> =
            map.masters().iter().map(|master| (master.address.clone(), master.is_failed)).collect();
        assert_eq!(masters, [(tcp("a", 1), true), (tcp("a", 2), false)]);
        assert_eq!(map.first_slot_of(&tcp("a", 2)), None);
        let by_tls = ClusterMap::read(&slots, &shards, &info(1), "asked", true).unwrap();
        let addresses: Vec<_> = by_tls.masters().iter().map(|master| master.address.clone()).collect();
        assert_eq!(addresses, [tcp("a", 1), tcp("a", 11), tcp("a", 12)]);
    }

    #[test]
    fn only_changes_are_counted_and_an_older_truth_is_not_believed() {
        let cluster = Cluster::default();
        assert_eq!(cluster.map().version(), 0);
        assert_eq!(cluster.learnt(two_masters(100, 5), false), Some(true));
        assert_eq!(cluster.learnt(two_masters(100, 6), false), Some(false));
        assert_eq!(cluster.map().version(), 1);
        assert_eq!(cluster.learnt(two_masters(200, 5), false), None);
        assert_eq!(cluster.learnt(two_masters(200, 6), false), Some(true));
        assert_eq!(cluster.learnt(two_masters(300, 1), true), Some(true), "the Cluster was made again");
        assert_eq!((cluster.map().version(), cluster.map().epoch), (3, 1));
    }

    #[tokio::test]
    async fn a_redirection_changes_one_slot_until_the_map_is_read() {
        let cluster = Cluster::default();
        cluster.learnt(two_masters(100, 5), false);
        let mut follower = cluster.follow();
        follower.mark_unchanged();
        cluster.moved(7, &tcp("a", 1));
        cluster.moved(8, &tcp("0-new", 9));
        cluster.moved(SLOTS, &tcp("a", 1));
        cluster.doubted().await;
        let map = follower.borrow_and_update().clone();
        assert_eq!(map.master_of(7).unwrap().address, tcp("a", 1));
        assert_eq!(map.master_of(8).unwrap().address, tcp("0-new", 9));
        assert_eq!(map.master_of(9).unwrap().address, tcp("b", 1));
        assert_eq!(map.master_of(101).unwrap().address, tcp("a", 1));
        cluster.moved(7, &tcp("a", 1));
        assert!(!follower.has_changed().unwrap());
    }
}
