//! Wrong configurations: one row each. Classes are in [`super::refused_classes`].

use super::*;

/// One file, one line of report.
#[track_caller]
pub(super) fn check(text: &str, expected: &str) {
    assert_eq!(report(text), expected, "\n--- of\n{text}");
}

#[test]
fn unknown_keys_get_the_nearest_right_name() {
    check(
        "[connection]\nheartbeet = \"25s\"",
        "f.toml:2:1: unknown key `heartbeet` in `connection`; did you mean `heartbeat`?",
    );
    check("lisen = \"127.0.0.1:1\"", "f.toml:1:1: unknown key `lisen`; did you mean `listen`?");
    check(
        "\n\n[conection]\nheartbeat = \"25s\"",
        "f.toml:3:2: unknown key `conection`; did you mean `connection`?",
    );
    check(
        "[connection]\nconnect-timeout = \"5s\"",
        "f.toml:2:1: unknown key `connect-timeout` in `connection`; did you mean `connect_timeout`?",
    );
    check(
        "heartbeat = \"25s\"",
        "f.toml:1:1: unknown key `heartbeat`; did you mean `heartbeat` of `[connection]`?",
    );
    check(
        "[broker]\ndrain_window = \"5s\"",
        "f.toml:2:1: unknown key `drain_window` in `broker`; did you mean `drain_window`, above the first table?",
    );
    check("[lifecycle]\nzzz = 1", "f.toml:2:1: unknown key `zzz` in `lifecycle`; known here: stream");
    check(
        "[[channel]]\nname = \"a\"\nsubscibe = \"true\"",
        "f.toml:3:1: unknown key `subscibe` in `channel`; did you mean `subscribe`?",
    );
    check(
        "limits.messages = { per_second = 1, brust = 2 }",
        "f.toml:1:37: unknown key `brust` in `limits.messages`; did you mean `burst`?",
    );
}

#[test]
fn durations_are_judged() {
    check(
        "[connection]\nheartbeat = \"0s\"",
        "f.toml:2:13: `connection.heartbeat` is out of bounds: 0s; it may be 10ms to 10m",
    );
    check(
        "drain_window = \"5 parsecs\"",
        "f.toml:1:16: `drain_window` is not a duration: \"5 parsecs\"; a duration is written like \"50ms\", \"30s\", \"10m\" or \"1h\"",
    );
    check(
        "drain_window = 5",
        "f.toml:1:16: `drain_window` is a whole number, not a duration; name the unit: \"5s\" or \"5ms\"",
    );
    check(
        "drain_window = \"99999h\"",
        "f.toml:1:16: `drain_window` is out of bounds: 99999h; it may be 0s to 1h",
    );
    check(
        "drain_window = \"99999999999999999999h\"",
        "f.toml:1:16: `drain_window` is not a duration: \"99999999999999999999h\"; a duration is written like \"50ms\", \"30s\", \"10m\" or \"1h\"",
    );
}

#[test]
fn sizes_are_judged() {
    check(
        "limits.message_bytes = 64.5",
        "f.toml:1:24: `limits.message_bytes` is a fraction, not a size; a size is written like 65536, \"64KiB\" or \"1MiB\"",
    );
    check(
        "limits.message_bytes = \"64KB\"",
        "f.toml:1:24: `limits.message_bytes` is not a size: \"64KB\"; a size is written like 65536, \"64KiB\" or \"1MiB\"",
    );
    check(
        "limits.message_bytes = 0",
        "f.toml:1:24: `limits.message_bytes` is out of bounds: 0B; it may be 128B to 16MiB",
    );
    check(
        "limits.message_bytes = -1",
        "f.toml:1:24: `limits.message_bytes` is out of bounds: -1; it may be 128B to 16MiB",
    );
    check(
        "limits.message_bytes = 99999999999999999999999999999999999999999999",
        "f.toml:1:24: `limits.message_bytes` is out of bounds: 170141183460469231731687303715884105727; it may be 128B to 16MiB",
    );
}

#[test]
fn rates_are_judged() {
    check(
        "limits.messages = 0",
        "f.toml:1:19: `limits.messages` is out of bounds: 0; it may be 1 to 1000000000",
    );
    check(
        "limits.messages_per_player = { burst = 5 }",
        "f.toml:1:8: `limits.messages_per_player` says no `per_second`; a rate is written like 50 (a second) or { per_second = 50, burst = 100 }",
    );
    check(
        "limits.messages = { per_second = 0 }",
        "f.toml:1:34: `limits.messages.per_second` is out of bounds: 0; it may be 1 to 1000000000",
    );
    check(
        "limits.bytes = { per_second = \"1KB\", burst = true }",
        "f.toml:1:31: `limits.bytes.per_second` is not a size: \"1KB\"; a size is written like 65536, \"64KiB\" or \"1MiB\"\n\
         f.toml:1:46: `limits.bytes.burst` is true or false, not a size; a size is written like 65536, \"64KiB\" or \"1MiB\"",
    );
}

