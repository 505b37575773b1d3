//! Overrides from the environment.

use super::*;

#[track_caller]
fn check(text: &str, variables: &[(&str, &str)], expected: &str) {
    assert_eq!(with(text, variables).expect_err("a wrong override").to_string(), expected);
}

const SECRET: (&str, &str) = ("DRAWBRIDGE_AUTH__HMAC_SECRET", "0123456789abcdef0123456789abcdef");

#[test]
fn keys_of_every_kind_are_overridden() {
    let file = "node = \"a\"\n[broker]\nkind = \"memory\"\n[limits]\nmessages = { per_second = 5, burst = 7 }\n\
        [[channel]]\nname = \"a\"\npublish = \"false\"\n[[channel]]\nname = \"b\"";
    let config = with(
        file,
        &[
            SECRET,
            ("DRAWBRIDGE_NODE", "7"),
            ("DRAWBRIDGE_LISTEN", "\"0.0.0.0:0\""),
            ("DRAWBRIDGE_SHARDS", "3"),
            ("DRAWBRIDGE_PROXY_PROTOCOL", "true"),
            ("DRAWBRIDGE_DRAIN_WINDOW", "\"90s\""),
            ("DRAWBRIDGE_TRUSTED_PROXIES", "10.0.0.0/8, '192.168.1.1'"),
            ("DRAWBRIDGE_ADMIN", "{ listen = \"127.0.0.1:1\", api_key = \"k\" }"),
            ("DRAWBRIDGE_ADMIN__LISTEN", "127.0.0.1:2"),
            ("DRAWBRIDGE_BROKER__KIND", "redis"),
            ("DRAWBRIDGE_BROKER__URL", "redis://:pw@h/1"),
            ("DRAWBRIDGE_BROKER__QUEUE_BYTES", "'1MiB'"),
            ("DRAWBRIDGE_CONNECTION__AUTO_SUBSCRIBE", "[\"player:{sub}\", \"x\"]"),
            ("DRAWBRIDGE_LIMITS__MESSAGES__BURST", "9"),
            ("DRAWBRIDGE_LIMITS__BYTES__PER_SECOND", "1KiB"),
            ("DRAWBRIDGE_LIMITS__MESSAGE_BYTES", "4096"),
            ("DRAWBRIDGE_CHANNEL__0__PUBLISH", "true"),
            ("DRAWBRIDGE_CHANNEL__2__NAME", "c"),
            ("DRAWBRIDGE_CHANNEL__2__PATTERNS", "true"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.node, "7");
    assert_eq!(config.listen, "0.0.0.0:0");
    assert_eq!((config.shards, config.proxy_protocol, config.drain_window.as_secs()), (3, true, 90));
    assert_eq!(
        config.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "192.168.1.1/32"]
    );
    let admin = config.admin.unwrap();
    assert_eq!((&*admin.listen, admin.api_key.current().expose()), ("127.0.0.1:2", "k"));
    let BrokerKind::Redis(redis) = config.broker.kind else { panic!() };
    assert_eq!((redis.location.to_string(), redis.db), ("h:6379".to_owned(), 1));
    assert_eq!(config.broker.queue_bytes, 1 << 20);
    let engine = config.engine;
    assert_eq!(
        engine.auto_subscribe.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["player:{sub}", "x"]
    );
    assert_eq!((engine.messages.per_second, engine.messages.burst), (5, 9));
    assert_eq!((engine.bytes.per_second, engine.bytes.burst), (1 << 10, 2 << 10));
    assert_eq!(engine.message_bytes, 4096);
    let classes: Vec<_> = engine
        .classes
        .iter()
        .map(|(_, class)| (class.name.to_string(), class.publish.as_constant(), class.patterns))
        .collect();
    assert_eq!(
        classes,
        [
            ("a".to_owned(), Some(true), false),
            ("b".to_owned(), Some(false), false),
            ("c".to_owned(), Some(false), true)
        ]
    );
}

#[test]
fn a_rate_may_be_a_number_alone() {
    let file = "[limits]\nsubscribes = 3\n[[channel]]\nname = \"a\"\npublishes = { per_second = 1 }";
    let config = with(
        file,
        &[
            SECRET,
            ("DRAWBRIDGE_LIMITS__MESSAGES", "50"),
            ("DRAWBRIDGE_LIMITS__MESSAGES_PER_PLAYER", "5"),
            ("DRAWBRIDGE_LIMITS__MESSAGES_PER_ADDRESS", "6"),
            ("DRAWBRIDGE_LIMITS__MESSAGES_PER_ADDRESS__BURST", "7"),
            ("DRAWBRIDGE_LIMITS__SUBSCRIBES__BURST", "9"),
            ("DRAWBRIDGE_LIMITS__BYTES", "1KiB"),
            ("DRAWBRIDGE_CHANNEL__0__PUBLISHES", "5"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let engine = config.engine;
    let publishes = engine.classes.iter().next().unwrap().1.publishes;
    let rates = [
        Some(engine.messages),
        engine.messages_per_player,
        engine.messages_per_address,
        Some(engine.subscribes),
        Some(engine.bytes),
        publishes,
    ];
    assert_eq!(
        rates.map(|rate| rate.map(|rate| (rate.per_second, rate.burst))),
        [(50, 100), (5, 10), (6, 7), (3, 9), (1024, 2048), (5, 10)].map(Some)
    );
    check(
        "",
        &[("DRAWBRIDGE_LIMITS__MESSAGES_PER_PLAYER", "0")],
        "DRAWBRIDGE_LIMITS__MESSAGES_PER_PLAYER: `limits.messages_per_player` is out of bounds: 0; it may be 1 to 1000000000",
    );
    check(
        "",
        &[("DRAWBRIDGE_LIMITS__MESSAGES_PER_PLAYER", "many")],
        "DRAWBRIDGE_LIMITS__MESSAGES_PER_PLAYER: `limits.messages_per_player` is not a rate: it is a string; a rate is written like 50 (a second) or { per_second = 50, burst = 100 }",
    );
}

#[test]
fn errors_name_the_variable() {
    check(
        "[broker]\nurl = \"redis://h\"\nkind = \"redis\"",
        &[("DRAWBRIDGE_BROKER__URL__X", "1")],
        "DRAWBRIDGE_BROKER__URL__X: `broker.url` is a table, not a string; put it in quotes",
    );
    check(
        "",
        &[("DRAWBRIDGE_CONNECTION__HEARTBEAT", "soon")],
        "DRAWBRIDGE_CONNECTION__HEARTBEAT: `connection.heartbeat` is not a duration: \"soon\"; a duration is written like \"50ms\", \"30s\", \"10m\" or \"1h\"",
    );
    check(
        "",
        &[("DRAWBRIDGE_SHARDS", "many")],
        "DRAWBRIDGE_SHARDS: `shards` is a string, not a whole number; write it in digits, without quotes",
    );
    check(
        "",
        &[("DRAWBRIDGE_CONTROL_CHANNEL", "1")],
        "DRAWBRIDGE_CONTROL_CHANNEL: `control_channel` is a string, not true or false; write true or false, without quotes",
    );
    check(
        "",
        &[("DRAWBRIDGE_BROKER__URL", "redis://h")],
        "DRAWBRIDGE_BROKER__URL: `broker.url` is given, and `broker.kind` is \"memory\" by default; add kind = \"redis\" (or kind = \"memory\" to leave Redis alone)",
    );
    check(
        "",
        &[("DRAWBRIDGE_AUTH__HMAC_SECRET", "")],
        "DRAWBRIDGE_AUTH__HMAC_SECRET: `auth.hmac_secret` is empty; leave the key out, or say something",
    );
    check(
        "[[channel]]\nname = \"a\"",
        &[("DRAWBRIDGE_CHANNEL__0__HISTORY", "{ events = 1 }")],
        "DRAWBRIDGE_CHANNEL__0__HISTORY: `channel.history` needs both `events` and `age`; how much a log keeps is written like { events = 200, age = \"10m\" }",
    );
    check(
        "[[channel]]\nname = \"a\"",
        &[("DRAWBRIDGE_CHANNEL__5__NAME", "b")],
        "DRAWBRIDGE_CHANNEL__5__NAME: `channel` has only 1 elements; they are numbered from 0, and 1 adds one",
    );
    check(
        "",
        &[("DRAWBRIDGE_CHANNEL", "a")],
        "DRAWBRIDGE_CHANNEL: `channel` is a string, not a list of tables; write each as `[[channel]]`",
    );
}

#[test]
fn an_unknown_variable_gets_the_nearest_right_name() {
    check(
        "",
        &[("DRAWBRIDGE_BROKER__ULR", "x")],
        "DRAWBRIDGE_BROKER__ULR: no such key in the configuration; did you mean DRAWBRIDGE_BROKER__URL?",
    );
    check(
        "",
        &[("DRAWBRIDGE_BROKR__URL", "x")],
        "DRAWBRIDGE_BROKR__URL: no such key in the configuration; did you mean DRAWBRIDGE_BROKER__URL?",
    );
    check(
        "",
        &[("DRAWBRIDGE_LISTENS", "x")],
        "DRAWBRIDGE_LISTENS: no such key in the configuration; did you mean DRAWBRIDGE_LISTEN?",
    );
    check(
        "",
        &[("DRAWBRIDGE_BROKER_URL", "x")],
        "DRAWBRIDGE_BROKER_URL: no such key in the configuration; did you mean DRAWBRIDGE_BROKER__URL?",
    );
    check(
        "[[channel]]\nname = \"a\"",
        &[("DRAWBRIDGE_CHANNEL__0__PUBLSH", "true")],
        "DRAWBRIDGE_CHANNEL__0__PUBLSH: no such key in the configuration; did you mean DRAWBRIDGE_CHANNEL__0__PUBLISH?",
    );
    check(
        "[[channel]]\nname = \"a\"",
        &[("DRAWBRIDGE_CHANEL__0__PUBLISH", "true")],
        "DRAWBRIDGE_CHANEL__0__PUBLISH: no such key in the configuration; did you mean DRAWBRIDGE_CHANNEL__0__PUBLISH?",
    );
    check("", &[("DRAWBRIDGE_ZZZ__QQQ", "x")], "DRAWBRIDGE_ZZZ__QQQ: no such key in the configuration");
}

#[test]
fn variables_that_only_begin_alike_are_left_alone() {
    let config = with(
        "",
        &[
            SECRET,
            ("DRAWBRIDGE_LOG", "debug"),
            ("DRAWBRIDGE_CONFIG", "x.toml"),
            ("DRAWBRIDGE_SERVICE_HOST", "10.0.0.1"),
            ("DRAWBRIDGE_SERVICE_PORT_WS", "8000"),
            ("DRAWBRIDGE_PORT", "tcp://10.0.0.1:8000"),
            ("DRAWBRIDGE_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("DRAWBRIDGEX", "1"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(config.unwrap().warnings, Vec::<String>::new());
    let config = with("", &[SECRET, ("DRAWBRIDGE_BIN", "/bin/drawbridge")]).unwrap();
    assert_eq!(config.warnings, ["DRAWBRIDGE_BIN is not a configuration key and is ignored"]);
}

#[test]
fn kubernetes_variables_of_any_service_are_left_alone() {
    let services = [
        "",
        "_FOO",
        "_REDIS",
        "_LIMITS",
        "_ADMIN",
        "_LISTEN",
        "_CHANNEL__0",
        "__FOO",
        "_BROKER__URL",
        "_A_PORT_1",
    ];
    for service in services {
        let variables = [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "8000"),
            ("SERVICE_PORT_HTTP", "8000"),
            ("SERVICE_PORT_HTTP__2", "8000"),
            ("PORT", "tcp://10.0.0.1:8000"),
            ("PORT", "udp://10.0.0.1:8000"),
            ("PORT_6379_TCP", "tcp://10.0.0.1:6379"),
            ("PORT_6379_TCP_PROTO", "tcp"),
            ("PORT_6379_UDP_PORT", "6379"),
            ("PORT_6379_SCTP_ADDR", "10.0.0.1"),
        ];
        for (rest, value) in variables {
            let name = format!("DRAWBRIDGE{service}_{rest}");
            let config =
                with("", &[SECRET, (&name, value)]).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(config.warnings, Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn what_only_resembles_a_kubernetes_variable_is_an_error_all_the_same() {
    for (name, value) in [
        ("DRAWBRIDGE_LIMITS__PORT", "8000"),
        ("DRAWBRIDGE_BROKER__SERVICE", "10.0.0.1"),
        ("DRAWBRIDGE_BROKER__PORT_X_TCP", "1"),
        ("DRAWBRIDGE_BROKER__PORT_6379_TLS", "1"),
        ("DRAWBRIDGE_BROKER__PORT_6379_TCP_HOST", "1"),
    ] {
        let said = with("", &[SECRET, (name, value)]).unwrap_err().to_string();
        assert!(said.contains(&format!("{name}: no such key")), "{said}");
    }
}

#[test]
fn a_secret_stays_what_it_is() {
    for secret in ["[1]", "{ a = 1 }", "12345", "a\"b", "true"] {
        let config = with("", &[("DRAWBRIDGE_AUTH__HMAC_SECRET", secret)]).unwrap();
        assert_eq!(config.auth.hmac_secrets[0].expose(), secret);
    }
    let said =
        with("", &[("DRAWBRIDGE_BROKER__KIND", "redis"), ("DRAWBRIDGE_BROKER__URL", "redis://:hunter2@h:x")])
            .unwrap_err();
    assert!(!said.to_string().contains("hunter2"), "{said}");
}

#[test]
fn elements_of_lists_are_overridden() {
    let file = "trusted_proxies = [\"10.0.0.0/8\"]\n[[channel]]\nname = \"a\"";
    let config = with(
        file,
        &[
            SECRET,
            ("DRAWBRIDGE_TRUSTED_PROXIES__0", "::1"),
            ("DRAWBRIDGE_TRUSTED_PROXIES__1", "::2"),
            ("DRAWBRIDGE_CHANNEL__0", "{ name = \"b\" }"),
            ("DRAWBRIDGE_CHANNEL__1", "{ name = \"c\" }"),
            ("DRAWBRIDGE_CHANNEL__1__PATTERNS", "true"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        config.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["::1/128", "::2/128"]
    );
    let classes: Vec<_> =
        config.engine.classes.iter().map(|(_, class)| (class.name.to_string(), class.patterns)).collect();
    assert_eq!(classes, [("b".to_owned(), false), ("c".to_owned(), true)]);
}

#[test]
fn odd_variables_are_errors_and_no_panics() {
    let long = format!("DRAWBRIDGE_{}", "A__".repeat(20_000));
    for name in [
        "DRAWBRIDGE_",
        "DRAWBRIDGE___",
        "DRAWBRIDGE_0",
        "DRAWBRIDGE_BROKER__0",
        "DRAWBRIDGE_NODE__0",
        "DRAWBRIDGE_CHANNEL__X",
        "DRAWBRIDGE_CHANNEL__99999999999999999999",
        &long,
    ] {
        for value in ["", "x", "[", "{ a = 1 }", "[[[[", "\"\"\""] {
            let _ = with("[[channel]]\nname = \"a\"", &[(name, value)]);
        }
    }
    check(
        "[broker]\nkind = \"memory\"",
        &[("DRAWBRIDGE_BROKER__0", "x")],
        "DRAWBRIDGE_BROKER__0: no such key in the configuration; did you mean DRAWBRIDGE_BROKER?",
    );
}
