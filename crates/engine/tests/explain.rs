//! What `drawbridge explain` prints comes from here: the verdicts are those of the engine, and the steps name what decided.
#![allow(clippy::unwrap_used, clippy::panic)]

use drawbridge_engine::class::Class;
use drawbridge_engine::explain::{Explanation, Step, publish, subscribe};
use drawbridge_engine::expr::{Outcome, PathValue, Vars};
use drawbridge_engine::io::Claims;
use drawbridge_engine::settings::Settings;
use drawbridge_protocol::Publish;
use drawbridge_protocol::template::{ClassName, Template};
use drawbridge_testkit::classes::{entities, path, rule};
use drawbridge_testkit::settings::settings;
use serde_json::json;
use serde_json::value::RawValue;

fn class(name: &str, subscribe: &str, publish: &str) -> Class {
    Class {
        subscribe: rule(subscribe, Vars::SUBSCRIBE_RULE),
        publish: rule(publish, Vars::PUBLISH_RULE),
        ..Class::plain(ClassName::parse(name).unwrap())
    }
}

fn node() -> Settings {
    let room = Class {
        view: Some(rule("data.team == me.team", Vars::VIEW_RULE)),
        ..class("room:{room}", "params.room in me.rooms", "data.damage < me.strength")
    };
    let actions =
        Class { forward: Some(Template::parse("actions:{a}").unwrap()), ..class("act:{a}", "false", "true") };
    let world = Class {
        entity: Some(entities()),
        key: Some(path("data.id")),
        ..class("world:{w}", "true", "key == me.player")
    };
    let chat = Class { patterns: true, ..class("chat:*", "true", "true") };
    let auto_subscribe = vec![Template::parse("player:{sub}").unwrap()];
    Settings { auto_subscribe, ..settings(vec![room, actions, world, chat]) }
}

fn alice() -> Claims {
    let claims = json!({ "rooms": ["42"], "strength": 10, "team": "red" }).to_string();
    Claims { player: "alice".into(), expires_unix_ms: None, json: claims.into() }
}

fn sent(channel: &str, data: &str) -> Publish {
    Publish {
        channel: channel.to_owned(),
        event: "go".to_owned(),
        data: RawValue::from_string(data.to_owned()).unwrap(),
        is_base64: false,
        key: None,
        idempotency_key: None,
    }
}

/// The rule that was evaluated: whether it was true, its conditions and its paths.
fn rule_of(explanation: &Explanation) -> (bool, Vec<Outcome>, Vec<(String, PathValue)>) {
    let found = explanation.steps.iter().find_map(|step| match step {
        Step::Rule { is_true, trace, .. } => Some((*is_true, trace.clone())),
        _ => None,
    });
    let (is_true, trace) = found.unwrap();
    (is_true, trace.conditions.into_iter().map(|(_, outcome)| outcome).collect(), trace.paths)
}

#[test]
fn a_subscribe_is_granted_by_rule_or_by_template_and_denied_with_what_is_missing() {
    let node = node();
    let granted = subscribe(&node, &alice(), "room:42");
    assert_eq!(granted.verdict, Ok(()));
    assert_eq!(rule_of(&granted).1, [Outcome::True]);
    let view = Step::View { view: "data.team == me.team".to_owned(), bound: "data.team == 'red'".to_owned() };
    assert_eq!(granted.steps.last(), Some(&view));

    let denied = subscribe(&node, &Claims { json: "{}".into(), ..alice() }, "room:42");
    assert!(denied.verdict.is_err());
    let (is_true, conditions, paths) = rule_of(&denied);
    assert!(!is_true && conditions == [Outcome::Error]);
    let rooms = ("me.rooms".to_owned(), PathValue::Missing { claim: Some("rooms".to_owned()) });
    assert_eq!(paths[1], rooms);

    let filled = subscribe(&node, &alice(), "player:alice");
    assert_eq!(filled.verdict, Ok(()), "by its template alone: no class matches");
    let steps = [
        Step::Class {
            passed_over: ["room:{room}", "act:{a}", "world:{w}", "chat:*"].map(str::to_owned).to_vec(),
            found: None,
        },
        Step::AutoSubscribe { channels: vec!["player:alice".to_owned()], count: 1, is_filled: true },
    ];
    assert_eq!(filled.steps, steps);
    assert!(subscribe(&node, &alice(), "player:bob").verdict.is_err());
}

#[test]
fn patterns_reserved_names_and_names_of_no_form_are_told_apart() {
    let node = node();
    let chat = subscribe(&node, &alice(), "chat:*");
    assert_eq!((chat.verdict, chat.steps.last()), (Ok(()), Some(&Step::Patterns { is_allowed: true })));
    let rooms = subscribe(&node, &alice(), "room:*");
    assert!(rooms.verdict.is_err());
    assert_eq!(rooms.steps.last(), Some(&Step::Patterns { is_allowed: false }));
    for explanation in
        [subscribe(&node, &alice(), "drawbridge:x"), publish(&node, &alice(), &sent("drawbridge:x", "1"))]
    {
        assert_eq!((explanation.verdict.is_err(), &explanation.steps[..]), (true, &[Step::Reserved][..]));
    }
    for explanation in [subscribe(&node, &alice(), "a b"), publish(&node, &alice(), &sent("room:*", "1"))] {
        assert_eq!((explanation.verdict.is_err(), explanation.steps.len()), (true, 0));
    }
}

#[test]
fn a_publish_is_evaluated_with_its_data_and_the_key_that_the_class_finds() {
    let node = node();
    let publish = |channel: &str, data: &str| publish(&node, &alice(), &sent(channel, data));
    assert_eq!(publish("room:42", r#"{"damage":3}"#).verdict, Ok(()));
    let strong = publish("room:42", r#"{"damage":30}"#);
    assert!(strong.verdict.is_err());
    assert_eq!(rule_of(&strong).1, [Outcome::False]);
    let forwarded = publish("act:1", "null");
    assert_eq!(forwarded.steps.last(), Some(&Step::Forward("actions:{a}".to_owned())));
    assert_eq!(publish("world:1", r#"{"id":"alice"}"#).verdict, Ok(()));
    assert!(publish("world:1", r#"{"id":"bob"}"#).verdict.is_err());
    assert!(publish("nowhere:1", "1").verdict.is_err());
}

#[test]
fn an_event_that_the_rule_grants_and_the_class_cannot_keep_is_denied() {
    let mut world = class("world:{w}", "true", "true");
    (world.entity, world.key) = (Some(entities()), Some(path("data.id")));
    let denied = publish(&settings(vec![world]), &alice(), &sent("world:1", "{}"));
    let problem = denied.verdict.unwrap_err();
    assert!(problem.contains("`data.id` is missing"), "{problem}");
    assert_eq!(denied.steps.last(), Some(&Step::Event(problem)));
}
