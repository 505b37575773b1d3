//! The nearest right name for a wrong one.

use std::collections::BTreeSet;

use super::env;
use super::tree::{Entry, ValueSource};

/// The message about an unknown key.
pub(super) enum Unknown {
    /// A mistake.
    Wrong { problem: String, hint: Option<String> },
    /// An environment variable that only begins like ours.
    NotForUs { warning: String },
}

/// How alike two names must be, from 0 to 1, for one to be taken for the other.
const ALIKE: f64 = 0.6;

/// The name most like `wrong`, if any is much like it.
pub(super) fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let wrong = wrong.to_lowercase().replace('-', "_");
    let alike = |name: &'n str| (strsim::normalized_damerau_levenshtein(&wrong, name), name);
    let best = names.map(alike).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE).then_some(best.1)
}

/// Explains a key that no section has read.
pub(super) fn unknown(known: &BTreeSet<String>, table: &str, entry: &Entry) -> Unknown {
    match &entry.place {
        ValueSource::File(_) => in_file(known, table, &entry.key),
        ValueSource::Named(variable) => in_environment(known, variable),
    }
}

fn in_file(known: &BTreeSet<String>, table: &str, key: &str) -> Unknown {
    let of_table = || keys_of(known, table);
    let hint = if let Some(near) = nearest(key, of_table()) {
        format!("did you mean `{near}`?")
    } else if let Some(path) = elsewhere(known, key) {
        match path.rsplit_once('.') {
            Some((owner, leaf)) => format!("did you mean `{leaf}` of `[{owner}]`?"),
            None => format!("did you mean `{path}`, above the first table?"),
        }
    } else {
        format!("known here: {}", of_table().collect::<Vec<_>>().join(", "))
    };
    let owner = if table.is_empty() { String::new() } else { format!(" in `{table}`") };
    Unknown::Wrong {
        problem: format!("unknown key `{}`{owner}", super::reader::excerpt(key)),
        hint: Some(hint),
    }
}

/// A variable with `__` in it is meant for us, and so is one that is nearly right; others only begin alike.
fn in_environment(known: &BTreeSet<String>, variable: &str) -> Unknown {
    let path = env::path(variable);
    let is_index = |part: &&String| part.parse::<usize>().is_err();
    let dotted = path.iter().filter(is_index).cloned().collect::<Vec<_>>().join(".");
    let near = nearest(&dotted, known.iter().map(String::as_str));
    if near.is_none() && path.len() == 1 {
        let warning = format!("{variable} is not a configuration key and is ignored");
        return Unknown::NotForUs { warning };
    }
    let hint = near.map(|near| {
        let mut right: Vec<String> = near.split('.').map(str::to_owned).collect();
        // Only `[[channel]]` is a list of tables, so only there a number belongs.
        if let ("channel", Some(number)) =
            (&*right[0], path.get(1).filter(|part| part.parse::<usize>().is_ok()))
        {
            right.insert(1, number.clone());
        }
        format!("did you mean {}?", env::variable(&right))
    });
    Unknown::Wrong { problem: "no such key in the configuration".to_owned(), hint }
}

fn keys_of<'k>(known: &'k BTreeSet<String>, table: &str) -> impl Iterator<Item = &'k str> {
    known.iter().filter_map(move |path| match path.rsplit_once('.') {
        Some((owner, leaf)) => (owner == table).then_some(leaf),
        None => table.is_empty().then_some(path.as_str()),
    })
}

/// The same key, or one much like it, in another table.
fn elsewhere<'k>(known: &'k BTreeSet<String>, key: &str) -> Option<&'k String> {
    let leaf = |path: &'k String| path.rsplit('.').next().unwrap_or_default();
    let near = nearest(key, known.iter().map(leaf))?;
    known.iter().find(|path| leaf(path) == near)
}
