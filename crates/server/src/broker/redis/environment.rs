//! What the nodes of one channel prefix tell the Redis Functions: an entry of the library, as JSON where it is compared and
//! as Lua where it runs. Entries of other nodes are taken over as far as they are well formed.

use drawbridge_engine::class::{Class, Classes};
use drawbridge_engine::path::Path;
use drawbridge_protocol::event::PayloadMode;
use drawbridge_protocol::template::{ClassName, Piece};
use serde_json::{Value, json};

use super::Names;

/// Classes of other nodes that are kept, at most, over all environments.
const MAX_OTHERS: usize = 1_000;
/// Environments of other nodes that are kept, at most. Those that started last are kept.
const MAX_ENVIRONMENTS: usize = 100;

/// What nodes of this configuration say.
pub(super) fn describe(classes: &Classes, names: &Names, external_bytes: usize) -> Value {
    let classes: Vec<Value> = classes.iter().map(|(_, class)| describe_class(class)).collect();
    json!({
        "prefix": names.channel_prefix(),
        "keys": names.key_prefix(),
        "bytes": external_bytes,
        "classes": classes,
    })
}

/// What a library holds in which the environment `own` comes first, and then what it held of others.
pub(super) fn merge(own: &Value, theirs: &[Value]) -> Vec<Value> {
    let mut room = MAX_OTHERS;
    let mut merged = vec![own.clone()];
    for environment in theirs.iter().filter_map(checked) {
        let is_own = environment["prefix"] == own["prefix"];
        if !is_own && merged.len() > MAX_ENVIRONMENTS {
            continue;
        }
        let is_other = |class: &&Value| !is_own || !classes(own).any(|known| known["name"] == class["name"]);
        let others: Vec<Value> = classes(&environment).filter(is_other).take(room).cloned().collect();
        room -= others.len();
        match &mut merged[0]["classes"] {
            Value::Array(known) if is_own => known.extend(others),
            _ => merged.push(json!({
                "prefix": environment["prefix"],
                "keys": environment["keys"],
                "bytes": environment["bytes"],
                "classes": others,
            })),
        }
    }
    merged
}

/// The environment of the same prefix as this one.
pub(super) fn counterpart<'v>(own: &Value, all: &'v [Value]) -> Option<&'v Value> {
    all.iter().find(|environment| environment["prefix"] == own["prefix"])
}

/// Whether `held` does for nodes that say `own`.
pub(super) fn serves(held: &Value, own: &Value) -> bool {
    held["keys"] == own["keys"]
        && held["bytes"] == own["bytes"]
        && classes(own).all(|class| classes(held).any(|known| known == class))
}

/// The prefixes of others that begin with that of `own`, or that it begins with.
pub(super) fn overlapping<'v>(own: &'v Value, all: &'v [Value]) -> impl Iterator<Item = &'v str> {
    let prefix = own["prefix"].as_str().unwrap_or_default();
    let prefixes = all.iter().filter_map(|environment| environment["prefix"].as_str());
    prefixes.filter(move |other| *other != prefix && (other.starts_with(prefix) || prefix.starts_with(other)))
}

fn classes(environment: &Value) -> impl Iterator<Item = &Value> {
    environment["classes"].as_array().into_iter().flatten()
}

/// Another node's environment as this version describes it; `None`: it is not well formed.
fn checked(environment: &Value) -> Option<Value> {
    if !environment["prefix"].is_string()
        || !environment["keys"].is_string()
        || !environment["bytes"].is_u64()
    {
        return None;
    }
    let classes: Vec<Value> = classes(environment).filter_map(checked_class).collect();
    Some(json!({
        "prefix": environment["prefix"],
        "keys": environment["keys"],
        "bytes": environment["bytes"],
        "classes": classes,
    }))
}

/// Another node's class as this version describes it: what it matches follows from its name. `None`: it is not well formed.
fn checked_class(class: &Value) -> Option<Value> {
    let name = ClassName::parse(class["name"].as_str()?).ok()?;
    let mut described = json!({ "name": name.to_string(), "match": lua_pattern(&name) });
    if class["max"].is_null() {
        return Some(described);
    }
    let is_steps = |path: &Value| {
        path.as_array().is_some_and(|steps| !steps.is_empty() && steps.iter().all(Value::is_string))
    };
    for (member, is_good) in [
        ("max", class["max"].is_u64()),
        ("ttl", class["ttl"].is_u64()),
        ("bytes", class["bytes"].is_u64() || class["bytes"].is_null()),
        ("payload", ["auto", "envelope", "raw"].contains(&class["payload"].as_str()?)),
        ("key_name", class["key_name"].is_string()),
        ("key", class["key"].is_null() || is_steps(&class["key"])),
        ("position", class["position"].is_null() || is_pair(&class["position"], is_steps)),
        (
            "position_names",
            class["position"].is_null() || is_pair(&class["position_names"], Value::is_string),
        ),
    ] {
        if !is_good {
            return None;
        }
        if !class[member].is_null() {
            described[member] = class[member].clone();
        }
    }
    Some(described)
}

fn is_pair(value: &Value, is_good: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|items| items.len() == 2 && items.iter().all(is_good))
}

