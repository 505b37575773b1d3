//! Sets of shards, small enough to copy.

/// One shard of the node; at most [`ShardId::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u8);

impl ShardId {
    /// The largest id of a shard that serves sockets.
    pub const MAX: u8 = 62;
    /// The node itself, which listens to commands from other nodes and services.
    pub const NODE: ShardId = ShardId(63);
}

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(u64);

impl ShardSet {
    /// A set of one.
    pub fn only(shard: ShardId) -> ShardSet {
        let mut set = ShardSet::default();
        set.insert(shard);
        set
    }
    /// Adds one.
    pub fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << (shard.0 & 63);
    }
    /// Takes one out; returns whether it was there.
    pub fn remove(&mut self, shard: ShardId) -> bool {
        let had = self.contains(shard);
        self.0 &= !(1 << (shard.0 & 63));
        had
    }
    /// Whether it is in.
    pub fn contains(self, shard: ShardId) -> bool {
        self.0 & (1 << (shard.0 & 63)) != 0
    }
    /// Whether nobody is in.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Both sets together.
    pub fn union(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 | other.0)
    }
    /// Every shard in it, ascending.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let lowest = left.trailing_zeros() as u8;
            left &= left - 1;
            Some(ShardId(lowest))
        })
    }
}
