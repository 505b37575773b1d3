//! The Redis Function library: rendered for this node's classes, compared with what a Redis has, and loaded where that
//! is older, other, or not there. What the functions do stands in `library.lua`.
//!
//! Nodes of different configurations may share a Redis, and during a deploy they do: classes that the library of another
//! node names and this one's configuration does not are kept behind its own.

use drawbridge_engine::class::{Class, Classes};
use drawbridge_engine::path::Path;
use drawbridge_protocol::event::PayloadMode;
use drawbridge_protocol::template::ClassName;
use serde_json::{Value, json};

/// Of the functions' behaviour: a node replaces a library whose version is lower.
pub(super) const VERSION: u64 = 4;
/// Begins the answers of our functions, and of no others.
pub(super) const MARK: &str = "drawbridge";
/// Classes of other nodes that are kept, at most.
const MAX_OTHERS: usize = 1_000;
const FUNCTIONS: &str = include_str!("library.lua");
const VERSION_LINE: &str = "-- drawbridge library version ";
const CLASSES_LINE: &str = "-- classes ";

/// What a node's library says.
#[derive(Clone, Debug)]
pub struct Library {
    key_prefix: String,
    external_bytes: usize,
    classes: Vec<Value>,
    /// What the tables of a class may hold.
    tables: Vec<(ClassName, TableBounds)>,
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
            tables: classes.iter().filter_map(|(_, class)| table_bounds(class)).collect(),
            is_needed: classes.iter().any(|(_, class)| class.entity.is_some()),
        }
    }

    /// The bound of one payload, in bytes.
    pub(super) fn external_bytes(&self) -> usize {
        self.external_bytes
    }

    /// How much of the table of this channel is read.
    pub(super) fn table_bounds(&self, channel: &str) -> TableBounds {
        let of = self.tables.iter().find(|(name, _)| name.matches(channel).is_some());
        of.map_or(TableBounds { fields: MIN_FIELD_BOUND, bytes: 0 }, |(_, bounds)| *bounds)
    }

    /// What to do where a Redis has `present`. `begins`: this node has just started, so that its configuration is the
    /// newer one.
    pub(super) fn judge(&self, present: Option<&str>, begins: bool) -> Judgement {
        let Some(present) = present else {
            return Judgement::Load { code: self.render(&[]), replaces: false };
        };
        let version = line(present, VERSION_LINE).and_then(|text| text.parse().ok()).unwrap_or(0);
        let theirs: Vec<Value> =
            line(present, CLASSES_LINE).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let is_ours =
            present.contains(&self.bounds()) && self.classes.iter().all(|class| theirs.contains(class));
        let load = |replaces| Judgement::Load { code: self.render(&self.others(&theirs)), replaces };
        match version {
            newer if newer > VERSION => Judgement::Newer(self.render(&[])),
            VERSION if !is_intact(present, &theirs) => load(true),
            VERSION if is_ours || !(begins && self.is_needed) => Judgement::Keep,
            VERSION => load(false),
            // What says no version is not ours.
            older => load(older == 0),
        }
    }

    /// The classes that only other nodes have, as far as they are well formed.
    fn others(&self, theirs: &[Value]) -> Vec<Value> {
        let is_other = |class: &&Value| self.classes.iter().all(|own| own["name"] != class["name"]);
        theirs.iter().filter(is_other).filter_map(checked).take(MAX_OTHERS).collect()
    }

    /// Where the keys are, and how large a payload may be.
    fn bounds(&self) -> String {
        let prefix = lua_string(&self.key_prefix);
        format!("{PREFIX_LINE}{prefix}\n{BYTES_LINE}{}\n", self.external_bytes)
    }

    fn render(&self, others: &[Value]) -> String {
        let classes: Vec<Value> = self.classes.iter().chain(others).cloned().collect();
        render(&self.bounds(), &classes)
    }
}

/// What is read of a stored table: a larger one is not one of ours any more. The functions begin it again.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableBounds {
    /// Fields of the hash.
    pub(super) fields: usize,
    /// Bytes of the entities.
    pub(super) bytes: usize,
}

/// `library.lua` has the same bound.
const MIN_FIELD_BOUND: usize = 65_536;

fn table_bounds(class: &Class) -> Option<(ClassName, TableBounds)> {
    let rules = class.entity.as_ref()?;
    let fields = rules.max.saturating_mul(4).max(MIN_FIELD_BOUND);
    Some((class.name.clone(), TableBounds { fields, bytes: rules.max_bytes.saturating_mul(4) }))
}

/// What is to be done about the library that a Redis has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is this version's, unchanged, and does for this node.
    Keep,
    /// This code is to be loaded; `replaces`: in place of others' code, and not of an older one of Drawbridge's.
    Load { code: String, replaces: bool },
    /// It says that it is of a later version: whether it serves this node is for `drawbridge_check` to answer. Where
    /// that is not there, it is not Drawbridge's, and this code is to be loaded.
    Newer(String),
}

const PREFIX_LINE: &str = "local PREFIX = ";
const BYTES_LINE: &str = "local EXTERNAL_BYTES = ";

fn render(bounds: &str, classes: &[Value]) -> String {
    let described = serde_json::to_string(classes).unwrap_or_default();
    let classes = lua(&Value::Array(classes.to_vec()));
    format!(
        "#!lua name=drawbridge\n{VERSION_LINE}{VERSION}\n{CLASSES_LINE}{described}\n\
         {bounds}local VERSION = {VERSION}\nlocal CLASSES = {classes}\n{FUNCTIONS}"
    )
}

