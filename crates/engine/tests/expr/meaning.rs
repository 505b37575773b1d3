//! What expressions mean, as tables: expression, data, whether it matches.

use crate::scope::{Plain, expr, matches};

fn check(table: &[(&str, &str, bool)]) {
    for (source, data, expected) in table {
        assert_eq!(matches(source, data), *expected, "{source} over {data}");
    }
}

/// Neither the expression nor its negation matches: it ends in an error.
fn check_errors(table: &[(&str, &str)]) {
    for (source, data) in table {
        assert!(!matches(source, data), "{source} over {data} should be an error and matches");
        let negated = format!("!({source})");
        assert!(!matches(&negated, data), "{source} over {data} should be an error and is false");
    }
}

#[test]
fn literals() {
    check(&[
        ("true", "null", true),
        ("false", "null", false),
        ("null == null", "null", true),
        ("data == 255", "0xff", false),
        ("data == 0xFF", "255", true),
        ("data == 1.5e1", "15", true),
        ("data == -9223372036854775808", "-9223372036854775808", true),
        ("data == 18446744073709551615", "18446744073709551615", true),
        (r#"data == 'it\'s' "#, r#""it's""#, true),
        (r#"data == "a\"b\\\n\t\x41\u00e9\U0001F600\101""#, r#""a\"b\\\n\tA\u00e9\ud83d\ude00A""#, true),
        (r#"data == r'a\n'"#, r#""a\\n""#, true),
        ("data == [1, 'a', [true, null],]", r#"[1.0,"a",[true,null]]"#, true),
        ("data == []", "[ ]", true),
        ("data == 1 // the first\n|| data == 2", "2", true),
    ]);
}

#[test]
fn fields_and_elements() {
    check(&[
        ("data.a.b == 1", r#"{"a":{"b":1}}"#, true),
        ("data['a']['b'] == 1", r#"{"a":{"b":1}}"#, true),
        ("data['my key'] == 1", r#"{"my key":1}"#, true),
        ("data.a[1] == 'y'", r#"{"a":["x","y"]}"#, true),
        ("data.a[data.i] == 'y'", r#"{"a":["x","y"],"i":1.0}"#, true),
        ("data[data.k] == 'x'", r#"{"k":"name","name":"x"}"#, true),
        ("data.a == 2", r#"{"a":1,"a":2}"#, true),
        ("data.a == 2", r#"{"a":1,"\u0061":2}"#, true),
        ("data.b == 1", r#"{"a":"\"b\":2,}","b":1}"#, true),
        ("data.b == 1", r#"{"a":{"b":2},"b":1}"#, true),
        ("data.b == 1", "\n{ \"b\"\t:\r1 }\n", true),
        ("[[1, 2], [3]][0][1] == 2", "null", true),
    ]);
    check_errors(&[
        ("data.b == 1", r#"{"a":1}"#),
        ("data.a.b == 1", r#"{"a":1}"#),
        ("data.a.b == 1", r#"{"a":null}"#),
        ("data.a == 1", "[1]"),
        ("data.a == 1", "null"),
        ("data[0] == 1", "[]"),
        ("data[-1] == 1", "[1]"),
        ("data[0.5] == 1", "[1]"),
        ("data['a'] == 1", "[1]"),
        ("data[0] == 1", r#"{"0":1}"#),
        ("data.size == 1", "[1]"),
    ]);
}

#[test]
fn equality() {
    check(&[
        ("data == 1", "1.0", true),
        ("data == 1.0", "1", true),
        ("data == 1", "1.5", false),
        ("data == '1'", "1", false),
        ("data != 'a'", "3", true),
        ("data == null", "null", true),
        ("data != null", "0", true),
        ("data == true", "1", false),
        ("data == 9007199254740993", "9007199254740992.0", false),
        ("data == 9007199254740992.0", "9007199254740993", false),
        ("data == 9223372036854775807", "9223372036854775808", false),
        ("data.a == data.b", r#"{"a":[1,{"x":"é"}],"b":[1.0,{"x":"\u00e9"}]}"#, true),
        ("data.a == data.b", r#"{"a":{"x":1,"y":2},"b":{"y":2,"x":1}}"#, true),
        ("data.a == data.b", r#"{"a":{"x":1,"x":2},"b":{"x":2}}"#, true),
        ("data.a == data.b", r#"{"a":{"x":1},"b":{"x":1,"y":2}}"#, false),
        ("data.a == data.b", r#"{"a":[1,2],"b":[1,2,3]}"#, false),
        ("data.a == data.b", r#"{"a":[],"b":{}}"#, false),
        ("0.0 / 0.0 == 0.0 / 0.0", "null", false),
        ("0.0 / 0.0 != 0.0 / 0.0", "null", true),
        ("event == 'hit' && channel == 'room:42'", "null", true),
    ]);
}

#[test]
fn order() {
    check(&[
        ("data.damage > 10", r#"{"damage":10.5}"#, true),
        ("data.damage >= 10.0", r#"{"damage":10}"#, true),
        ("data < 9007199254740993", "9007199254740992.0", true),
        ("data > 18446744073709551614", "18446744073709551615", true),
        ("data < 'b'", r#""ab""#, true),
        ("data < 'é'", r#""z""#, true),
        ("'😀' > '\u{ffff}'", "null", true),
        ("false < true", "null", true),
    ]);
    check_errors(&[
        ("data.name > 5", r#"{"name":"x"}"#),
        ("data > 5", "null"),
        ("data < '5'", "4"),
        ("data < data", "[1]"),
        ("data < data", "{}"),
        ("data > 0.0 / 0.0", "1"),
    ]);
}

#[test]
fn errors_are_absorbed_on_either_side() {
    let bad = "data.missing > 1";
    for (source, expected) in [
        (format!("{bad} || true"), true),
        (format!("true || {bad}"), true),
        (format!("!({bad} && false)"), true),
        (format!("!(false && {bad})"), true),
        (format!("{bad} || false"), false),
        (format!("{bad} && true"), false),
        (format!("!({bad} && true)"), false),
        (format!("!({bad} || false)"), false),
        (format!("{bad} || {bad} || data.a == 1"), true),
        (format!("!(data.text && {bad}) || data.a == 1"), true),
        (format!("({bad} ? true : true) || false"), false),
        (format!("data.a == 1 ? true : {bad}"), true),
        (format!("data.a == 2 ? {bad} : true"), true),
        (format!("[{bad}, true][1]"), false),
        ("data.text || data.a == 1".to_owned(), true),
        ("!(data.text && false)".to_owned(), true),
        ("data.text && true".to_owned(), false),
        ("data.text".to_owned(), false),
        ("data.flag".to_owned(), true),
        ("data.flag && true".to_owned(), true),
        ("(true && data.a) == 1".to_owned(), false),
    ] {
        assert_eq!(matches(&source, r#"{"a":1,"text":"x","flag":true}"#), expected, "{source}");
    }
}

#[test]
fn arithmetic() {
    check(&[
        ("data + 1 == 3.5", "2.5", true),
        ("data.x * data.x + data.y * data.y <= 25", r#"{"x":3,"y":4.0}"#, true),
        ("data / 2 == 1", "3", true),
        ("data / 2 == -1", "-3", true),
        ("data / 2.0 == 1.5", "3", true),
        ("data % 3 == -1", "-7", true),
        ("data % 10 == 5", "18446744073709551615", true),
        ("-data == 3", "-3", true),
        ("- -data == 3", "3", true),
        ("1 - 2 - 3 == -4 && 2 + 3 * 4 == 14 && (2 + 3) * 4 == 20", "null", true),
        ("data + 'b' == 'ab'", r#""a""#, true),
        ("data + [3] == [1, 2, 3]", "[1,2]", true),
        ("1.0 / 0.0 > 1e308", "null", true),
    ]);
    check_errors(&[
        ("data / 0 == 1", "1"),
        ("data % 0 == 1", "1"),
        ("data + 1 == 0", "9223372036854775807"),
        ("data * 2 == 0", "9223372036854775807"),
        ("data - 1 == 0", "-9223372036854775808"),
        ("-data == 0", "-9223372036854775808"),
        ("data / -1 == 0", "-9223372036854775808"),
        ("data * data == 0", "18446744073709551615"),
        ("data + 1 == 0", r#""a""#),
        ("data % 2.0 == 0.0", "4"),
        ("data % -1 == 0", "-9223372036854775808"),
        ("-data == 1", r#""a""#),
    ]);
}

#[test]
fn membership() {
    check(&[
        ("data in ['a', 'b']", r#""b""#, true),
        ("data in [1, 2]", "2.0", true),
        ("data in [1, 'x']", r#""y""#, false),
        ("'b' in data", r#"["a","b"]"#, true),
        ("'b' in data", r#"{"b":null}"#, true),
        ("1 in data", r#"{"1":1}"#, false),
        ("[1] in data", "[[1.0]]", true),
        ("data.x in [data.y, 3]", r#"{"x":1,"y":1}"#, true),
        ("params.room in me.rooms", "null", true),
        ("'44' in me.rooms", "null", false),
        ("'team' in me && 'player' in me && !('x' in me)", "null", true),
        ("'room' in params", "null", true),
    ]);
    check_errors(&[
        ("'a' in data", r#""abc""#),
        ("'a' in data", "null"),
        ("1 in [data.x, 1]", "{}"),
        ("'a' in me.team", "null"),
    ]);
}

#[test]
fn functions() {
    check(&[
        ("has(data.a)", r#"{"a":null}"#, true),
        ("has(data.b)", r#"{"a":1}"#, false),
        ("has(data.a.b)", r#"{"a":{"b":1}}"#, true),
        ("has(data['my key'])", r#"{"my key":1}"#, true),
        ("!has(data.a)", "null", true),
        ("!has(tags.vip)", "null", true),
        ("has(data.a) && data.a > 1", "{}", false),
        ("has(me.team) && has(me.player) && has(params.room) && !has(me.x)", "null", true),
        ("size(data) == 2", r#""é😀""#, true),
        ("size(data) == 2", r#""a\n""#, true),
        ("data.size() == 2", "[1,[2,3]]", true),
        ("size(data) == 2", r#"{"a":1,"b":2,"a":3}"#, true),
        ("size([]) + size('') == 0", "null", true),
        ("size(me) == 5", "null", true),
        ("data.startsWith('ab') && data.endsWith('bc') && data.contains('b')", r#""abc""#, true),
        ("data.startsWith('')", r#""abc""#, true),
        ("data.contains('abcd')", r#""abc""#, false),
        ("'abc'.contains(data)", r#""bc""#, true),
        ("channel.startsWith('room:')", "null", true),
    ]);
    check_errors(&[
        ("has(data.a.b)", "{}"),
        ("has(data.a)", "1"),
        ("has(data.a)", "[]"),
        ("size(data) == 1", "1"),
        ("data.contains('a')", r#"["a"]"#),
        ("data.startsWith(data)", "1"),
        ("'1'.startsWith(data)", "1"),
    ]);
}

#[test]
fn conversions() {
    check(&[
        ("string(data) == '42'", "42", true),
        ("string(data) == '-7'", "-7", true),
        ("string(data) == '18446744073709551615'", "18446744073709551615", true),
        ("string(data) == '9007199254740993'", "9007199254740993", true),
        ("string(data) == '1'", "1.0", true),
        ("string(data) == '2.5'", "2.50", true),
        ("string(data) == '1000000000000000000000'", "1e21", true),
        ("string(data) == 'true'", "true", true),
        ("string(data) == 'false'", "false", true),
        ("string(data) == 'a\\nb'", r#""a\nb""#, true),
        ("int(data) == 42", r#""42""#, true),
        ("int(data) == 42", r#""0042""#, true),
        ("int(data) == -42", r#""-42""#, true),
        ("int(data) == 42", r#""+42""#, true),
        ("int(data) == 18446744073709551615", r#""18446744073709551615""#, true),
        ("int(data) == 9007199254740993", r#""9007199254740993""#, true),
        ("int(data) == 2", "2.9", true),
        ("int(data) == -2", "-2.9", true),
        ("int(data) == 18446744073709551615", "18446744073709551615", true),
        ("int(data) / 2 == 1", "3.0", true),
        ("int(params.room) in data", "[41, 42]", true),
        ("int(params.room) in data", r#"["42"]"#, false),
        ("params.room in [string(data)]", "42", true),
        ("string(int(data)) == '7'", r#""07""#, true),
    ]);
    check_errors(&[
        ("string(data) == 'null'", "null"),
        ("string(data) == ''", "[]"),
        ("string(data) == ''", "{}"),
        ("int(data) == 1", "true"),
        ("int(data) == 0", "null"),
        ("int(data) == 0", "[]"),
        ("int(data) == 0", r#""""#),
        ("int(data) == 42", r#"" 42""#),
        ("int(data) == 42", r#""42.0""#),
        ("int(data) == 42", r#""0x2a""#),
        ("int(data) == 42", r#""4_2""#),
        ("int(data) == 42", r#""\u0664\u0662""#),
        ("int(data) == 0", r#""18446744073709551616""#),
        ("int(data) == 0", r#""-9223372036854775809""#),
        ("int(data) == 0", "1e300"),
        ("int(data / 0.0) == 0", "0.0"),
    ]);
}

#[test]
fn conditionals() {
    check(&[
        ("data.a ? data.b : data.c", r#"{"a":true,"b":true}"#, true),
        ("data.a ? data.b : data.c", r#"{"a":false,"c":true}"#, true),
        ("data > 10 ? data < 20 : data < 5 ? false : true", "7", true),
        ("(data > 0 ? 'plus' : 'minus') == 'minus'", "-1", true),
    ]);
    check_errors(&[("data.a ? true : true", r#"{"a":1}"#), ("data.a ? true : true", "{}")]);
}

#[test]
fn the_player_and_the_publisher() {
    check(&[
        ("me.player == 'alice'", "null", true),
        ("me['player'] == 'alice'", "null", true),
        ("me.team == data.team || data.public", r#"{"team":"red"}"#, true),
        ("me.team == data.team || data.public", r#"{"team":"blue","public":true}"#, true),
        ("me.team == data.team || data.public", r#"{"team":"blue"}"#, false),
        ("me.level >= 5", "null", true),
        ("params.shard == 'a b' && params.room == '42'", "null", true),
        ("me[data] == 'red'", r#""team""#, true),
        ("me[data] == 'alice'", r#""player""#, true),
        ("params[data] == '42'", r#""room""#, true),
        ("from != me.player", "null", true),
        ("tags == null && key == null", "null", true),
    ]);
    check_errors(&[("me.rank > 1", "null"), ("params.x == '1'", "null"), ("tags.vip == 1", "null")]);

    let own = Plain { from: Some("alice".into()), ..Plain::default() };
    let service =
        Plain { from: None, tags: Some(r#"{"zone":"north"}"#.into()), key: Some("e7".into()), ..own.clone() };
    assert!(!expr("from != me.player").matches(&own));
    assert!(expr("from != me.player").matches(&service));
    assert!(expr("from == null && tags.zone == 'north' && key == 'e7'").matches(&service));
    assert!(!expr("from.startsWith('a')").matches(&service));
}