#[test]
fn wrong_kinds_are_named() {
    check(
        "proxy_protocol = \"yes\"",
        "f.toml:1:18: `proxy_protocol` is a string, not true or false; write true or false, without quotes",
    );
    check("node = 5", "f.toml:1:8: `node` is a whole number, not a string; put it in quotes");
    check(
        "shards = \"2\"",
        "f.toml:1:10: `shards` is a string, not a whole number; write it in digits, without quotes",
    );
    check("shards = 33", "f.toml:1:10: `shards` is out of bounds: 33; it may be 1 to 32");
    check(
        "connection = 1979-05-27",
        "f.toml:1:14: `connection` is a date or time, not a table; write `connection = { … }`",
    );
    check(
        "trusted_proxies = \"10.0.0.0/8\"",
        "f.toml:1:19: `trusted_proxies` is a string, not a list; write it in brackets: [\"…\"]",
    );
    check(
        "channel = 1",
        "f.toml:1:11: `channel` is a whole number, not a list of tables; write each as `[[channel]]`",
    );
    check(
        "[channel]\nname = \"a\"",
        "f.toml:1:2: `channel` is a table, not a list of tables; write each as `[[channel]]`",
    );
    check("channel = [1]", "f.toml:1:12: `channel` holds a whole number, not a table");
}

#[test]
fn addresses_are_judged() {
    let form =
        "it is written like \"127.0.0.1:8000\", \"[::1]:8000\" or \"0.0.0.0:0\" (port 0 takes a free one)";
    for address in [
        "localhost",
        "127.0.0.1:",
        "127.0.0.1:99999",
        "127.0.0.1:+1",
        "::1:80",
        "[::1:80",
        "http://a:80",
        "a b:80",
    ] {
        check(
            &format!("listen = \"{address}\""),
            &format!("f.toml:1:10: `listen` is not an address and port: \"{address}\"; {form}"),
        );
    }
    check(
        "listen = \":8000\"",
        "f.toml:1:10: `listen` is not an address and port: \":8000\"; to listen on all addresses write \"0.0.0.0:8000\"",
    );
    check(
        "trusted_proxies = [\"10.0.0.0/8\", \"10.0.0.0/33\"]",
        "f.toml:1:34: `trusted_proxies` contains an invalid network: \"10.0.0.0/33\"; a network is written like \"10.0.0.0/8\" or \"fd00::/8\", a single address as it is",
    );
    check(
        "listen = \"127.0.0.1:1\"\nadmin = { listen = \"127.0.0.1:1\", api_key = \"k\" }",
        "f.toml:2:1: `admin.listen` is where players connect; give it another port",
    );
    check(
        "admin = { listen = \"127.0.0.1:1\" }",
        "f.toml:1:1: `admin` needs `listen` and `api_key`; admin = { listen = \"127.0.0.1:8001\", api_key = \"…\" }",
    );
    check(
        "admin = { listen = \"127.0.0.1:1\", api_key = \"\" }",
        "f.toml:1:45: `admin.api_key` is empty; leave the key out, or say something",
    );
}

