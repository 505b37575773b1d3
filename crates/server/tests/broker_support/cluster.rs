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
