//! Right configurations: defaults, and that each key reaches its place.

use crate::broker::RedisAddress;
use drawbridge_engine::class::{Delivery, History, Presence, SlowConsumer};
use drawbridge_engine::expr::{Binding, Scope, Var};
use drawbridge_engine::io::WhenDown;
use drawbridge_engine::settings::{PlayerConnections, Rate, WhenExceeded};
use drawbridge_protocol::event::PayloadMode;

use super::*;

#[test]
fn the_defaults_are_the_contracts() {
    let config = good("");
    assert!(config.node.starts_with("node-") && config.node.len() == 13, "{}", config.node);
    assert_eq!(config.listen, "127.0.0.1:8000");
    assert!(config.admin.is_none() && config.tls.is_none() && config.allowed_origins.is_none());
    assert_eq!(
        (config.drain_window.as_secs(), config.ready_grace.as_secs(), config.linger.as_secs()),
        (30, 30, 2)
    );
    assert_eq!(config.drain_delay.as_secs(), 5);
    assert!((1..=32).contains(&config.shards));
    assert!(!config.proxy_protocol && !config.control_channel && config.trusted_proxies.is_empty());
    assert!(matches!(config.broker.kind, BrokerKind::Memory));
    assert_eq!((&*config.broker.key_prefix, &*config.broker.channel_prefix), ("drawbridge:", ""));
    assert_eq!((config.broker.queue_bytes, config.broker.external_bytes), (16 << 20, 1 << 20));
    assert!(!config.auth.query_token && !config.auth.has_keys());
    assert_eq!(config.engine.connections_per_address, None);
    let engine = config.engine;
    assert_eq!(&*engine.node, config.node);
    assert_eq!((engine.connect_timeout_ms, engine.heartbeat_ms), (5_000, 25_000));
    assert_eq!((engine.outbound_bytes, engine.message_bytes, engine.subscriptions), (1 << 20, 64 << 10, 256));
    assert_eq!(engine.patterns_per_player, 32);
    assert_eq!(engine.connecting, 1_000_usize.div_ceil(config.shards));
    assert_eq!(engine.messages, Rate { per_second: 50, burst: 100 });
    assert_eq!(engine.subscribes, Rate { per_second: 20, burst: 40 });
    assert_eq!(engine.work, Rate { per_second: 2_000, burst: 4_000 });
    assert_eq!(engine.bytes, Rate { per_second: 64 << 10, burst: 256 << 10 });
    assert!(engine.messages_per_player.is_none() && engine.messages_per_address.is_none());
    assert!(engine.lifecycle_stream.is_none() && !engine.allow_anonymous && !engine.explain);
    assert_eq!(engine.reserved.prefix(), "drawbridge:");
    assert_eq!(config.warnings.len(), 1, "nobody can connect");
}

