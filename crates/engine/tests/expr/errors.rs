//! What is refused, where it is said to be wrong, and what is proposed.

use drawbridge_engine::expr::{Vars, compile, compile_filter, compile_for_class};

use crate::scope::{Plain, expr};

/// Expression, position, a piece of the message, a piece of the hint (empty: any or none).
fn check(table: &[(&str, usize, &str, &str)]) {
    for (source, position, message, hint) in table {
        let error = match compile_filter(source) {
            Ok(expr) => panic!("{source} compiles to {expr}"),
            Err(error) => error,
        };
        assert_eq!(error.position, *position, "{source}: {error}");
        assert!(error.message.contains(message), "{source}: {error}");
        assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{source}: {error}");
    }
}

#[test]
fn syntax() {
    check(&[
        ("", 0, "empty", "true"),
        ("  // nothing", 0, "empty", "true"),
        ("event ==", 8, "expected a value", ""),
        ("(event == 'a'", 13, "expected `)`", ""),
        ("event == 'a')", 12, "found `)`", ""),
        ("event == 'a", 9, "no end", "close it with '"),
        ("data.x == 1 2", 12, "found `2`", ""),
        ("data.x = 1", 7, "`=` is not", "`==`"),
        ("data.x === 1", 7, "`===` is not", "`==`"),
        ("data.x !== 1", 7, "`!==` is not", "`!=`"),
        ("data.x <> 1", 7, "`<>` is not", "`!=`"),
        ("data.a & data.b", 7, "`&` is not", "`&&`"),
        ("data.a | data.b", 7, "`|` is not", "`||`"),
        ("data.a and data.b", 7, "found `and`", "`&&`"),
        ("data.a or data.b", 7, "found `or`", "`||`"),
        ("not data.a", 0, "no variable `not`", "`!`"),
        ("not(data.a)", 0, "no function `not`", "`!`"),
        ("data.x == True", 10, "`True`", "`true`"),
        ("data. == 1", 6, "expected a field name", ""),
        ("data.0 == 1", 5, "expected a field name", "x[0]"),
        ("data.in == 1", 5, "word of the language", "['in']"),
        ("data == {'a': 1}", 8, "expected a value", "map literals"),
        ("data == .5", 8, "expected a value", "0.5"),
        ("data == 1u", 8, "unsigned", "`u`"),
        ("data == 12ab", 8, "`12ab` is not a number", ""),
        ("data == 18446744073709551616", 8, "cannot be held", ""),
        ("data == 1e999", 8, "cannot be held", ""),
        (r"data == 'a\q'", 10, "not an escape", r"\n"),
        (r"data == '\ud800'", 9, "not an escape", ""),
        (r"data == '\+12a'", 9, "not an escape", ""),
        ("data == 'a\nb'", 10, "end of a line", "\\n"),
        ("data == '''a'''", 8, "triple quotes", ""),
        ("data == b'a'", 8, "byte strings", ""),
        ("data ? 1", 8, "expected `:`", ""),
        ("data == é", 8, "`é` has no meaning", ""),
        ("data == 1;", 9, "`;` has no meaning", ""),
    ]);
}