#[test]
fn the_broker_is_judged() {
    check(
        "[broker]\nkind = \"radis\"",
        "f.toml:2:8: `broker.kind` is not known: \"radis\"; did you mean \"redis\"?",
    );
    check(
        "[broker]\nkind = \"kafka\"",
        "f.toml:2:8: `broker.kind` is not known: \"kafka\"; it may be \"memory\" or \"redis\"",
    );
    check(
        "[broker]\nkind = \"redis\"",
        "f.toml:1:2: `broker.kind` is \"redis\", and there is no `broker.url`; add url = \"redis://127.0.0.1:6379\"",
    );
    check(
        "[broker]\nurl = \"redis://h\"",
        "f.toml:1:2: `broker.url` is given, and `broker.kind` is \"memory\" by default; add kind = \"redis\" (or kind = \"memory\" to leave Redis alone)",
    );
    let form = "it is written like redis://127.0.0.1:6379, rediss://user:password@host:6380/0, redis-sentinel://h1,h2/service, redis-cluster://h1,h2 or unix:///run/redis.sock";
    for (url, problem) in [
        (
            "redis-sentinel://h1,h2",
            "does not name the sentinels' service (of letters, digits, `.`, `-` and `_`)",
        ),
        ("redis://:hunter2@h:x", "has a wrong port"),
    ] {
        check(
            &format!("[broker]\nkind = \"redis\"\nurl = \"{url}\""),
            &format!("f.toml:3:7: `broker.url` {problem}; {form}"),
        );
    }
    check(
        "broker.key_prefix = \"\"",
        "f.toml:1:21: `broker.key_prefix` is empty; leave the key out, or say something",
    );
    check(
        "broker.key_prefix = \"a b\"",
        "f.toml:1:21: `broker.key_prefix` is not fit for a prefix; at most 64 bytes, without white space, braces and the signs of patterns, like \"drawbridge:\"",
    );
    for unfit in
        ["prod", ":", "-._/:", "a b:", "{a}:", "a*:", "a\\\\:", "\u{e9}:", &format!("{}:", "x".repeat(64))]
    {
        check(
            &format!("broker.channel_prefix = \"{unfit}\""),
            "f.toml:1:25: `broker.channel_prefix` is not fit for a prefix; at most 64 ASCII letters, digits and `:.-_/`, at least one a letter or digit, and the last one a sign, like \"prod:\"",
        );
    }
    let collision = "; the names of channels must differ from those of Drawbridge's own keys; key_prefix stands behind channel_prefix in Redis and need not repeat it";
    for (keys, prefix) in [
        ("drawbridge:", "drawbridge:"),
        ("drawbridge:", "drawbridge:prod:"),
        ("prod:db:", "prod:"),
        ("db:", "drawbridge:"),
    ] {
        check(
            &format!("[broker]\nkey_prefix = \"{keys}\"\nchannel_prefix = \"{prefix}\""),
            &format!(
                "f.toml:3:18: `broker.channel_prefix` collides with `broker.key_prefix`, which is \"{keys}\"{collision}"
            ),
        );
    }
    check(
        "[broker]\nkind = \"redis\"\nurl = \"redis://h\"\nusername = \"ann\"",
        "f.toml:1:2: the broker's user has no password; add `password`, or write both in the URL: redis://user:password@host",
    );
    check(
        "[broker]\nkind = \"redis\"\nurl = \"redis://h\"\ntls_ca_file = \"ec.cert.pem\"",
        "f.toml:4:15: `broker.tls_ca_file` is of no use without TLS; begin `broker.url` with rediss://",
    );
    check(
        "[broker]\nkind = \"redis\"\nurl = \"rediss://h\"\ntls_ca_file = \"ec.key.pem\"",
        "f.toml:4:15: `broker.tls_ca_file` contains no certificate; a PEM file with a CERTIFICATE block is needed",
    );
}

#[test]
fn tokens_and_who_they_name() {
    check("auth.leeway = \"10m\"", "f.toml:1:15: `auth.leeway` is out of bounds: 10m; it may be 0s to 5m");
    check(
        "auth.user_claim = \"\"",
        "f.toml:1:19: `auth.user_claim` is empty; leave the key out, or say something",
    );
    check(
        "auth.cookie = \"my token\"",
        "f.toml:1:15: `auth.cookie` is not a cookie's name: \"my token\"; it has letters, digits and marks such as `-` and `_`, without spaces: \"access_token\"",
    );
    check(
        "auth.hmac_secrets = \"hunter2\"",
        "f.toml:1:21: `auth.hmac_secrets` is a string, not a list; write it in brackets: [\"…\"]",
    );
    check(
        "limits.when_exceeded = \"refuse\"",
        "f.toml:1:24: `limits.when_exceeded` needs `connections_per_player`; say how many: connections_per_player = 1",
    );
    check(
        "limits = { connections_per_player = 1, when_exceeded = \"close_newest\" }",
        "f.toml:1:56: `limits.when_exceeded` is not known: \"close_newest\"; did you mean \"close_oldest\"?",
    );
    check(
        "limits.connections_per_player = 0",
        "f.toml:1:33: `limits.connections_per_player` is out of bounds: 0; it may be 1 to 1000000",
    );
}