#[test]
fn every_key_reaches_its_place() {
    let config = good(
        r#"
node = "n1"
listen = "[::1]:0"
admin = { listen = "localhost:8001", api_key = "k" }
trusted_proxies = ["10.0.0.0/8", "::1"]
proxy_protocol = true
drain_delay = "10s"
drain_window = "1m"
ready_grace = "0s"
control_channel = true
shards = 2
tls = { cert_file = "ec.cert.pem", key_file = "ec.key.pem" }
[broker]
kind = "redis"
url = "rediss://h:6380/2"
username = "ann"
password = "pw"
tls_ca_file = "ec.cert.pem"
subscriber_pool = 4
probe = "500ms"
key_prefix = "db:"
channel_prefix = "prod:"
queue_bytes = "1MiB"
external_bytes = 4096
[auth]
hmac_secret = "0123456789abcdef0123456789abcdef"
public_key_file = "ed25519.pub.pem"
jwks_url = "https://login.example/jwks?x=1"
hmac_secrets = ["another secret of at least 32 bytes", "a third secret of at least 32 bytes"]
public_key_files = ["ec384.pub.pem", "rsa.pub.pem"]
leeway = "0s"
user_claim = "uid"
cookie = "access_token"
audience = ["a", "b"]
issuer = "i"
allow_anonymous = true
query_token = true
[lifecycle]
stream = "life"
[connection]
auto_subscribe = ["player:{sub}"]
connect_timeout = "1s"
heartbeat = "100ms"
resume_window = "10s"
allowed_origins = ["https://Play.example:8443", "null"]
outbound_bytes = "2KiB"
linger = "0s"
[limits]
message_bytes = "1KiB"
subscriptions = 3
patterns_per_player = 2
connecting = 7
messages = { per_second = 1, burst = 2 }
subscribes = { per_second = 3 }
work = { per_second = 500, burst = 700 }
bytes = { per_second = "1KiB", burst = 5000 }
connections_per_address = 1000
connections_per_player = 2
when_exceeded = "refuse"
messages_per_player = { per_second = 7, burst = 8 }
messages_per_address = { per_second = 9 }
"#,
    );
    assert_eq!((&*config.node, &*config.listen, config.shards), ("n1", "[::1]:0", 2));
    assert_eq!(
        (config.drain_window.as_secs(), config.ready_grace.as_secs(), config.linger.as_secs()),
        (60, 0, 0)
    );
    assert_eq!(config.drain_delay.as_secs(), 10);
    assert!(config.proxy_protocol && config.control_channel && config.trusted_proxies.len() == 2);
    assert!(config.tls.unwrap().cert_file.ends_with("fixtures/ec.cert.pem"));
    let BrokerKind::Redis(redis) = config.broker.kind else { panic!() };
    assert_eq!(redis.location, RedisAddress::Tcp { host: "h".into(), port: 6380 }.into());
    assert_eq!((redis.username.as_deref(), redis.password.unwrap().current().expose()), (Some("ann"), "pw"));
    assert_eq!((redis.db, redis.subscriber_pool, redis.probe.as_millis()), (2, 4, 500));
    assert!(redis.tls.unwrap().ca_file.unwrap().ends_with("ec.cert.pem"));
    assert_eq!(
        (&*config.broker.key_prefix, config.broker.queue_bytes, config.broker.external_bytes),
        ("db:", 1 << 20, 4096)
    );
    assert_eq!(config.broker.channel_prefix, "prod:");
    assert_eq!(config.auth.audience, ["a", "b"]);
    assert_eq!(config.auth.issuer, ["i"]);
    assert!(
        config.auth.hmac_secrets.len() == 3
            && config.auth.public_keys.len() == 3
            && config.auth.jwks_url.is_some()
    );
    assert!(config.auth.hmac_secrets[0].expose().starts_with("0123"), "the one that tokens are minted with");
    assert_eq!((config.auth.leeway, &*config.auth.user_claim), (Duration::ZERO, "uid"));
    assert_eq!(config.auth.cookie.as_deref(), Some("access_token"));
    assert!(config.auth.allow_anonymous && config.auth.query_token);
    assert_eq!(config.allowed_origins.unwrap(), ["https://play.example:8443", "null"]);
    assert_eq!(config.engine.connections_per_address, Some(1000));
    let engine = config.engine;
    assert!(engine.allow_anonymous);
    assert_eq!(
        (engine.connect_timeout_ms, engine.heartbeat_ms, engine.outbound_bytes),
        (1_000, 100, 2 << 10)
    );
    assert_eq!((engine.message_bytes, engine.subscriptions, engine.patterns_per_player), (1 << 10, 3, 2));
    assert_eq!(engine.connecting, 7_usize.div_ceil(config.shards));
    assert_eq!(engine.messages, Rate { per_second: 1, burst: 2 });
    assert_eq!(engine.subscribes, Rate { per_second: 3, burst: 6 });
    assert_eq!(engine.work, Rate { per_second: 500, burst: 700 });
    assert_eq!(engine.bytes, Rate { per_second: 1 << 10, burst: 5000 });
    let when_exceeded = WhenExceeded::Refuse;
    assert_eq!(engine.connections_per_player, Some(PlayerConnections { max: 2, when_exceeded }));
    assert_eq!(engine.token_leeway_ms, 0);
    assert_eq!(engine.messages_per_player, Some(Rate { per_second: 7, burst: 8 }));
    assert_eq!(engine.messages_per_address, Some(Rate { per_second: 9, burst: 18 }));
    assert_eq!(engine.lifecycle_stream.as_deref(), Some("life"));
    assert_eq!(engine.reserved.prefix(), "db:");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_key_of_a_class_reaches_its_place() {
    let config = good(
        r#"
[[channel]]
name = "room:{room}"
subscribe = "true"
publish = "true"
view = "true"
patterns = true
payload = "raw"
when_broker_down = "reject"
publishes = { per_second = 20, burst = 40 }
forward = "actions:{room}"
kind = "stream"
presence = "notify"
presence_rule = "params.room in me.rooms"
plain_publish = "deliver"
batch = "0ms"
conflate = false
area_required = false
slow_consumer = "disconnect"
sharded = false
[[channel]]
name = "chat:*"
view = "false"
[[channel]]
name = "emote:*"
when_broker_down = "local"
"#,
    );
    let classes: Vec<_> = config.engine.classes.iter().map(|(_, class)| class).collect();
    let [room, chat, emote] = classes[..] else { panic!() };
    assert_eq!(emote.when_broker_down, WhenDown::Local);
    assert_eq!(room.name.to_string(), "room:{room}");
    assert_eq!((room.subscribe.as_constant(), room.publish.as_constant()), (Some(true), Some(true)));
    assert!(room.view.is_none() && room.patterns);
    assert_eq!((room.payload, room.when_broker_down), (PayloadMode::Raw, WhenDown::Reject));
    assert_eq!((room.presence, chat.presence), (Presence::Notify, Presence::Off));
    assert_eq!(room.presence_rule.as_ref().unwrap().to_string(), "params.room in me.rooms");
    assert_eq!(room.publishes, Some(Rate { per_second: 20, burst: 40 }));
    assert_eq!(room.forward.as_ref().unwrap().to_string(), "actions:{room}");
    assert_eq!((chat.subscribe.as_constant(), chat.publish.as_constant()), (Some(false), Some(false)));
    assert_eq!(chat.view.as_ref().unwrap().as_constant(), Some(false));
    assert!(!chat.patterns && chat.publishes.is_none() && chat.forward.is_none());
    assert_eq!((chat.payload, chat.when_broker_down), (PayloadMode::Auto, WhenDown::Queue));
}

#[test]
fn an_entity_class_says_what_is_kept_where_and_how_fast() {
    let config = good(
        r#"
[[channel]]
name = "world:{world}"
kind = "entity"
key = "data.id"
position = ["data.pos.x", "data.pos.y"]
entity_max = 5
entity_bytes = "64KiB"
entity_ttl = "30s"
hysteresis = 2
max_radius = 60.5
area_required = true
follow = "key == me.player || key in me.units"
follow_hidden = true
batch = "50ms"
max_updates = 20
max_wait = "500ms"
conflate = true
message_bytes_out = "48KiB"
[[channel]]
name = "chat:*"
slow_consumer = "drop_oldest"
"#,
    );
    let classes: Vec<_> = config.engine.classes.iter().map(|(_, class)| class).collect();
    let [world, chat] = classes[..] else { panic!() };
    let rules = world.entity.as_ref().unwrap();
    let space = rules.space.as_ref().unwrap();
    assert_eq!((rules.max, rules.max_bytes, rules.ttl_ms), (5, 64 << 10, 30_000));
    assert_eq!(world.key.as_ref().unwrap().to_string(), "data.id");
    assert_eq!(space.position[1].to_string(), "data.pos.y");
    assert_eq!((space.hysteresis, space.max_radius, space.area_required), (2.0, Some(60.5), true));
    assert_eq!(space.follow.to_string(), "key == me.player || key in me.units");
    assert!(space.follow_hidden);
    let delivery = Delivery {
        batch_ms: 50,
        conflate: true,
        max_updates: Some(20),
        max_wait_ms: 500,
        slow_consumer: SlowConsumer::Latest,
        max_message_bytes: Some(48 * 1024),
    };
    assert_eq!(world.delivery, delivery);
    assert_eq!(chat.delivery.slow_consumer, SlowConsumer::DropOldest);
}

#[test]
fn the_sample_of_the_contract_is_accepted_or_refused_by_name() {
    let said = report(include_str!("contract.toml"));
    let refused: Vec<_> = said.lines().map(|line| line.split('`').nth(1).unwrap()).collect();
    let is_expected = |line: &str| {
        line.contains("` is not supported yet;") || line.contains("`channel.history` does not go with")
    };
    assert!(said.lines().all(is_expected), "{said}");
    // The sample shows every key in one class, and a log goes with few of them.
    let history = ["channel.history"; 3];
    assert_eq!(refused, history);
}

#[test]
fn a_history_says_how_much_a_log_keeps() {
    let config = good(
        "[[channel]]\nname = \"a\"\nhistory = { events = 200, age = \"10m\" }\nplain_publish = \"ignore\"\n\
         [[channel]]\nname = \"b\"\nhistory = { events = 1, age = \"30d\" }\nslow_consumer = \"drop_oldest\"\n\
         [[channel]]\nname = \"c\"\nplain_publish = \"deliver\"",
    );
    let classes: Vec<_> = config.engine.classes.iter().map(|(_, class)| class).collect();
    let [a, b, c] = classes[..] else { panic!("not three") };
    assert_eq!(a.history, Some(History { events: 200, age_ms: 600_000 }));
    assert_eq!(b.history, Some(History { events: 1, age_ms: 30 * 24 * 3_600_000 }));
    assert_eq!(c.history, None);
    assert_eq!([a, b, c].map(|class| class.ignores_plain_publish), [true, false, false]);
}

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn the_example_is_right_as_it_stands() {
    let path = Path::new(ROOT).join("examples/drawbridge.toml");
    let config = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn a_database_without_a_prefix_is_warned_of() {
    let warnings = |broker: &str| {
        let secret = "[auth]\nhmac_secret = \"0123456789abcdef0123456789abcdef\"";
        let text = format!("[broker]\nkind = \"redis\"\n{broker}\n{secret}");
        crate::config::parse("f.toml", &text, &[]).unwrap().warnings
    };
    assert_eq!(
        warnings("url = \"redis://h/3\""),
        [
            "`broker.url` names database 3, and Redis Pub/Sub ignores databases: events and services' commands reach the \
          environments in the other databases of this Redis, too; give each environment a `broker.channel_prefix`"
        ]
    );
    for quiet in
        ["url = \"redis://h\"", "url = \"redis://h/0\"", "url = \"redis://h/3\"\nchannel_prefix = \"prod:\""]
    {
        assert_eq!(warnings(quiet), Vec::<String>::new(), "{quiet}");
    }
}

#[test]
fn the_page_on_configuration_names_every_key() {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/configuration.md")).unwrap();
    let channel = "[[channel]]\nname = \"a\"";
    let variables = std::iter::empty();
    let (_, known) =
        read("f.toml", channel, Path::new(""), variables).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(known.contains("channel.publishes.burst") && known.contains("broker.tls_ca_file"));
    for path in known {
        let leaf = path.rsplit('.').next().unwrap_or_default();
        assert!(page.contains(&format!("`{leaf}`")) || page.contains(&format!("[{leaf}]")), "{path}");
    }
}

#[test]
fn dev_needs_nothing() {
    let config = dev(None).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((&*config.listen, &*config.node), ("127.0.0.1:8000", "dev"));
    let admin = config.admin.unwrap();
    assert_eq!((&*admin.listen, admin.api_key.current().expose()), (crate::dev::ADMIN_LISTEN, "dev"));
    assert!(config.engine.explain && !config.engine.allow_anonymous);
    assert!(matches!(config.broker.kind, BrokerKind::Memory));
    let templates: Vec<_> = config.engine.auto_subscribe.iter().map(ToString::to_string).collect();
    assert_eq!(templates, ["player:{sub}", "room:{room}", "game:{game}", "team:{team}"]);
    let names: Vec<_> = config.engine.classes.iter().map(|(_, class)| class.name.to_string()).collect();
    assert_eq!(
        names,
        ["player:{player}", "room:{room}", "game:{game}", "world:{world}", "team:{team}", "chat:*"]
    );
    let other = dev(None).unwrap().auth.hmac_secrets.remove(0);
    let secret = config.auth.hmac_secrets[0].clone();
    assert!(secret.expose().len() == 64 && secret != other);
}

#[test]
fn dev_takes_a_redis() {
    let config = dev(Some("redis://h:1")).unwrap_or_else(|errors| panic!("{errors}"));
    let BrokerKind::Redis(redis) = config.broker.kind else { panic!() };
    assert_eq!(redis.location.to_string(), "h:1");
    let said = dev(Some("redis://h:x")).unwrap_err().to_string();
    assert!(said.starts_with("--redis: `broker.url` has a wrong port"), "{said}");
}

/// One event's data, as one team's player is asked about.
struct Seen<'a>(&'a str);

impl Scope for Seen<'_> {
    fn var(&self, var: Var) -> Binding<'_> {
        match var {
            Var::Data => Binding::Json(self.0),
            Var::Me => Binding::Me { player: "ann", claims: r#"{"team":"red"}"# },
            _ => Binding::Missing,
        }
    }
}

