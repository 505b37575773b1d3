//! A Redis Cluster of the test's own: masters without replicas, each with a third of the slots, and what a client of all of them
//! says to whom.

use super::server::{Flavour, Reply, Server};
use super::until;

/// The masters of a Cluster.
const MASTERS: usize = 3;
/// The slots of the first, of the second and of the third.
const RANGES: [(u16, u16); MASTERS] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

/// Starts masters beside this one, makes a Cluster of all, and waits until each of them says that it works.
pub(super) fn launch_beside(first: &Server) -> Vec<Server> {
    let others: Vec<Server> = (1..MASTERS).map(|_| Server::start_alone(Flavour::Cluster)).collect();
    let ok = |reply: Reply| assert_eq!(reply, Reply::Text("OK".into()));
    for (place, (server, (from, to))) in all(first, &others).zip(RANGES).enumerate() {
        ok(server.tell(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]));
        ok(server.tell(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]));
    }
    for other in &others {
        let [port, bus] = other.ports().map(|port| port.to_string());
        ok(first.tell(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]));
    }
    for server in all(first, &others) {
        until("the Cluster works", || {
            let info = server.tell(&["CLUSTER", "INFO"]).text();
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{MASTERS}"))
        });
    }
    others
}

/// Says something to the master whom it is for. A publish is answered when all servers have it; what is about no key is said to
/// all.
pub(super) fn call<S: AsRef<[u8]>>(first: &Server, others: &[Server], parts: &[S]) -> Reply {
    let words: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).collect();
    match words[0] {
        b"PUBSUB" | b"KEYS" | b"FUNCTION" | b"FLUSHALL" | b"ACL" | b"CONFIG" => {
            all(first, others).map(|server| server.tell(parts)).reduce(merge).expect("a server")
        }
        b"PUBLISH" => {
            let before: Vec<u64> = others.iter().map(received).collect();
            let reply = first.tell(parts);
            for (other, before) in others.iter().zip(before) {
                until("the publish reaches all servers", || received(other) > before);
            }
            reply
        }
        _ => match first.tell(parts) {
            Reply::Error(message) if message.starts_with("MOVED ") => {
                let port = message.rsplit(':').next().and_then(|port| port.parse().ok());
                let owner = all(first, others).find(|server| Some(server.ports()[0]) == port);
                owner.expect("the slot's master").tell(parts)
            }
            reply => reply,
        },
    }
}

impl Server {
    /// Which of the masters has this slot, as this server says.
    pub fn owner_of(&self, slot: u16) -> Option<u16> {
        let Reply::List(ranges) = self.tell(&["CLUSTER", "SLOTS"]) else { panic!("no list") };
        ranges.into_iter().find_map(|range| {
            let Reply::List(parts) = range else { panic!("no range: {range:?}") };
            let [Reply::Int(from), Reply::Int(to), Reply::List(master), ..] = &parts[..] else {
                panic!("no range: {parts:?}")
            };
            let Reply::Int(port) = master[1] else { panic!("no port: {master:?}") };
            (*from..=*to).contains(&slot.into()).then(|| port.try_into().expect("a port"))
        })
    }

    /// A Cluster in which some slots or masters are away serves the others.
    pub fn allow_holes(&self) {
        self.call(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }

    /// No master has this slot any more, as all of them say; the others are served. Returns the port of the one that had it.
    pub fn unassign(&self, slot: u16) -> u16 {
        self.allow_holes();
        let owner = self.owner_of(slot).expect("a master");
        // The owner first: it is the one that claims the slot.
        let mut masters: Vec<&Server> = self.masters().collect();
        masters.sort_by_key(|master| master.ports()[0] != owner);
        until("no master has the slot", || {
            masters.iter().for_each(|master| drop(master.tell(&["CLUSTER", "DELSLOTS", &slot.to_string()])));
            masters.iter().all(|master| master.owner_of(slot).is_none())
        });
        owner
    }

    /// The master at this port has the slot, as all of them say.
    pub fn assign(&self, slot: u16, port: u16) {
        let owner = self.masters().find(|master| master.ports()[0] == port).expect("a master");
        assert_eq!(owner.tell(&["CLUSTER", "ADDSLOTS", &slot.to_string()]), Reply::Text("OK".into()));
        until("the master has the slot", || self.masters().all(|master| master.owner_of(slot) == Some(port)));
    }
}

fn all<'s>(first: &'s Server, others: &'s [Server]) -> impl Iterator<Item = &'s Server> {
    std::iter::once(first).chain(others)
}

/// How many publishes have reached a server from others.
fn received(server: &Server) -> u64 {
    let info = server.tell(&["CLUSTER", "INFO"]).text();
    let stated = info.lines().find_map(|line| line.strip_prefix("cluster_stats_messages_publish_received:"));
    stated.map_or(0, |digits| digits.trim().parse().expect("a number"))
}

/// Lists that name what they count are added up; other lists are joined.
fn merge(one: Reply, other: Reply) -> Reply {
    match (one, other) {
        (Reply::Int(one), Reply::Int(other)) => Reply::Int(one + other),
        (Reply::List(one), Reply::List(other)) => {
            match one.iter().any(|reply| matches!(reply, Reply::Int(_))) {
                true => {
                    Reply::List(one.into_iter().zip(other).map(|(one, other)| merge(one, other)).collect())
                }
                false => Reply::List([one, other].concat()),
            }
        }
        (one, _) => one,
    }
}
