//! What the nodes of one channel prefix tell the Redis Functions: an entry of the library, as JSON where it is compared and
//! as Lua where it runs. Entries of other nodes are taken over as far as they are well formed.

use drawbridge_engine::class::{Class, Classes};
use drawbridge_engine::path::Path;
use drawbridge_protocol::event::PayloadMode;
use drawbridge_protocol::template::{ClassName, Piece};
use serde_json::{Value, json};

use super::Names;

/// Classes of an entry that only other nodes of its prefix have: more are dropped, those that were added first.
const MAX_OTHER_CLASSES: usize = 1_000;
/// Entries of other environments: more are dropped, those that were written first.
const MAX_OTHERS: usize = 100;
/// What those entries take as JSON, in bytes. Lua has at most 2^18 constants for them.
const MAX_OTHERS_BYTES: usize = 2 << 20;

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

/// What a library holds once `own` is written into one that held `theirs`: what was written last comes first. `own_wins`:
/// where `theirs` has an entry of the same prefix, `own` replaces what both name; else only what is missing is added.
/// Invariant: an entry of another environment is kept whole or not at all, so that its nodes notice what they have lost.
pub(super) fn merge(own: &Value, theirs: &[Value], own_wins: bool) -> Vec<Value> {
    let held = counterpart(own, theirs).and_then(checked);
    let mut merged = vec![held.map_or_else(|| own.clone(), |held| joined(own, &held, own_wins))];
    let mut room = MAX_OTHERS_BYTES;
    for environment in theirs.iter().filter_map(checked) {
        let bytes = environment.to_string().len();
        if bytes > MAX_OTHERS_BYTES || counterpart(&environment, &merged).is_some() {
            continue;
        }
        if merged.len() > MAX_OTHERS || bytes > room {
            break;
        }
        room -= bytes;
        merged.push(environment);
    }
    merged
}

/// One entry of two of the same prefix. Classes come in the order of `own`, for the first that matches a channel counts.
fn joined(own: &Value, held: &Value, own_wins: bool) -> Value {
    let named =
        |environment, class: &Value| classes(environment).find(|known| known["name"] == class["name"]);
    let chosen = |class| if own_wins { class } else { named(held, class).unwrap_or(class) };
    let others = classes(held).filter(|class| named(own, class).is_none()).take(MAX_OTHER_CLASSES);
    let limits = if own_wins { own } else { held };
    json!({
        "prefix": own["prefix"],
        "keys": limits["keys"],
        "bytes": limits["bytes"],
        "classes": classes(own).map(chosen).chain(others).collect::<Vec<_>>(),
    })
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

/// Whether `held` names every class that nodes that say `own` have, whatever it says of them.
pub(super) fn names_all(held: &Value, own: &Value) -> bool {
    classes(own).all(|class| classes(held).any(|known| known["name"] == class["name"]))
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
    if class["sharded"] == true {
        described["sharded"] = true.into();
    }
    let is_mode = ["auto", "envelope", "raw"].contains(&class["payload"].as_str().unwrap_or_default());
    if !class["events"].is_null() {
        let is_positive = |member: &str| class[member].as_u64().is_some_and(|number| number > 0);
        if !(is_positive("events") && is_positive("age") && is_mode) {
            return None;
        }
        for member in ["events", "age", "payload"] {
            described[member] = class[member].clone();
        }
    }
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
        ("payload", is_mode),
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
    if class.entity.is_some() || class.history.is_some() {
        described["payload"] = match class.payload {
            PayloadMode::Auto => "auto",
            PayloadMode::Envelope => "envelope",
            PayloadMode::Raw => "raw",
        }
        .into();
    }
    if class.sharded {
        described["sharded"] = true.into();
    }
    if let Some(history) = class.history {
        described["events"] = history.events.into();
        described["age"] = history.age_ms.into();
    }
    let Some(rules) = &class.entity else { return described };
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

    use drawbridge_engine::class::{EntityRules, History};

    use super::*;

    fn entity(name: &str) -> Class {
        Class {
            entity: Some(EntityRules { max: 1, max_bytes: 2, ttl_ms: 3, space: None }),
            ..Class::plain(ClassName::parse(name).unwrap())
        }
    }

    fn logged(name: &str) -> Class {
        let history = Some(History { events: 9, age_ms: 1_000 });
        Class { history, ..Class::plain(ClassName::parse(name).unwrap()) }
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
        let logged = describe_class(&logged("log:{l}"));
        assert_eq!(checked_class(&logged), Some(logged.clone()));
        for (member, value) in [("events", json!(0)), ("age", json!("9")), ("payload", json!(null))] {
            let mut bad = logged.clone();
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
        let merged = merge(&own, &theirs, true);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0], environment("a:", &["world:{w}", "ship:{s}"]));
        assert_eq!(merged[1], theirs[0]);
        assert!(serves(&merged[0], &own) && !serves(&own, &merged[0]));
    }

    #[test]
    fn an_entry_is_completed_without_a_change_to_what_it_says() {
        let own = environment("a:", &["world:{w}", "ship:{s}"]);
        let mut held = environment("a:", &["moon:{m}", "ship:{s}"]);
        held["bytes"] = json!(5);
        held["classes"][1]["max"] = json!(99);
        let merged = merge(&own, &[held.clone()], false);
        let names: Vec<_> = classes(&merged[0]).map(|class| class["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["world:{w}", "ship:{s}", "moon:{m}"]);
        assert_eq!((&merged[0]["bytes"], &merged[0]["classes"][1]["max"]), (&json!(5), &json!(99)));
        assert!(names_all(&merged[0], &own) && !names_all(&held, &own));
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("c{n}:{{x}}")).collect()
    }

    fn large(prefix: &str, count: usize) -> Value {
        let names = names(count);
        environment(prefix, &names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A cut entry would look like one that its nodes need not add again.
    #[test]
    fn entries_of_others_are_kept_whole_or_not_at_all() {
        let own = environment("a:", &["world:{w}"]);
        let theirs: Vec<Value> = (0..200).map(|n| large(&format!("e{n}:"), 60)).collect();
        let merged = merge(&own, &theirs, true);
        assert_eq!(merged.len(), 1 + MAX_OTHERS);
        assert_eq!(merged[1..], theirs[..MAX_OTHERS], "those that were written last");
        let theirs: Vec<Value> = (0..50).map(|n| large(&format!("e{n}:"), 1_000)).collect();
        let merged = merge(&own, &theirs, true);
        assert!((2..50).contains(&merged.len()), "{}", merged.len());
        assert_eq!(merged[1..], theirs[..merged.len() - 1]);
        // One that no node writes costs the others nothing.
        let theirs = [large("huge:", 20_000), environment("b:", &["world:{w}"])];
        assert!(theirs[0].to_string().len() > MAX_OTHERS_BYTES);
        assert_eq!(merge(&own, &theirs, true), [own, theirs[1].clone()]);
    }

    #[test]
    fn what_is_kept_of_other_nodes_of_the_prefix_is_bounded() {
        let merged = merge(&environment("a:", &["world:{w}"]), &[large("a:", 1_500)], true);
        assert_eq!(classes(&merged[0]).count(), 1 + MAX_OTHER_CLASSES);
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
