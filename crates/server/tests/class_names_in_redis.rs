//! A class's name matches the same channels in nodes and in the functions in Redis: both are given the same generated names.
//! Which class the functions take shows by what they refuse: the payload has no key, and each class names another.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use broker_support::server::Server;
use broker_support::{Flavour, Reply};
use drawbridge_engine::class::{Class, Classes, EntityRules};
use drawbridge_engine::path::Path;
use drawbridge_protocol::template::ClassName;

/// Parts of generated class names and channels. The letters of fixed parts are those of values, too.
const FIXED: [&str; 9] = ["room", ":", ".", "-", "_", "x", "%d", "日", "--"];
const VALUES: [&str; 14] =
    ["", "room", "4", "a.b", "a-b", "a:b", "x", "日", "%d", ".", "--", "_", "^$()", "]"];

/// A small generator of its own, so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    fn of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.below(texts.len())]
    }
}

/// A name of at most five parts, which may be none of a class.
fn class_name(random: &mut Random) -> String {
    let mut name = String::new();
    for at in 0..=random.below(5) {
        if random.below(2) == 0 {
            name.push_str(random.of(&FIXED));
        } else {
            name.push_str(&format!("{{p{at}}}"));
        }
    }
    if random.below(4) == 0 {
        name.push('*');
    }
    name
}

/// A channel that this class matches, or nearly.
fn channel_near(random: &mut Random, name: &str) -> String {
    let mut channel = String::new();
    let mut rest = name.trim_end_matches('*');
    while let Some((fixed, placeholder)) = rest.split_once('{') {
        channel.push_str(fixed);
        channel.push_str(random.of(&VALUES));
        rest = placeholder.split_once('}').unwrap().1;
    }
    channel.push_str(rest);
    if random.below(3) == 0 {
        channel.push_str(random.of(&VALUES));
    }
    channel
}

fn class(at: usize, name: ClassName) -> Class {
    Class {
        key: Some(Path::parse(&format!("data.key{at}")).unwrap()),
        entity: Some(EntityRules { max: 10, max_bytes: 1_000, ttl_ms: 60_000, space: None }),
        ..Class::plain(name)
    }
}

/// Which class the functions take for a channel.
fn class_in_redis(server: &Server, channel: &str) -> Option<usize> {
    let name = server.named(channel);
    match server.call(&["FCALL", "drawbridge_publish", "1", &name, r#"{"event":"e","data":{}}"#]) {
        Reply::Int(0) => None,
        Reply::Error(words) => {
            let rest =
                words.strip_prefix("BADKEY data.key").unwrap_or_else(|| panic!("{channel:?}: {words}"));
            Some(rest.split(' ').next().unwrap().parse().unwrap())
        }
        other => panic!("{channel:?}: {other:?}"),
    }
}

fn compare(server: &Server, seed: u64) -> (usize, usize) {
    let mut random = Random(seed);
    let mut names: Vec<String> =
        ["room.{id}", "private-{a}.{b}", "laravel_database_private-App.Models.User.{id}", "room:{room}"]
            .map(str::to_owned)
            .into();
    names.extend((0..100).map(|_| class_name(&mut random)));
    names.retain(|name| ClassName::parse(name).is_ok());
    let parsed = names.iter().map(|name| ClassName::parse(name).unwrap());
    let classes = Classes::new(parsed.enumerate().map(|(at, name)| class(at, name)).collect());
    let (mut matched, mut tried) = (0, 0);
    let mut channels: Vec<(usize, String)> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        channels.extend((0..20).map(|_| (at, channel_near(&mut random, name))));
    }
    channels.retain(|(_, channel)| !channel.is_empty());
    // Of all of them the first that matches counts.
    load(server, &classes);
    for (_, channel) in &channels {
        let node = classes.of_channel(channel).map(|(_, class, _)| class.key.clone().unwrap().to_string());
        let redis = class_in_redis(server, channel).map(|at| format!("data.key{at}"));
        assert_eq!(redis, node, "{channel:?}, of all classes");
    }
    // One at a time, so that none hides another.
    for (at, name) in names.iter().enumerate() {
        let alone = Classes::new(vec![class(at, ClassName::parse(name).unwrap())]);
        load(server, &alone);
        for (_, channel) in channels.iter().filter(|(of, _)| *of == at) {
            let (node, redis) =
                (alone.of_channel(channel).is_some(), class_in_redis(server, channel).is_some());
            assert_eq!(redis, node, "{channel:?}, of class {name:?}");
            tried += 1;
            matched += usize::from(node);
        }
    }
    (matched, tried)
}

/// Loads the library of a node with these classes, and nothing else.
fn load(server: &Server, classes: &Classes) {
    let code = server.library(classes);
    let answer = server.call(&["FUNCTION", "LOAD", "REPLACE", &code]);
    assert_eq!(answer, Reply::Text("drawbridge".into()));
}

#[test]
fn nodes_and_functions_agree() {
    let server = Server::start(Flavour::Tcp);
    let (matched, tried) = compare(&server, 1);
    assert!(matched > 200 && tried > 2 * matched / 3, "{matched} of {tried}");
}

/// Classes match what is behind the prefix.
#[test]
fn nodes_and_functions_agree_behind_a_prefix() {
    let server = Server::start(Flavour::Prefixed);
    let (matched, tried) = compare(&server, 2);
    assert!(matched > 200 && tried > 2 * matched / 3, "{matched} of {tried}");
}