#[test]
fn in_dev_a_teams_events_are_for_that_team() {
    let config = dev(None).unwrap();
    let (_, game, _) = config.engine.classes.of_channel("game:1").unwrap();
    let view = game.view.as_ref().unwrap();
    for (data, shown) in [
        (r#"{"x":1}"#, true),
        (r#"{"team":"red"}"#, true),
        (r#"{"team":"blue"}"#, false),
        (r#"{"team":"blue","public":true}"#, true),
        (r#""hello""#, true),
        ("null", true),
    ] {
        assert_eq!(view.matches(&Seen(data)), shown, "{data}");
    }
}

#[test]
fn a_class_behind_one_that_matches_all_its_channels_is_warned_of() {
    let warnings = |names: &[&str]| {
        let secret = "[auth]\nhmac_secret = \"0123456789abcdef0123456789abcdef\"\n";
        let classes: String = names.iter().map(|name| format!("[[channel]]\nname = \"{name}\"\n")).collect();
        crate::config::parse("f.toml", &format!("{secret}{classes}"), &[]).unwrap().warnings
    };
    for (names, shadowed) in [
        (["*", "room:{room}"], Some("\"room:{room}\" never applies: all its channels match \"*\"")),
        (["room:*", "room:{room}:chat"], Some("\"room:{room}:chat\" never applies")),
        (["room:{room}", "room:lobby"], Some("\"room:lobby\" never applies")),
        (["chat:*", "chat:team:*"], Some("\"chat:team:*\" never applies")),
        (["room:lobby", "room:{room}"], None),
        (["chat:{name}", "chat:*"], None),
        (["room:{room}:chat", "room:*"], None),
        (["a:{x}", "b:{x}"], None),
    ] {
        let warnings = warnings(&names);
        assert_eq!(warnings.len(), usize::from(shadowed.is_some()), "{names:?}: {warnings:?}");
        assert!(shadowed.is_none_or(|text| warnings[0].contains(text)), "{warnings:?}");
    }
}
