//! `drawbridge dev`: two sample players with tokens, and a demo that publishes on its own clock, so that the
//! playground has something to show before anybody has typed: a small world, and a few dots.

mod wander;

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_protocol::event::Envelope;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::auth::{PrivateKey, mint};
use crate::clock::unix_ms;
use crate::node::Node;
use wander::World;

/// Where the admin API listens in `dev` by default (`config/dev.toml`), if the port is free.
pub const ADMIN_LISTEN: &str = "127.0.0.1:8001";
/// And where it listens if that port is not.
pub const ANY_PORT: &str = "127.0.0.1:0";

/// The entity channel of the small world, and how it is made.
const WORLD_CHANNEL: &str = "world:demo";
const WORLD_SEED: u64 = 42;
const WANDERERS: usize = 300;
/// The wanderers step in this many groups, one after the other, so that the load is spread over time.
const TURNS: u32 = 10;

/// The channel of the dots and of the players' moves.
const DEMO_CHANNEL: &str = "game:demo";
const DEMO_EVERY: Duration = Duration::from_millis(200);
/// How long one round of the demo's dots takes.
const ROUND_MS: u64 = 12_000;
const DOTS: [&str; 3] = ["gull", "heron", "swift"];
const TOKEN_SECONDS: u64 = 24 * 3_600;

/// The sample players: name, team and the room that they share.
const PLAYERS: [(&str, &str); 2] = [("alice", "red"), ("bob", "blue")];
const ROOM: &str = "42";

/// The playground's part of a node.
#[derive(Debug)]
pub struct Dev {
    key: PrivateKey,
    redis: Option<String>,
}

impl Dev {
    /// `secret` signs the players' tokens; `redis` is shown on the page, without its password.
    pub fn new(secret: &str, redis: Option<&str>) -> Self {
        Dev { key: PrivateKey::hmac(secret), redis: redis.map(without_password) }
    }

    /// What signs the tokens of this run.
    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Who plays, as JSON for the page; fresh tokens each time.
    pub fn session(&self, node: &Node) -> String {
        let players: Vec<Value> = PLAYERS
            .iter()
            .map(|(player, team)| {
                json!({
                    "player": player,
                    "team": team,
                    "token": self.token(player, team),
                    "subscribe": suggestions(team, &[WORLD_CHANNEL, "chat:*", "game:*"]),
                    "publish": suggestions(team, &[]),
                })
            })
            .collect();
        json!({
            "players": players,
            "world": {
                "channel": WORLD_CHANNEL,
                "width": wander::WIDTH,
                "height": wander::HEIGHT,
                "entities": WANDERERS,
                "updates_per_second": WANDERERS * wander::STEPS_PER_SECOND as usize,
            },
            "chat": format!("room:{ROOM}"),
            "redis": self.redis,
            "admin": node.admin_address.get().map(|address| format!("http://{address}")),
            "api_key": node.config.admin.as_ref().map(|admin| admin.api_key.current().expose().to_owned()),
            "node": node.config.node,
        })
        .to_string()
    }

    fn token(&self, player: &str, team: &str) -> Option<String> {
        let mut claims = Map::new();
        claims.insert("sub".into(), player.into());
        claims.insert("team".into(), team.into());
        claims.insert("room".into(), ROOM.into());
        claims.insert("game".into(), "demo".into());
        claims.insert("exp".into(), (unix_ms() / 1_000 + TOKEN_SECONDS).into());
        mint(&self.key, None, &claims).ok()
    }
}

/// The channels that the page suggests to a player of this team: those on which it may publish, and `more`.
fn suggestions(team: &str, more: &[&str]) -> Vec<String> {
    let both =
        [DEMO_CHANNEL.to_owned(), format!("room:{ROOM}"), format!("team:{team}"), "chat:lobby".to_owned()];
    both.into_iter().chain(more.iter().map(|name| (*name).to_owned())).collect()
}

/// A URL with its password starred out.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        _ => url.to_owned(),
    }
}