#[test]
fn files_are_looked_at() {
    check(
        "auth.public_key_file = \"nowhere.pem\"",
        &format!(
            "f.toml:1:24: `auth.public_key_file` cannot be read: No such file or directory (os error 2); looked for {FIXTURES}/nowhere.pem"
        ),
    );
    let wanted = "a PEM file with a PUBLIC KEY block is needed: RSA of 2048 bits or more, EC on P-256 or P-384, or Ed25519";
    for (file, problem) in [
        ("README.md", format!("contains no public key; {wanted}")),
        ("rsa1024.pub.pem", format!("holds an RSA key of less than 2048 bits; {wanted}")),
        ("ec521.pub.pem", format!("holds an EC key that is on neither P-256 nor P-384; {wanted}")),
        (
            "ec.key.pem",
            "holds a private key; a server needs only the public one: openssl pkey -in private.pem -pubout"
                .into(),
        ),
        (
            "ec.cert.pem",
            "holds a certificate; take the key out of it: openssl x509 -in cert.pem -pubkey -noout".into(),
        ),
    ] {
        check(
            &format!("auth.public_key_file = \"{file}\""),
            &format!("f.toml:1:24: `auth.public_key_file` {problem}"),
        );
    }
    check(
        "tls = { cert_file = \"ec.cert.pem\" }",
        "f.toml:1:1: `tls` needs `cert_file` and `key_file`; tls = { cert_file = \"cert.pem\", key_file = \"key.pem\" }",
    );
    check(
        "tls = { cert_file = \"ec.cert.pem\", key_file = \"ec.pub.pem\" }",
        "f.toml:1:47: `tls.key_file` contains no private key; a PEM file with a PRIVATE KEY block is needed",
    );
    let said = report("tls = { cert_file = \"ec.cert.pem\", key_file = \"ed25519.key.pem\" }");
    assert!(said.starts_with("f.toml:1:47: `tls.key_file` does not go with the certificate: "), "{said}");
}

#[test]
fn other_texts_are_judged() {
    for url in
        ["login.example/jwks", "ftp://login.example/jwks", "https://", "https://u:hunter2@login.example/"]
    {
        let said = report(&format!("auth.jwks_url = \"{url}\""));
        assert!(said.starts_with("f.toml:1:17: `auth.jwks_url` "), "{said}");
    }
    check(
        "[connection]\nallowed_origins = [\"https://play.example/\"]",
        "f.toml:2:20: `connection.allowed_origins` contains an invalid origin: \"https://play.example/\"; an origin is written like \"https://play.example\", without a path or a slash at the end; [\"*\"] allows any",
    );
    check(
        "[connection]\nauto_subscribe = [\"player:{sub}\", \"room:{room\"]",
        "f.toml:2:35: `connection.auto_subscribe` contains an invalid template: \"room:{room\": the brace at byte 5 has no partner; a template is written like \"room:{room}\"",
    );
    check(
        "lifecycle.stream = \"a b\"",
        "f.toml:1:20: `lifecycle.stream` is not fit for a stream's key; at most 255 bytes, without white space, like \"drawbridge:lifecycle\"",
    );
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let said = report(
        "lisen = \"a\"\nshards = 0\n[connection]\nheartbeat = \"0s\"\nheartbeet = \"1s\"\n[[channel]]\nname = \"{\"\nhistory = 1\n",
    );
    let places: Vec<_> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        ["f.toml:1:1", "f.toml:2:10", "f.toml:4:13", "f.toml:5:1", "f.toml:7:8", "f.toml:8:11"],
        "{said}"
    );
}

#[test]
fn columns_count_characters() {
    check(
        "\"é\" = 1",
        "f.toml:1:1: unknown key `é`; known here: admin, auth, broker, channel, connection, control_channel, drain_delay, drain_window, lifecycle, limits, listen, logic, node, proxy_protocol, ready_grace, shards, tls, trusted_proxies",
    );
    check(
        "connection = { 'é' = 1, heartbeat = 1 }",
        "f.toml:1:16: unknown key `é` in `connection`; known here: allowed_origins, auto_subscribe, compression, connect_timeout, heartbeat, linger, outbound_bytes, resume_window\nf.toml:1:37: `connection.heartbeat` is a whole number, not a duration; name the unit: \"1s\" or \"1ms\"",
    );
}

#[test]
fn a_secrets_value_is_in_no_error_and_no_debug_text() {
    let wrong = "[auth]\nhmac_secret = [\"hunter2\"]\njwks_url = \"hunter2\"\n[admin]\nlisten = \"x\"\napi_key = \"hunter2 hunter2\"\n[broker]\nkind = \"redis\"\nurl = \"redis://:hunter2\"\npassword = { a = \"hunter2\" }\n";
    let said = report(wrong);
    assert!(said.lines().count() >= 5 && !said.contains("hunter2"), "{said}");
    let right = "[auth]\nhmac_secret = \"hunter2\"\n[admin]\nlisten = \"h:1\"\napi_key = \"hunter2\"\n[broker]\nkind = \"redis\"\nurl = \"redis://a:hunter2@h\"\npassword = \"hunter2\"\n";
    assert!(!format!("{:?}", good(right)).contains("hunter2"));
}

#[test]
fn a_file_that_cannot_be_read_is_told_from_a_wrong_one() {
    let errors = load(Path::new("/nowhere/drawbridge.toml")).unwrap_err();
    assert!(errors.unreadable);
    assert_eq!(
        errors.to_string(),
        "/nowhere/drawbridge.toml: cannot be read: No such file or directory (os error 2); \
         `drawbridge init /nowhere/drawbridge.toml` writes one"
    );
}
