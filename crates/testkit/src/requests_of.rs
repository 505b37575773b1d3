//! Each kind of request that a client can make, made again and again as fast as the limits allow. The test `limits`
//! counts what it costs, and the example `price_list` measures its CPU time.

use drawbridge_engine::class::{Delivery, SlowConsumer};
use drawbridge_engine::io::Input;
use drawbridge_engine::settings::Rate;
use drawbridge_engine::work::STEPS_PER_TOKEN;
use drawbridge_protocol::template::ClassName;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::classes::{large_world, stream};
use crate::players::conn;

pub const KINDS: [&str; 17] = [
    "connect",
    "token-refresh",
    "subscribe-name",
    "subscribe-pattern",
    "subscribe-filter",
    "subscribe-area",
    "subscribe-world",
    "subscribe-world-last",
    "resubscribe-filter",
    "update-filter",
    "update-small-area",
    "update-huge-area",
    "publish",
    "publish-entity",
    "ping",
    "bad-message",
    "oversized",
];

/// What comes from services, of which a client is sent something: no client pays for it.
pub const EVENTS: [&str; 2] = ["delivery", "entity-change"];

/// What a client did and what it was charged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paid {
    /// Messages that the limit of messages granted.
    pub messages: u64,
    /// Steps of work, whoever was charged for them.
    pub work: u64,
    /// Steps of work that were charged.
    pub charged: u64,
}

impl Paid {
    /// Messages and tokens of work.
    pub fn tokens(&self) -> u64 {
        self.messages + self.charged / STEPS_PER_TOKEN
    }
}

/// A client that makes requests of one kind, in a world that another player watches, too.
pub struct Client {
    pub bench: Bench,
    kind: String,
    player: usize,
    turn: u64,
    messages: u64,
    work: u64,
    charged: u64,
}

