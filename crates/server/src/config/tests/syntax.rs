//! The errors about files that are not TOML, and about values of the wrong type.

use super::*;

#[test]
fn broken_toml_is_reported_without_its_text() {
    let said = report("node = \"n1\n[auth]\nhmac_secret = hunter2");
    assert!(said.starts_with("f.toml:1:"), "{said}");
    assert!(said.contains("\nf.toml:3:"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    for (text, expected) in [
        (
            "node = \"a\"\nnode = \"b\"",
            "2:1: not valid TOML: duplicate key; each key and table is written once, and each class of channels under a [[channel]] of its own, with two brackets",
        ),
        (
            "node: \"a\"",
            "1:5: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`; a line is written like listen = \"127.0.0.1:8000\"",
        ),
        (
            "node = n1",
            "1:8: not valid TOML: invalid float, expected `nan`; put a text in double quotes, and numbers, true and false in none",
        ),
        (
            "kind = redis",
            "1:8: not valid TOML: string values must be quoted, expected literal string; put a text in double quotes, and numbers, true and false in none",
        ),
        (
            "a = \"b == \"c\"\"",
            "1:12: not valid TOML: unexpected key or value, expected newline, `#`; a double quote within a text ends it: within an expression write texts in single quotes, like event == 'say'",
        ),
        (
            "a = \"C:\\keys\"",
            "1:9: not valid TOML: missing escaped value, expected `b`, `e`, `f`, `n`, `r`, `\\`, `\"`, `x`, `u`, `U`; write a backslash twice, or the whole text in single quotes",
        ),
    ] {
        let said = report(text);
        assert!(said.starts_with(&format!("f.toml:{expected}")), "{said}");
    }
}

#[test]
fn a_value_of_another_type_is_answered_with_what_may_be_written() {
    let class = |key: &str| report(&format!("[[channel]]\nname = \"a\"\n{key}"));
    for (said, right) in [
        (
            class("presence = true"),
            "is true or false, not a string; it may be \"off\" or \"query\" or \"notify\"",
        ),
        (
            class("history = 200"),
            "is a whole number, not a table; write `history = { events = 200, age = \"10m\" }`",
        ),
        (
            class("publishes = \"20/s\""),
            "`channel.publishes` is not a rate: it is a string; a rate is written like 50 (a second) or { per_second = 50, burst = 100 }",
        ),
        (report("[limits]\nmessages = true"), "`limits.messages` is not a rate: it is true or false; a rate"),
    ] {
        assert!(said.contains(right), "{said}");
    }
}
