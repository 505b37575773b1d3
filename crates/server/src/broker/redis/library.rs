//! The Redis Function library: rendered for this node's classes, compared with what a Redis has, and loaded where that
//! is older, other, or not there. What the functions do stands in `library.lua`.
//!
//! Nodes of different configurations may share a Redis, and during a deploy they do: classes that the library of another
//! node names and this one's configuration does not are kept behind its own.

use drawbridge_engine::class::{Class, Classes};
use drawbridge_engine::path::Path;
use drawbridge_protocol::event::PayloadMode;
use serde_json::{Value, json};

/// Of the functions' behaviour: a node replaces a library whose version is lower.
const VERSION: u64 = 3;
const FUNCTIONS: &str = include_str!("library.lua");
const VERSION_LINE: &str = "-- drawbridge library version ";
const CLASSES_LINE: &str = "-- classes ";

/// What a node's library says.
#[derive(Clone, Debug)]
pub struct Library {
    key_prefix: String,
    external_bytes: usize,
    classes: Vec<Value>,
    /// Some class has entities: without the library, nothing of them can be written.
    pub(super) is_needed: bool,
}

impl Library {
    /// For these classes and these keys.
    pub fn new(classes: &Classes, key_prefix: &str, external_bytes: usize) -> Self {
        Library {
            key_prefix: key_prefix.to_owned(),
            external_bytes,
            classes: classes.iter().map(|(_, class)| describe(class)).collect(),
            is_needed: classes.iter().any(|(_, class)| class.entity.is_some()),
        }
    }

    /// The code to load where a Redis has `present`; `None` where that will do. `begins`: this node has just started, so
    /// that its configuration is the newer one.
    pub(super) fn to_load(&self, present: Option<&str>, begins: bool) -> Option<String> {
        let Some(present) = present else { return Some(self.render(&[])) };
        let version = line(present, VERSION_LINE).and_then(|text| text.parse().ok()).unwrap_or(0);
        let theirs: Vec<Value> =
            line(present, CLASSES_LINE).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let others: Vec<Value> = theirs.iter().filter(|class| !self.names(&class["name"])).cloned().collect();
        let is_ours =
            present.contains(&self.bounds()) && self.classes.iter().all(|class| theirs.contains(class));
        match version {
            newer if newer > VERSION => None,
            VERSION if is_ours || !(begins && self.is_needed) => None,
            _ => Some(self.render(&others)),
        }
    }

    fn names(&self, name: &Value) -> bool {
        self.classes.iter().any(|class| class["name"] == *name)
    }

    /// Where the keys are, and how large a payload may be.
    fn bounds(&self) -> String {
        let prefix = lua_string(&self.key_prefix);
        format!("local PREFIX = {prefix}\nlocal EXTERNAL_BYTES = {}\n", self.external_bytes)
    }

    fn render(&self, others: &[Value]) -> String {
        let classes: Vec<&Value> = self.classes.iter().chain(others).collect();
        let described = serde_json::to_string(&classes).unwrap_or_default();
        format!(
            "#!lua name=drawbridge\n{VERSION_LINE}{VERSION}\n{CLASSES_LINE}{described}\n\
             {}local CLASSES = {}\n{FUNCTIONS}",
            self.bounds(),
            lua(&classes.into_iter().cloned().collect()),
        )
    }
}

fn line<'c>(code: &'c str, begins: &str) -> Option<&'c str> {
    code.lines().take(4).find_map(|line| line.strip_prefix(begins))
}

/// A class as the functions know it.
fn describe(class: &Class) -> Value {
    let mut described = json!({ "name": class.name.to_string(), "match": lua_pattern(class) });
    let Some(rules) = &class.entity else { return described };
    described["payload"] = match class.payload {
        PayloadMode::Auto => "auto",
        PayloadMode::Envelope => "envelope",
        PayloadMode::Raw => "raw",
    }
    .into();
    described["max"] = rules.max.into();
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

/// The class's name as a Lua pattern: `{x}` takes a segment, a final `*` the rest.
fn lua_pattern(class: &Class) -> String {
    let name = class.name.to_string();
    let (fixed, open) = match name.strip_suffix('*') {
        Some(fixed) => (fixed, true),
        None => (name.as_str(), false),
    };
    let mut pattern = "^".to_owned();
    let mut rest = fixed;
    while let Some((before, placeholder)) = rest.split_once('{') {
        push_escaped(&mut pattern, before);
        pattern.push_str("[^:]+");
        rest = placeholder.split_once('}').map_or("", |(_, after)| after);
    }
    push_escaped(&mut pattern, rest);
    if !open {
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
fn lua(value: &Value) -> String {
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
    use drawbridge_protocol::template::ClassName;

    use super::*;

    fn library(names: &[&str]) -> Library {
        let class = |name: &&str| Class {
            entity: Some(EntityRules { max: 10, ttl_ms: 1_000, space: None }),
            ..Class::plain(ClassName::parse(name).unwrap())
        };
        Library::new(&Classes::new(names.iter().map(class).collect()), "drawbridge:", 1_000)
    }

    #[test]
    fn names_become_patterns() {
        for (name, pattern) in [
            ("world:{world}", "^world%:[^:]+$"),
            ("a-b.c:{x}:{y}", "^a%-b%.c%:[^:]+%:[^:]+$"),
            ("chat:*", "^chat%:"),
            ("*", "^"),
        ] {
            let class = Class::plain(ClassName::parse(name).unwrap());
            assert_eq!(lua_pattern(&class), pattern, "{name}");
        }
    }

    #[test]
    fn a_library_is_loaded_where_it_is_missing_older_or_other() {
        let ours = library(&["world:{w}"]);
        let code = ours.to_load(None, false).unwrap();
        assert_eq!(ours.to_load(Some(&code), true), None);
        let version = |version| {
            code.replace(&format!("library version {VERSION}"), &format!("library version {version}"))
        };
        let older = version(VERSION - 1);
        assert!(ours.to_load(Some(&older), false).is_some());
        let newer = version(VERSION + 1);
        assert_eq!(ours.to_load(Some(&newer), true), None);
    }

    #[test]
    fn a_library_with_another_bound_is_replaced_at_a_start() {
        let ours = library(&["world:{w}"]);
        let narrower = Library { external_bytes: ours.external_bytes - 1, ..ours.clone() };
        let code = ours.to_load(None, true).unwrap();
        assert!(narrower.to_load(Some(&code), true).unwrap().contains("EXTERNAL_BYTES = 999\n"));
        assert_eq!(narrower.to_load(Some(&code), false), None);
    }

    #[test]
    fn what_other_nodes_need_is_kept() {
        let (ours, theirs) = (library(&["world:{w}"]), library(&["ship:{s}"]));
        let code = theirs.to_load(None, true).unwrap();
        // A reconnect is no news: only a start is.
        assert_eq!(ours.to_load(Some(&code), false), None);
        let both = ours.to_load(Some(&code), true).unwrap();
        assert!(line(&both, CLASSES_LINE).unwrap().contains("ship:{s}"));
        assert_eq!(theirs.to_load(Some(&both), true), None);
    }

    #[test]
    fn strings_survive_lua() {
        assert_eq!(lua_string("a\"b\\c\né"), r#""a\"b\\c\010\195\169""#);
    }
}