/// Whether a library of this version is as some node has rendered it: nothing was changed, and nothing else runs.
fn is_intact(present: &str, classes: &[Value]) -> bool {
    let mut lines = present.lines().skip(3);
    let prefix = lines.next().and_then(|line| line.strip_prefix(PREFIX_LINE));
    let bytes = lines.next().and_then(|line| line.strip_prefix(BYTES_LINE));
    let (Some(prefix), Some(bytes)) = (prefix, bytes.and_then(|bytes| bytes.parse::<usize>().ok())) else {
        return false;
    };
    is_lua_string(prefix)
        && present == render(&format!("{PREFIX_LINE}{prefix}\n{BYTES_LINE}{bytes}\n"), classes)
}

fn is_lua_string(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.is_some_and(|inner| {
        let inner = inner.replace("\\\\", "").replace("\\\"", "");
        !inner.contains('"') && !inner.ends_with('\\')
    })
}

/// Another node's class as this version describes it: what it matches follows from its name. `None`: it is not well formed.
fn checked(class: &Value) -> Option<Value> {
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

fn line<'c>(code: &'c str, begins: &str) -> Option<&'c str> {
    code.lines().take(4).find_map(|line| line.strip_prefix(begins))
}

/// A class as the functions know it.
fn describe(class: &Class) -> Value {
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

/// The class's name as a Lua pattern: `{x}` takes a segment, a final `*` the rest.
fn lua_pattern(name: &ClassName) -> String {
    let name = name.to_string();
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

    use super::*;

    fn library(names: &[&str]) -> Library {
        let class = |name: &&str| Class {
            entity: Some(EntityRules { max: 10, max_bytes: 1_000, ttl_ms: 1_000, space: None }),
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
            assert_eq!(lua_pattern(&ClassName::parse(name).unwrap()), pattern, "{name}");
        }
    }

    fn code(judgement: Judgement) -> String {
        match judgement {
            Judgement::Load { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_library_is_loaded_where_it_is_missing_older_or_other() {
        let ours = library(&["world:{w}"]);
        let present = code(ours.judge(None, false));
        assert_eq!(ours.judge(Some(&present), true), Judgement::Keep);
        let version = |version| {
            present.replace(&format!("library version {VERSION}"), &format!("library version {version}"))
        };
        code(ours.judge(Some(&version(VERSION - 1)), false));
        // Only its own answer tells whether a later one is Drawbridge's, and whom it serves.
        assert_eq!(ours.judge(Some(&version(VERSION + 1)), true), Judgement::Newer(present));
    }

    #[test]
    fn a_library_that_was_changed_is_replaced_whatever_it_says() {
        let ours = library(&["world:{w}"]);
        let present = code(ours.judge(None, false));
        for (from, to) in [
            ("redis.call('PUBLISH', channel, payload)", "0"),
            ("local EXTERNAL_BYTES = 1000\n", "local EXTERNAL_BYTES = 1000 - 1\n"),
            ("local PREFIX = \"drawbridge:\"\n", "local PREFIX = \"a\" .. \"b\"\n"),
            ("local CLASSES = {", "local CLASSES = nil or {"),
        ] {
            let changed = present.replacen(from, to, 1);
            assert_ne!(changed, present);
            assert_eq!(code(ours.judge(Some(&changed), false)), present, "{to}");
        }
        assert_eq!(code(ours.judge(Some(&format!("{present}\n-- more")), false)), present);
    }

    #[test]
    fn a_library_with_another_bound_is_replaced_at_a_start() {
        let ours = library(&["world:{w}"]);
        let narrower = Library { external_bytes: ours.external_bytes - 1, ..ours.clone() };
        let present = code(ours.judge(None, true));
        assert!(code(narrower.judge(Some(&present), true)).contains("EXTERNAL_BYTES = 999\n"));
        assert_eq!(narrower.judge(Some(&present), false), Judgement::Keep);
    }

    #[test]
    fn what_other_nodes_need_is_kept() {
        let (ours, theirs) = (library(&["world:{w}"]), library(&["ship:{s}"]));
        let present = code(theirs.judge(None, true));
        // A reconnect is no news: only a start is.
        assert_eq!(ours.judge(Some(&present), false), Judgement::Keep);
        let both = code(ours.judge(Some(&present), true));
        assert!(line(&both, CLASSES_LINE).unwrap().contains("ship:{s}"));
        assert_eq!(theirs.judge(Some(&both), true), Judgement::Keep);
    }

    #[test]
    fn of_what_other_nodes_need_only_what_is_well_formed_is_kept() {
        let ours = library(&["world:{w}"]);
        let good = describe(&Class {
            entity: Some(EntityRules { max: 1, max_bytes: 2, ttl_ms: 3, space: None }),
            ..Class::plain(ClassName::parse("ship:{s}").unwrap())
        });
        assert_eq!(checked(&good), Some(good.clone()));
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
            assert_eq!(ours.others(&[bad]), [] as [Value; 0], "{member}");
        }
        let mut odd = good.clone();
        odd["match"] = json!("(.-)*");
        assert_eq!(ours.others(&[odd]), [good]);
    }

    #[test]
    fn strings_survive_lua() {
        assert_eq!(lua_string("a\"b\\c\né"), r#""a\"b\\c\010\195\169""#);
    }
}