#[test]
fn names() {
    check(&[
        ("dat.x == 1", 0, "no variable `dat`", "did you mean `data`?"),
        ("Event == 'x'", 0, "no variable `Event`", "did you mean `event`?"),
        ("event == hit", 9, "no variable `hit`", "in quotes: 'hit'"),
        ("params.room == '1'", 0, "`params` is not known in this place", "`event`, `data`"),
        ("data.startswith('a')", 5, "no method `startswith`", "did you mean `startsWith`?"),
        ("data.matches('a')", 5, "no method `matches`", "regular expressions"),
        ("data.exists(x, x > 1)", 5, "no method `exists`", "loops"),
        ("data.length() > 1", 5, "no method `length`", "`size`"),
        ("len(data) > 1", 0, "no function `len`", "`size`"),
        ("startsWith(event, 'a')", 0, "is a method", "x.startsWith"),
        ("data.has(x)", 5, "not a method", "has(data.field)"),
        ("has(data)", 4, "takes a field", "has(data.field)"),
        ("has(data[0])", 4, "takes a field", ""),
        ("size(data, data) > 1", 0, "takes one value", ""),
        ("data.size(1) > 1", 5, "nothing in its brackets", ""),
        ("data.string() == '1'", 5, "`string` is not a method", "string(data.field)"),
        ("str(data) == '1'", 0, "no function `str`", "`string`"),
        ("parseInt(data) == 1", 0, "no function `parseInt`", "`int`"),
        ("int(data, 10) == 1", 0, "takes one value", ""),
        ("string() == ''", 0, "takes one value", ""),
        ("event.contains()", 6, "takes one text", ""),
        ("event.contains('a', 'b')", 6, "takes one text", ""),
    ]);
    let error = compile("data.x == 1", Vars::SUBSCRIBE_RULE).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("here are `channel`, `me` and `params`"));
    assert!(compile("key == '1' && event == 'a' && data.x", Vars::PUBLISH_RULE).is_ok());
    assert!(compile("from == '1'", Vars::PUBLISH_RULE).is_err());
}

#[test]
fn parameters() {
    let known = ["world", "my-room"];
    let of = |source| compile_for_class(source, Vars::SUBSCRIBE_RULE, &known);
    for right in
        ["params.world == '1'", "params['my-room'] in me.rooms", "has(params.world)", "'x' in params"]
    {
        assert!(of(right).is_ok(), "{right}");
    }
    for (wrong, position, hint) in [
        ("params.wrld == '1'", 7, "did you mean `params.world`?"),
        ("true || params['word'] == '1'", 15, "did you mean `params.world`?"),
        ("has(params.zzz)", 11, "there is `params.world`, `params.my-room`"),
    ] {
        let error = of(wrong).unwrap_err();
        assert_eq!((error.position, error.hint.as_deref()), (position, Some(hint)), "{wrong}: {error}");
    }
    assert!(compile("params.anything == '1'", Vars::SUBSCRIBE_RULE).is_ok());
}