/// What to paste into a page of one's own, for the terminal in which `dev` was started. `address` is where players connect.
pub(crate) fn first_lines(address: &str, is_tls: bool) -> String {
    let (http, ws) = if is_tls { ("https", "wss") } else { ("http", "ws") };
    format!(
        "\
drawbridge: the playground is at {http}://{address}/
drawbridge: to connect from a page of your own, on any port of localhost:
  endpoint   {ws}://{address}/ws
  token      curl '{http}://{address}/dev/token?sub=alice&claim=room=42'
  client     import {{ connect }} from '@drawbridge/client'
             const token = () => fetch('{http}://{address}/dev/token?sub=alice&claim=room=42').then((r) => r.text())
             const game = connect('{ws}://{address}/ws', {{ token }})
             game.subscribe('{DEMO_CHANNEL}').on('tick', ({{ data }}) => console.log(data))"
    )
}

/// Publishes the small world and the dots for as long as the process runs.
pub(crate) async fn run_demo(node: Arc<Node>) {
    tokio::join!(run_world(&node), run_dots(&node));
}

async fn run_world(node: &Node) {
    let mut world = World::new(WORLD_SEED, WANDERERS);
    let mut ticks = ticks(Duration::from_secs(1) / wander::STEPS_PER_SECOND / TURNS);
    for turn in (0..TURNS).cycle() {
        ticks.tick().await;
        let steps = (turn as usize..WANDERERS).step_by(TURNS as usize).filter_map(|at| world.step(at));
        // All of a turn at once: one after the other, each would wait for Redis.
        join_all(steps.map(|state| publish(node, WORLD_CHANNEL, "move", state)).collect::<Vec<_>>()).await;
    }
}

async fn run_dots(node: &Node) {
    let mut ticks = ticks(DEMO_EVERY);
    loop {
        ticks.tick().await;
        let now = unix_ms();
        for at in 0..DOTS.len() {
            publish(node, DEMO_CHANNEL, "tick", dot(at, now)).await;
        }
    }
}

/// A clock that leaves out what it missed.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}

async fn publish(node: &Node, channel: &str, event: &str, data: Value) {
    let event = Envelope {
        event,
        data: &data.to_string(),
        is_base64: false,
        from: None,
        tags: None,
        key: None,
        ts: Some(unix_ms()),
        id: Some(&format!("db1.demo.{}", node.bus.next_id())),
    };
    let class = node.config.engine.classes.of_channel(channel).map(|(_, class, _)| class);
    // While Redis is away there is nothing to show.
    let external_bytes = node.config.broker.external_bytes;
    let _ = node.bus.publish_event(class, channel, &event, None, external_bytes).await;
}

/// Where a dot is, in a square from 0 to 100.
fn dot(at: usize, now_ms: u64) -> Value {
    let turn = (now_ms % ROUND_MS) as f64 / ROUND_MS as f64 * TAU;
    let phase = turn * (at + 1) as f64 + at as f64;
    let round = |value: f64| (value * 10.0).round() / 10.0;
    json!({
        "name": DOTS[at],
        "x": round(50.0 + 38.0 * phase.cos()),
        "y": round(50.0 + (20.0 + 8.0 * at as f64) * phase.sin()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_hold_what_a_page_needs() {
        let lines = first_lines("127.0.0.1:8000", false);
        for part in [
            "the playground is at http://127.0.0.1:8000/\n",
            "  endpoint   ws://127.0.0.1:8000/ws\n",
            "curl 'http://127.0.0.1:8000/dev/token?sub=alice&claim=room=42'\n",
            "connect('ws://127.0.0.1:8000/ws', { token })\n",
            "game.subscribe('game:demo').on('tick'",
        ] {
            assert!(lines.contains(part), "{part} is missing in:\n{lines}");
        }
        assert!(first_lines("127.0.0.1:8000", true).contains("wss://127.0.0.1:8000/ws"));
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(without_password("redis://u:p@ss@host:6379/0"), "redis://***@host:6379/0");
        assert_eq!(without_password("redis://host"), "redis://host");
    }
}
