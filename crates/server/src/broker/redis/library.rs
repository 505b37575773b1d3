//! The Redis Function library: rendered for this node's environment, compared with what a Redis has, and loaded where that
//! is older, other, or not there. The functions are in `functions/*.lua`.
//!
//! Nodes of different configurations may share a Redis: environments with other channel prefixes always, and nodes of one
//! environment during a deploy. So a library holds one entry for each channel prefix ([`environment`](super::environment)).
//! A node writes its own, keeps behind it the classes that only other nodes of its prefix have, and leaves the others.

use drawbridge_engine::class::{Class, Classes, History};
use drawbridge_protocol::template::ClassName;
use serde_json::{Value, json};

use super::Names;
use super::environment::{counterpart, describe, lua, merge, names_all, overlapping, serves};

/// Of the functions' behaviour: a node replaces a library whose version is lower.
pub(super) const VERSION: u64 = 9;
/// The last version that knew one environment, without a prefix.
const LAST_WITHOUT_PREFIX: u64 = 4;
/// Begins the answers of our functions, and of no others.
pub(super) const MARK: &str = "drawbridge";
/// The library's parts: each may use what those before it define, and registers its own functions.
const FUNCTIONS: [&str; 10] = [
    include_str!("functions/base.lua"),
    include_str!("functions/entities.lua"),
    include_str!("functions/log.lua"),
    include_str!("functions/payloads.lua"),
    include_str!("functions/publish.lua"),
    include_str!("functions/views.lua"),
    include_str!("functions/sessions.lua"),
    include_str!("functions/leases.lua"),
    include_str!("functions/presence.lua"),
    include_str!("functions/check.lua"),
];
const VERSION_LINE: &str = "-- drawbridge library version ";
const ENVIRONMENTS_LINE: &str = "-- environments ";

/// What a node's library says.
#[derive(Clone, Debug)]
pub struct Library {
    /// The entry of this node's environment.
    own: Value,
    external_bytes: usize,
    /// What the tables of a class may hold.
    tables: Vec<(ClassName, TableBounds)>,
    /// What the log of a channel of each class keeps.
    histories: Vec<(ClassName, Option<History>)>,
    /// Some class has entities or history: without the library, nothing of them can be written.
    pub(super) is_needed: bool,
}

impl Library {
    /// For these classes and these names.
    pub fn new(classes: &Classes, names: &Names, external_bytes: usize) -> Self {
        Library {
            own: describe(classes, names, external_bytes),
            external_bytes,
            tables: classes.iter().filter_map(|(_, class)| table_bounds(class)).collect(),
            histories: classes.iter().map(|(_, class)| (class.name.clone(), class.history)).collect(),
            is_needed: classes.iter().any(|(_, class)| class.entity.is_some() || class.history.is_some()),
        }
    }

