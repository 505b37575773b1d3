//! Guesses what was meant by a name that is not known.

use super::vars::{Var, Vars};

/// What people write out of habit, and what it is here.
const HABITS: [(&str, &str); 16] = [
    ("not", "not is `!`"),
    ("and", "and is `&&`"),
    ("or", "or is `||`"),
    ("is", "equality is `==`"),
    ("True", "write `true`"),
    ("TRUE", "write `true`"),
    ("False", "write `false`"),
    ("FALSE", "write `false`"),
    ("None", "write `null`"),
    ("nil", "write `null`"),
    ("NULL", "write `null`"),
    ("undefined", "`has(data.field)` tests whether a field exists"),
    ("player", "the subscribing player is `me.player`, the publisher is `from`"),
    ("user", "the subscribing player is `me.player`, the publisher is `from`"),
    ("sub", "the player's id is `me.player`"),
    ("payload", "the payload is `data`"),
];

/// What is written here for a word of habit.
pub(super) fn habit(name: &str) -> Option<&'static str> {
    HABITS.iter().find(|(word, _)| *word == name).map(|(_, hint)| *hint)
}

/// For the name of a variable that there is not.
pub(super) fn for_variable(name: &str, allowed: Vars) -> String {
    if let Some(hint) = habit(name) {
        return hint.to_owned();
    }
    let known: Vec<_> = allowed.iter().map(Var::name).collect();
    match nearest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("a text is written in quotes: '{name}'; the variables here are {}", listed(allowed)),
    }
}

/// For the name of a function that there is not.
pub(super) fn for_function(name: &str, known: &[&str]) -> String {
    match name {
        "matches" => return "regular expressions are not a part of this language".to_owned(),
        "all" | "exists" | "exists_one" | "map" | "filter" => {
            return "loops over lists are not a part of this language; there is `x in list`".to_owned();
        }
        "length" | "len" | "count" => return "did you mean `size`?".to_owned(),
        "includes" => return "did you mean `contains`?".to_owned(),
        "str" | "text" | "toString" | "String" => return "did you mean `string`?".to_owned(),
        "integer" | "uint" | "number" | "Number" | "parseInt" => return "did you mean `int`?".to_owned(),
        "double" | "float" => return "numbers compare by value, so there is no need for it".to_owned(),
        _ => {}
    }
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// For a parameter that the class's name does not have.
pub(super) fn for_param(name: &str, known: &[&str]) -> String {
    match (nearest(name, known), known) {
        (Some(near), _) => format!("did you mean `params.{near}`?"),
        (None, []) => {
            format!("a class's name has it where it is written with `{{{name}}}`, such as \"room:{{room}}\"")
        }
        (None, _) => {
            let listed: Vec<_> = known.iter().map(|name| format!("`params.{name}`")).collect();
            format!("there is {}", listed.join(", "))
        }
    }
}

/// The variables, for a sentence.
pub(super) fn listed(vars: Vars) -> String {
    let names: Vec<_> = vars.iter().map(|var| format!("`{}`", var.name())).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "none".to_owned(),
    }
}

/// The known name with the fewest letters changed, if few are.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 32 {
        return None;
    }
    let folded = name.to_ascii_lowercase();
    let distance_to = |known: &&'k str| (distance(&folded, &known.to_ascii_lowercase()), *known);
    let (distance, near) = known.iter().map(distance_to).min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance < near.len().min(name.len())).then_some(near)
}

/// How many bytes have to be put in, left out or changed.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, to) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        assert_eq!(for_variable("dat", Vars::FILTER), "did you mean `data`?");
        assert_eq!(for_variable("Event", Vars::FILTER), "did you mean `event`?");
        assert_eq!(for_variable("prams", Vars::SUBSCRIBE_RULE), "did you mean `params`?");
        assert!(for_variable("hit", Vars::ME).starts_with("a text is written in quotes: 'hit'"));
        assert_eq!(for_function("startswith", &["startsWith", "size"]), "did you mean `startsWith`?");
        assert_eq!(listed(Vars::SUBSCRIBE_RULE), "`channel`, `me` and `params`");
    }
}