impl Client {
    /// The default limits, except for `work`.
    pub fn new(kind: &str, entities: usize, work: Rate) -> Self {
        let delivery = Delivery { slow_consumer: SlowConsumer::Latest, ..Delivery::default() };
        let class = large_world(delivery);
        let mut room = stream(delivery);
        room.publish = class.publish.clone();
        room.patterns = true;
        room.name = ClassName::parse("room:{room}").unwrap();
        let mut bench = Bench::with_settings(vec![class, room], |settings| {
            settings.work = work;
            settings.messages = Rate { per_second: 50, burst: 100 };
            settings.subscribes = Rate { per_second: 20, burst: 40 };
            // Enough for oversized messages one after the other: a pause between them would count the sweeps of the table.
            settings.bytes = Rate { per_second: 1 << 30, burst: 1 << 30 };
            settings.outbound_bytes = 64 << 20;
        });
        bench.max_read_bytes = 4_096;
        bench.store_grid(entities, |n| n % 2 == 0);
        if kind != "subscribe-world-last" {
            let watcher = bench.player("watcher", "red");
            bench.subscribe(watcher, json!({ "area": { "x": 0, "y": 0, "radius": 1 } }));
        }
        let player = bench.player("alice", "red");
        match kind {
            "token-refresh" | "resubscribe-filter" | "update-filter" => bench.subscribe(player, json!({})),
            "delivery" => {
                bench.send(player, json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "room:1" }))
            }
            "update-small-area" | "update-huge-area" | "publish-entity" | "entity-change" => {
                bench.subscribe(player, json!({ "area": { "x": 0, "y": 500, "radius": 100 } }));
            }
            _ => {}
        }
        // Whatever was owed for that is paid.
        bench.pass(600_000);
        bench.take(player);
        let stats = bench.engine.stats();
        let kind = kind.to_owned();
        Client { bench, kind, player, turn: 0, messages: 0, work: stats.work, charged: stats.work_charged }
    }

    /// Makes one request (or the shortest sequence that can be repeated), and waits as long as its refusal says.
    pub fn once(&mut self) {
        let (n, player) = (self.turn, self.player);
        self.turn += 1;
        let room = format!("room:{n}");
        let x = n % 100 * 10;
        match self.kind.as_str() {
            "connect" => {
                let player = self.bench.connect(Some("alice"), 1, json!([{ "channel": "world:1" }]));
                self.answered(player);
                self.bench.lost(player);
            }
            "token-refresh" => {
                self.send(json!({ "type": "TOKEN_REFRESH", "id": n, "token": format!("team{n}") }))
            }
            "subscribe-name" => self.visit(&room, json!({})),
            "subscribe-pattern" => self.visit(&format!("{room}*"), json!({})),
            "subscribe-filter" => self.visit(&room, json!({ "filter": format!("data.hp >= {n}") })),
            "subscribe-area" => self.visit("world:1", json!({ "area": { "x": x, "y": 500, "radius": 100 } })),
            "subscribe-world" | "subscribe-world-last" => self.visit("world:1", json!({})),
            "resubscribe-filter" => {
                self.about("CHANNEL_SUBSCRIBE", "world:1", json!({ "filter": filter(n) }))
            }
            "update-filter" => self.about("FILTER_UPDATE", "world:1", json!({ "filter": filter(n) })),
            "update-small-area" => {
                let area = json!({ "x": x, "y": 500, "radius": 100 });
                self.about("FILTER_UPDATE", "world:1", json!({ "area": area }));
            }
            "update-huge-area" => {
                let x = (n % 2 * 10_000) as f64;
                let area = json!({ "min": [x, -1], "max": [x + 2_000.0, 2_000] });
                self.about("FILTER_UPDATE", "world:1", json!({ "area": area }));
            }
            "publish" => self.about("PUBLISH_EVENT", "room:1", json!({ "event": "e", "data": { "n": n } })),
            "publish-entity" => {
                let data = json!({ "id": "e1", "x": 10, "y": 0, "hp": n % 100, "public": true });
                self.about("PUBLISH_EVENT", "world:1", json!({ "event": "e", "data": data }));
            }
            "delivery" => self.bench.publish_raw("room:1", br#"{"event":"e","data":{"n":17}}"#),
            "entity-change" => {
                self.bench
                    .publish("e", json!({ "id": "e1", "x": 10, "y": 500, "hp": n % 100, "public": true }));
            }
            "ping" => self.send(json!({ "type": "PING", "id": n })),
            // Ten in a row close the connection.
            "bad-message" if n % 8 == 7 => self.send(json!({ "type": "PING", "id": n })),
            "bad-message" => self.send(json!({ "type": "CHANNEL_SUBSCRIBE", "id": n, "chanel": "room:1" })),
            "oversized" => {
                self.bench.input(Input::Oversized { conn: conn(player), cost_bytes: 65_537 });
                self.answered(player);
            }
            other => panic!("no kind of request: {other}"),
        }
        self.bench.pass(1);
    }

    /// What was done and paid so far.
    pub fn paid(&self) -> Paid {
        let stats = self.bench.engine.stats();
        Paid {
            messages: self.messages,
            work: stats.work - self.work,
            charged: stats.work_charged - self.charged,
        }
    }

    /// Subscribes and leaves again.
    fn visit(&mut self, channel: &str, rest: Value) {
        self.about("CHANNEL_SUBSCRIBE", channel, rest);
        self.about("CHANNEL_UNSUBSCRIBE", channel, json!({}));
    }

    fn about(&mut self, kind: &str, channel: &str, rest: Value) {
        let mut message = json!({ "type": kind, "id": self.turn, "channel": channel });
        message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        self.send(message);
    }

    /// Sends a message until the limit of messages grants it.
    fn send(&mut self, message: Value) {
        loop {
            self.bench.send(self.player, message.clone());
            if self.answered(self.player) {
                return;
            }
        }
    }

    /// Waits as long as a refusal says; returns whether the message was granted, whatever it requested.
    fn answered(&mut self, player: usize) -> bool {
        assert_eq!(self.bench.closed[player], None, "{} closes the connection", self.kind);
        let (mut wait_ms, mut is_granted) = (0, true);
        for error in self.bench.take(player).iter().filter(|answer| answer["code"] == "RATE_LIMITED") {
            wait_ms = wait_ms.max(error["retry_after_ms"].as_u64().unwrap());
            // The other refusals come from a request that was granted as a message.
            is_granted &= !error["message"].as_str().unwrap().contains("slow down");
        }
        self.messages += u64::from(is_granted);
        if wait_ms > 0 {
            self.bench.pass(wait_ms);
        }
        is_granted
    }
}

/// A new one each time, of which about half of the world is shown.
fn filter(n: u64) -> String {
    format!("data.hp >= {}", 30 + n % 40)
}