    /// What is loaded into a Redis that has none.
    pub fn code(&self) -> String {
        render(&merge(&self.own, &[], true))
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

    /// What the log of this channel keeps; `None`: it has none.
    pub(super) fn history(&self, channel: &str) -> Option<History> {
        self.histories.iter().find(|(name, _)| name.matches(channel).is_some())?.1
    }

    /// What to do where a Redis has `present`. `begins`: nothing has held this node's entry since it started, so its
    /// configuration is the newer one.
    pub(super) fn action_for(&self, present: Option<&str>, begins: bool) -> LibraryAction {
        let Some(present) = present else {
            return LibraryAction::Load { code: self.code(), replaces: false };
        };
        let theirs = environments_in(present);
        let merged = |own_wins| render(&merge(&self.own, &theirs, own_wins));
        let load = |own_wins, replaces| LibraryAction::Load { code: merged(own_wins), replaces };
        match version_of(present) {
            newer if newer > VERSION => LibraryAction::Newer(merged(true)),
            VERSION if present != render(&theirs) => load(true, true),
            VERSION if self.is_held_by(&theirs, begins) => LibraryAction::Keep,
            VERSION => load(begins && self.is_needed, false),
            // What says no version is not ours.
            older => load(true, older == 0),
        }
    }

    /// Whether these entries do for this node. A node without classes that need the functions needs one of its prefix, whatever
    /// it says.
    fn is_held_by(&self, environments: &[Value], begins: bool) -> bool {
        let Some(held) = counterpart(&self.own, environments) else { return false };
        match (self.is_needed, begins) {
            (false, _) => true,
            (true, true) => serves(held, &self.own),
            (true, false) => names_all(held, &self.own),
        }
    }

    /// The prefix of this node's entry.
    pub(super) fn prefix(&self) -> &str {
        self.own["prefix"].as_str().unwrap_or_default()
    }

    /// How many entries a Redis loses that has `present` and gets `code`: there were too many.
    pub(super) fn dropped(present: &str, code: &str) -> usize {
        let kept = environments_in(code);
        environments_in(present)
            .iter()
            .filter(|environment| counterpart(environment, &kept).is_none())
            .count()
    }

    /// The channel prefixes of other environments that a Redis knows and that are not told apart from this node's by their
    /// first characters.
    pub(super) fn overlapping(&self, present: &str) -> Vec<String> {
        overlapping(&self.own, &environments_in(present)).map(str::to_owned).collect()
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

/// `functions/entities.lua` has the same bound.
const MIN_FIELD_BOUND: usize = 65_536;

fn table_bounds(class: &Class) -> Option<(ClassName, TableBounds)> {
    let rules = class.entity.as_ref()?;
    let fields = rules.max.saturating_mul(4).max(MIN_FIELD_BOUND);
    Some((class.name.clone(), TableBounds { fields, bytes: rules.max_bytes.saturating_mul(4) }))
}

/// What is to be done about the library that a Redis has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LibraryAction {
    /// It is this version's, unchanged, and does for this node.
    Keep,
    /// This code is to be loaded; `replaces`: in place of others' code, and not of an older one of Drawbridge's.
    Load { code: String, replaces: bool },
    /// It says that it is of a later version: whether it serves this node is for `drawbridge_check` to answer. Where
    /// that is not there, it is not Drawbridge's, and this code is to be loaded.
    Newer(String),
}

fn render(environments: &[Value]) -> String {
    let described = serde_json::to_string(environments).unwrap_or_default();
    let environments = lua(&Value::Array(environments.to_vec()));
    format!(
        "#!lua name=drawbridge\n{VERSION_LINE}{VERSION}\n{ENVIRONMENTS_LINE}{described}\n\
         local VERSION = {VERSION}\nlocal ENVIRONMENTS = {environments}\n{}",
        FUNCTIONS.concat()
    )
}

/// 0: it says none.
fn version_of(code: &str) -> u64 {
    line(code, VERSION_LINE).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What a library says of its environments, whether it is well formed or not.
fn environments_in(code: &str) -> Vec<Value> {
    match version_of(code) {
        0..=LAST_WITHOUT_PREFIX => without_prefix(code).into_iter().collect(),
        _ => {
            line(code, ENVIRONMENTS_LINE).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
        }
    }
}

/// The one environment of a library of an older version.
fn without_prefix(code: &str) -> Option<Value> {
    let classes: Value = serde_json::from_str(line(code, "-- classes ")?).ok()?;
    let keys = unquoted(line(code, "local PREFIX = ")?)?;
    let bytes: u64 = line(code, "local EXTERNAL_BYTES = ")?.parse().ok()?;
    Some(json!({ "prefix": "", "keys": keys, "bytes": bytes, "classes": classes }))
}

/// What a Lua string means that a node has written.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let (mut bytes, mut rest) = (Vec::new(), inner.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'"' => return None,
            b'\\' => match *rest {
                [byte @ (b'"' | b'\\'), ref tail @ ..] => {
                    bytes.push(byte);
                    rest = tail;
                }
                _ => {
                    let (digits, tail) = rest.split_at_checked(3)?;
                    bytes.push(std::str::from_utf8(digits).ok()?.parse().ok()?);
                    rest = tail;
                }
            },
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// What follows this in one of the first lines.
fn line<'c>(code: &'c str, begins: &str) -> Option<&'c str> {
    code.lines().take(6).find_map(|line| line.strip_prefix(begins))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_engine::class::EntityRules;

    use super::*;

    fn library(names: &[&str]) -> Library {
        library_of("", names)
    }

    fn library_of(prefix: &str, names: &[&str]) -> Library {
        let class = |name: &&str| Class {
            entity: Some(EntityRules { max: 10, max_bytes: 1_000, ttl_ms: 1_000, space: None }),
            ..Class::plain(ClassName::parse(name).unwrap())
        };
        let names = names.iter().map(class).collect();
        Library::new(&Classes::new(names), &Names::new(prefix, "drawbridge:"), 1_000)
    }

    fn code(action: LibraryAction) -> String {
        match action {
            LibraryAction::Load { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_library_is_loaded_where_it_is_missing_older_or_other() {
        let ours = library(&["world:{w}"]);
        let present = code(ours.action_for(None, false));
        assert_eq!(ours.action_for(Some(&present), true), LibraryAction::Keep);
        let version = |version| {
            present.replace(&format!("library version {VERSION}"), &format!("library version {version}"))
        };
        code(ours.action_for(Some(&version(VERSION - 1)), false));
        // Only its own answer tells whether a later one is Drawbridge's, and whom it serves.
        assert_eq!(ours.action_for(Some(&version(VERSION + 1)), true), LibraryAction::Newer(present));
    }

    #[test]
    fn a_library_that_was_changed_is_replaced_whatever_it_says() {
        let ours = library(&["world:{w}"]);
        let present = code(ours.action_for(None, false));
        for (from, to) in [
            ("redis.call(publish_command(class), channel, payload)", "0"),
            ("[\"bytes\"] = 1000,", "[\"bytes\"] = 1000 - 1,"),
            ("[\"keys\"] = \"drawbridge:\"", "[\"keys\"] = \"a\" .. \"b\""),
            ("local ENVIRONMENTS = {", "local ENVIRONMENTS = nil or {"),
        ] {
            let changed = present.replacen(from, to, 1);
            assert_ne!(changed, present);
            assert_eq!(code(ours.action_for(Some(&changed), false)), present, "{to}");
        }
        assert_eq!(code(ours.action_for(Some(&format!("{present}\n-- more")), false)), present);
    }

    #[test]
    fn a_library_with_another_bound_is_replaced_at_a_start() {
        let ours = library(&["world:{w}"]);
        let mut narrower = ours.clone();
        narrower.own["bytes"] = json!(999);
        let present = code(ours.action_for(None, true));
        assert!(code(narrower.action_for(Some(&present), true)).contains("[\"bytes\"] = 999,"));
        assert_eq!(narrower.action_for(Some(&present), false), LibraryAction::Keep);
    }

    #[test]
    fn what_only_says_a_later_version_leaves_the_environments_that_can_be_read() {
        let (ours, theirs) = (library_of("prod:", &["world:{w}"]), library_of("test:", &["world:{w}"]));
        let present = theirs
            .code()
            .replace(&format!("library version {VERSION}"), &format!("library version {}", VERSION + 1));
        let LibraryAction::Newer(code) = ours.action_for(Some(&present), false) else { panic!("not newer") };
        assert_eq!(environments_in(&code), [ours.own, theirs.own.clone()]);
        let LibraryAction::Newer(code) = theirs
            .action_for(Some(&format!("#!lua\n{VERSION_LINE}{}\n{ENVIRONMENTS_LINE}{{", VERSION + 1)), false)
        else {
            panic!("not newer")
        };
        assert_eq!(code, theirs.code());
    }

    #[test]
    fn what_other_nodes_need_is_kept() {
        let (ours, theirs) = (library(&["world:{w}"]), library(&["ship:{s}"]));
        let present = code(theirs.action_for(None, true));
        // Only at a start does a node change what is there. What is missing it adds at any time.
        let mut wider = theirs.clone();
        wider.own["classes"][0]["max"] = json!(11);
        assert_eq!(wider.action_for(Some(&present), false), LibraryAction::Keep);
        assert!(code(wider.action_for(Some(&present), true)).contains("[\"max\"] = 11,"));
        for begins in [false, true] {
            let both = code(ours.action_for(Some(&present), begins));
            assert!(line(&both, ENVIRONMENTS_LINE).unwrap().contains("ship:{s}"));
            assert_eq!(theirs.action_for(Some(&both), true), LibraryAction::Keep);
            assert_eq!(ours.action_for(Some(&both), true), LibraryAction::Keep);
        }
    }

    #[test]
    fn a_node_without_entity_classes_needs_an_entry_and_changes_none() {
        let mut plain = library(&["chat:{c}"]);
        plain.is_needed = false;
        let present = library(&["world:{w}"]).code();
        let others = library_of("prod:", &["world:{w}"]).code();
        for begins in [false, true] {
            assert_eq!(plain.action_for(Some(&present), begins), LibraryAction::Keep);
            let added = code(plain.action_for(Some(&others), begins));
            assert_eq!(environments_in(&added).len(), 2);
        }
    }

    /// Whoever starts or reconnects, and however often.
    #[test]
    fn environments_do_not_overwrite_each_other() {
        let (production, mut staging) =
            (library_of("prod:", &["world:{w}"]), library_of("test:", &["world:{w}"]));
        staging.own["bytes"] = json!(500);
        let first = code(production.action_for(None, true));
        // Without an entry nothing works, so it is added whenever it is missing.
        for begins in [false, true] {
            let both = code(staging.action_for(Some(&first), begins));
            for library in [&production, &staging] {
                assert!(environments_in(&both).contains(&library.own));
                assert_eq!(library.action_for(Some(&both), false), LibraryAction::Keep);
                assert_eq!(library.action_for(Some(&both), true), LibraryAction::Keep);
            }
        }
    }

    #[test]
    fn an_older_library_becomes_the_environment_without_a_prefix() {
        let old = "#!lua name=drawbridge\n-- drawbridge library version 4\n\
                   -- classes [{\"name\":\"chat:*\",\"match\":\"^chat%:\"}]\n\
                   local PREFIX = \"d\\\"b\\195\\169:\"\nlocal EXTERNAL_BYTES = 77\nlocal VERSION = 4\n";
        let ours = library_of("prod:", &["world:{w}"]);
        let LibraryAction::Load { code, replaces: false } = ours.action_for(Some(old), false) else {
            panic!("kept")
        };
        let chat = json!({ "name": "chat:*", "match": "^chat%:" });
        let theirs = json!({ "prefix": "", "keys": "d\"b\u{e9}:", "bytes": 77, "classes": [chat] });
        assert_eq!(environments_in(&code), [ours.own.clone(), theirs]);
        assert_eq!(ours.overlapping(&code), [""]);
        for torn in ["local PREFIX = \"x", "local PREFIX = \"\\9\"", "local PREFIX = \"a\"b\""] {
            assert_eq!(unquoted(torn.strip_prefix("local PREFIX = ").unwrap()), None, "{torn}");
        }
    }
}
