//! What happens to the masters of a Redis Cluster: they fail and lose what they had acknowledged, go on though they are replaced,
//! come and go, and give each other slots; and nodes learn of it late, or of one slot alone.

use drawbridge_testkit::redis::logs::Rolled;

use crate::world::World;

/// At the start; as many replicas are beside them.
pub const MASTERS: usize = 3;

impl World {
    /// One random thing.
    pub fn act_on_masters(&mut self) {
        let server = self.roll(self.cluster.redis.masters.len());
        match self.roll(24) {
            0..6 => self.cluster.learn(server % self.cluster.nodes.len(), server),
            6..9 => self.learn_a_slot(server),
            9..14 => self.migrate_a_slot(),
            14..17 => self.tell_server(server),
            17..19 => self.fail_over(),
            19 => self.cluster.redis.masters.revive(server),
            20 => self.cluster.redis.masters.add(),
            21 => self.cluster.redis.masters.remove(server),
            22 => self.restart_a_master(),
            _ => self.cluster.cut_server(server, &mut self.players),
        }
    }

    /// Every server and every node knows the newest configuration.
    pub fn spread_configuration(&mut self) {
        for server in 0..self.cluster.redis.masters.len() {
            self.cluster.redis.masters.revive(server);
            self.tell_server(server);
        }
        (0..self.cluster.nodes.len()).for_each(|node| self.cluster.learn(node, 0));
    }

    fn learn_a_slot(&mut self, server: usize) {
        let node = self.roll(self.cluster.nodes.len());
        let slot = self.some_slot();
        self.cluster.learn_slot(node, slot, server);
    }

    fn some_slot(&mut self) -> u16 {
        let slots: Vec<u16> = self.cluster.redis.masters.slots().collect();
        slots[self.roll(slots.len())]
    }

    fn some_master(&mut self) -> usize {
        let masters = self.cluster.redis.masters.masters();
        masters[self.roll(masters.len())]
    }

    fn migrate_a_slot(&mut self) {
        let (slot, to) = (self.some_slot(), self.some_master());
        let rolled = self.cluster.redis.masters.migrate(slot, to);
        self.goes_on(rolled);
    }

    fn tell_server(&mut self, server: usize) {
        if self.cluster.redis.tell_server(server) {
            self.cluster.cut_server(server, &mut self.players);
        }
    }

    fn fail_over(&mut self) {
        let (master, stays) = (self.some_master(), self.roll(2) == 0);
        let lost = if self.roll(2) == 0 { 0 } else { self.roll(6) };
        let Some(rolled) = self.cluster.redis.masters.fail_over(master, lost, stays) else { return };
        self.goes_on(rolled);
        if !stays {
            self.cluster.cut_server(master, &mut self.players);
        }
    }

    fn restart_a_master(&mut self) {
        let (master, lost) = (self.some_master(), self.roll(4));
        self.cluster.cut_server(master, &mut self.players);
        let rolled = self.cluster.redis.masters.restart(master, lost);
        self.goes_on(rolled);
    }

    fn goes_on(&mut self, rolled: Vec<Rolled>) {
        for Rolled { channel, before, after } in rolled {
            let (before, epoch) = (before.as_str(), after.epoch.as_str());
            self.players.facts.goes_on(&channel, before, epoch, after.offset.0);
        }
    }
}