/// A class as the functions know it.
fn describe_class(class: &Class) -> Value {
    let mut described = json!({ "name": class.name.to_string(), "match": lua_pattern(&class.name) });
    let Some(rules) = &class.entity else { return described };
    described["payload"] = match class.payload {
        PayloadMode::Auto => "auto",
        PayloadMode::Envelope => "envelope",
        PayloadMode::Raw => "raw",
    }
    .into();
    described["max"] = rules.max.into();
    described["bytes"] = rules.max_bytes.into();
    described["ttl"] = rules.ttl_ms.into();
    described["key_name"] = class.key.as_ref().map_or("key".to_owned(), Path::to_string).into();
    if let Some(path) = &class.key {
        described["key"] = steps(path);
    }
    if let Some(space) = &rules.space {
        described["position"] = space.position.iter().map(steps).collect();
        described["position_names"] = space.position.iter().map(Path::to_string).collect();
    }
    described
}

fn steps(path: &Path) -> Value {
    std::iter::once(path.root()).chain(path.steps()).collect()
}

/// The class's name as a Lua pattern, by the same pieces as nodes match it.
fn lua_pattern(name: &ClassName) -> String {
    let mut pattern = "^".to_owned();
    for piece in name.pieces() {
        match piece {
            Piece::Fixed(text) => push_escaped(&mut pattern, text),
            Piece::Value { ends } => {
                pattern.push_str("[^");
                push_escaped(&mut pattern, ends);
                pattern.push_str("]+");
            }
        }
    }
    if !name.is_open() {
        pattern.push('$');
    }
    pattern
}

fn push_escaped(pattern: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            pattern.push('%');
        }
        pattern.push(c);
    }
}

/// A value as Lua writes it. (While a library is loaded there is no JSON reader.)
pub(super) fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => lua_string(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(lua).collect();
            format!("{{ {} }}", items.join(", "))
        }
        Value::Object(members) => {
            let member =
                |(name, value): (&String, &Value)| format!("[{}] = {}", lua_string(name), lua(value));
            let members: Vec<String> = members.iter().map(member).collect();
            format!("{{ {} }}", members.join(", "))
        }
    }
}

/// A Lua string that means this text, whatever stands in it.
fn lua_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            other => quoted.push_str(&format!("\\{other:03}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_engine::class::EntityRules;

    use super::*;

    fn entity(name: &str) -> Class {
        Class {
            entity: Some(EntityRules { max: 1, max_bytes: 2, ttl_ms: 3, space: None }),
            ..Class::plain(ClassName::parse(name).unwrap())
        }
    }

    fn environment(prefix: &str, names: &[&str]) -> Value {
        let classes = Classes::new(names.iter().map(|name| entity(name)).collect());
        describe(&classes, &Names::new(prefix, "drawbridge:"), 1_000)
    }

    #[test]
    fn names_become_patterns() {
        for (name, pattern) in [
            ("world:{world}", "^world%:[^%:]+$"),
            ("a-b.c:{x}:{y}", "^a%-b%.c%:[^%:]+%:[^%:]+$"),
            ("room.{a}-{b}", "^room%.[^%:%.%-]+%-[^%:]+$"),
            ("chat:*", "^chat%:"),
            ("*", "^"),
        ] {
            assert_eq!(lua_pattern(&ClassName::parse(name).unwrap()), pattern, "{name}");
        }
    }

    #[test]
    fn of_what_other_nodes_need_only_what_is_well_formed_is_kept() {
        let good = describe_class(&entity("ship:{s}"));
        assert_eq!(checked_class(&good), Some(good.clone()));
        for (member, value) in [
            ("name", json!("a b")),
            ("max", json!("9")),
            ("ttl", json!(-1)),
            ("payload", json!("other")),
            ("key", json!("data.id")),
            ("position", json!([["data", "x"]])),
        ] {
            let mut bad = good.clone();
            bad[member] = value;
            assert_eq!(checked_class(&bad), None, "{member}");
        }
        let mut odd = good.clone();
        odd["match"] = json!("(.-)*");
        assert_eq!(checked_class(&odd), Some(good));
        for (member, value) in [("prefix", json!(1)), ("keys", json!(null)), ("bytes", json!("9"))] {
            let mut bad = environment("a:", &[]);
            bad[member] = value;
            assert_eq!(checked(&bad), None, "{member}");
        }
    }

    #[test]
    fn environments_stand_side_by_side_and_classes_of_one_are_joined() {
        let own = environment("a:", &["world:{w}"]);
        let theirs = [environment("b:", &["world:{w}"]), environment("a:", &["world:{w}", "ship:{s}"])];
        let merged = merge(&own, &theirs);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0], environment("a:", &["world:{w}", "ship:{s}"]));
        assert_eq!(merged[1], theirs[0]);
        assert!(serves(&merged[0], &own) && !serves(&own, &merged[0]));
    }

    #[test]
    fn what_is_kept_of_others_is_bounded() {
        let names: Vec<String> = (0..60).map(|n| format!("c{n}:{{x}}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let theirs: Vec<Value> = (0..200).map(|n| environment(&format!("e{n}:"), &names)).collect();
        let merged = merge(&environment("a:", &["world:{w}"]), &theirs);
        assert_eq!(merged.len(), 1 + MAX_ENVIRONMENTS);
        assert_eq!(merged.iter().flat_map(classes).count(), 1 + MAX_OTHERS);
    }

    #[test]
    fn prefixes_that_begin_with_each_other_are_found() {
        let all = ["", "prod:", "prod:eu:", "test:"].map(|prefix| environment(prefix, &[]));
        for (at, expected) in
            [(0, vec!["prod:", "prod:eu:", "test:"]), (1, vec!["", "prod:eu:"]), (3, vec![""])]
        {
            assert_eq!(overlapping(&all[at], &all).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn strings_survive_lua() {
        assert_eq!(lua_string("a\"b\\c\n\u{e9}"), r#""a\"b\\c\010\195\169""#);
    }
}