/// What a rule that does not hold says of texts and numbers; nothing where they are not the reason.
#[test]
fn misfits() {
    let scope = Plain {
        claims: r#"{"rooms":[42],"names":["a"],"level":5,"mixed":[1,"a"],"none":[],"id":"7"}"#.into(),
        ..Plain::of_data(r#"{"n":42,"t":"x"}"#)
    };
    for (rule, said) in [
        (
            "params.room in me.rooms",
            Some(
                "`params.room` is a text and `me.rooms` holds numbers: write `int(params.room) in me.rooms`",
            ),
        ),
        (
            "me.level in me.names",
            Some("`me.level` is a number and `me.names` holds texts: write `string(me.level) in me.names`"),
        ),
        (
            "params.room == data.n",
            Some("`params.room` is a text and `data.n` is a number: write `params.room == string(data.n)`"),
        ),
        (
            "data.n == me.id && true == data.b",
            Some("`data.n` is a number and `me.id` is a text: write `string(data.n) == me.id`"),
        ),
        (
            "me.level == '5' || params.room == '1'",
            Some("`me.level` is a number and `'5'` is a text: write `string(me.level) == '5'`"),
        ),
        ("me.id > 3", Some("`me.id` is a text and `3` is a number: write `int(me.id) > 3`")),
        ("3 > me.id", Some("`3` is a number and `me.id` is a text: write `3 > int(me.id)`")),
        (
            "has(me.zzz) || !(params.room in me.rooms)",
            Some(
                "`params.room` is a text and `me.rooms` holds numbers: write `int(params.room) in me.rooms`",
            ),
        ),
        (
            "me.rooms.contains(params.room) || me.level > 9",
            Some("`me.rooms` is a list, and `contains` is for texts: write `params.room in me.rooms`"),
        ),
        ("'abc'.contains(params.room)", None),
        ("params.room in me.names", None),
        ("params.room in me.none", None),
        ("params.room in me.mixed", None),
        ("params.room in me.missing", None),
        ("params.room == '43' && me.level == 6", None),
        ("data.t == null", None),
    ] {
        let rule = expr(rule);
        assert_eq!(rule.misfit(&scope).as_deref(), said, "{rule}");
    }
}

#[test]
fn types() {
    check(&[
        ("'a' < 1", 4, "cannot compare a text with a number", "numbers compare with numbers"),
        ("null < 1", 5, "cannot compare null with a number", ""),
        ("1 < data.x < 3", 11, "cannot compare a boolean with a number", "a < x && x < b"),
        ("event > 3", 6, "cannot compare a text with a number", ""),
        ("!3", 1, "needs a boolean; this is a number", ""),
        ("!event", 1, "needs a boolean; this is a text", ""),
        ("1 && true", 0, "each side of `&&` must be a boolean; this is a number", ""),
        ("true || data.x == 1 || 'a'", 23, "each side of `||` must be a boolean; this is a text", ""),
        ("1 + 1", 0, "the answer must be a boolean; this is a number", "compare it"),
        ("event", 0, "the answer must be a boolean; this is a text", "event == 'hit'"),
        ("size(data)", 0, "the answer must be a boolean", ""),
        ("-'a' == 1", 1, "needs a number; this is a text", ""),
        ("-(event) == 1", 1, "needs a number; this is a text", ""),
        ("1 + 'a' == 2", 2, "`+` does not fit a number and a text", ""),
        ("data.x - 'a' == 2", 7, "`-` does not fit", ""),
        ("event in 'abc'", 9, "needs a list or a map", "contains"),
        ("event.x == 1", 0, "a text has no fields such as `x`", ""),
        ("[1]['a'] == 1", 3, "a list cannot be indexed with a text", ""),
        ("me[0] == 1", 2, "a map cannot be indexed with a number", ""),
        ("event.contains(1)", 6, "needs two texts, not a text and a number", ""),
        ("size(3) == 1", 5, "needs a text, a list or a map; this is a number", ""),
        ("int(true) == 1", 4, "needs a number or a text; this is a boolean", ""),
        ("string(me) == ''", 7, "needs a number, a boolean or a text; this is a map", ""),
        ("int(data) + 'b' == 'c'", 10, "`+` does not fit a number and a text", ""),
        ("event ? true : false", 0, "before `?` must be a boolean; this is a text", ""),
        ("from == me", 8, "only fields", "me.player"),
        ("me in ['alice']", 0, "only fields", "me.player"),
    ]);
}

#[test]
fn an_error_reads_as_a_sentence() {
    let error = compile_filter("dat.x == 1").unwrap_err();
    assert_eq!(error.to_string(), "there is no variable `dat` (at byte 0); did you mean `data`?");
}

/// The lines of the blocks of this language in the documentation.
fn documented(language: &str) -> impl Iterator<Item = &'static str> {
    let opening = format!("```{language}\n");
    let blocks = include_str!("../../../../docs/expressions.md").split(&*opening).skip(1);
    let blocks: Vec<_> = blocks.filter_map(|block| block.split("```").next()).collect();
    blocks.into_iter().flat_map(str::lines)
}

#[test]
fn the_documentation_is_right() {
    for line in documented("cel") {
        assert!(compile(line, Vars::VIEW_RULE).is_ok(), "{line}");
    }
    for line in documented("wrong") {
        let (source, said) = line.split_once("// at ").unwrap();
        let error = compile_filter(source).unwrap_err();
        let (position, said) = said.split_once([':', ',']).unwrap();
        assert_eq!(error.position.to_string(), position, "{line}");
        let said = said.trim_start_matches(" in a filter:").trim();
        let text = format!("{}; {}", error.message, error.hint.unwrap_or_default());
        assert!(text.starts_with(said.trim_end_matches('…').trim_end_matches([' ', ';'])), "{line}\n{text}");
    }
    assert!(documented("cel").count() >= 10 && documented("wrong").count() >= 9);
}
