//! What is read out of which expressions, as `path: keys` and `path: least..most`.

use super::super::{Vars, compile};
use super::*;

fn expr(source: &str) -> Expr {
    compile(source, Vars::VIEW_RULE).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn written(shape: &Shape) -> String {
    let test = |(path, test): &(Path, Test)| match test {
        Test::Keys(keys) => format!("{path:?}: {keys:?}"),
        Test::Within(Interval { least, most }) => format!("{path:?}: {least}..{most}"),
    };
    let tests: Vec<_> = shape.tests.iter().map(test).collect();
    format!("{}{}", tests.join(" | "), if shape.whole { "" } else { " …" })
}

fn shapes_of(source: &str) -> Vec<String> {
    shapes([&expr(source)]).iter().map(written).collect()
}

#[test]
fn one_condition() {
    for (source, expected) in [
        ("data.id == 'p17'", "data.id: [Text(\"p17\")]"),
        ("'p17' == data['id']", "data.id: [Text(\"p17\")]"),
        ("from == null", "from: [Null]"),
        ("channel == 'a'", "channel: [Text(\"a\")]"),
        ("tags.a.b == 1.0", "tags.a.b: [Number(Int(1))]"),
        ("data.x == -0.0", "data.x: [Number(Int(0))]"),
        ("data.x == 18446744073709551615", "data.x: [Number(Uint(18446744073709551615))]"),
        ("data.x == 18446744073709551616.0", "data.x: [Number(Double(1.8446744073709552e19))]"),
        ("data.x == 1.5", "data.x: [Number(Double(1.5))]"),
        ("event in ['hit', 'heal']", "event: [Text(\"hit\"), Text(\"heal\")]"),
        ("key in [1, null, true]", "key: [Number(Int(1)), Null, Bool(true)]"),
        ("data.public", "data.public: [Bool(true)]"),
        ("!data.public", "data.public: [Bool(false)]"),
        ("data.public == false", "data.public: [Bool(false)]"),
        ("data.x < 3", "data.x: -inf..3"),
        ("data.x <= 3.5", "data.x: -inf..3.5"),
        ("3 < data.x", "data.x: 3..inf"),
        ("data.x >= 3", "data.x: 3..inf"),
        ("3 >= data.x", "data.x: -inf..3"),
    ] {
        assert_eq!(shapes_of(source), [expected], "{source}");
    }
}

#[test]
fn what_nothing_is_told_of() {
    for source in [
        "data.x != 1",
        "data.x == data.y",
        "data.x == [1]",
        "data.x in [1, [2]]",
        "data.x in data.list",
        "'a' in data.list",
        "data.list[0] == 1",
        "data.x + 1 == 2",
        "data.x < 'a'",
        "data.x < data.y",
        "has(data.x)",
        "!(data.x == 1)",
        "data.a ? data.b : data.c",
        "data.name.startsWith('a')",
        "me.x == 1",
        "data.x == 1 || data.y != 1",
        "true",
    ] {
        assert_eq!(shapes_of(source), [""; 0], "{source}");
    }
}

#[test]
fn what_is_never_true() {
    for source in [
        "false",
        "data.x == 0.0 / 0.0",
        "data.x < 0.0 / 0.0",
        "data.x in []",
        "data.x > 3 && data.x < 2",
        "1 / 0 == 1",
    ] {
        assert_eq!(shapes_of(source), [""], "{source}");
    }
}

#[test]
fn conjunctions() {
    for (source, expected) in [
        ("data.x >= 1 && data.x < 3", &["data.x: 1..3"][..]),
        ("data.x > 1 && 5 > data.x && data.x <= 3", &["data.x: 1..3"]),
        ("data.x > 1 && data.y != 2", &["data.x: 1..inf …"]),
        ("event == 'hit' && data.id == 'a'", &["data.id: [Text(\"a\")] …", "event: [Text(\"hit\")] …"]),
        (
            "data.y < 2 && data.x > 1 && data.open && data.x < 3 && data.id == 1",
            &[
                "data.id: [Number(Int(1))] …",
                "data.open: [Bool(true)] …",
                "data.x: 1..3 …",
                "data.y: -inf..2 …",
            ],
        ),
    ] {
        assert_eq!(shapes_of(source), expected, "{source}");
    }
}

#[test]
fn alternatives() {
    for (source, expected) in [
        ("data.x == 1 || data.x == 'a'", "data.x: [Number(Int(1)), Text(\"a\")]"),
        ("data.team == 'red' || data.public", "data.team: [Text(\"red\")] | data.public: [Bool(true)]"),
        ("data.x < 1 || data.x > 2", "data.x: -inf..1 | data.x: 2..inf"),
        (
            "data.x == 1 || data.y == 2 && data.z != 3",
            "data.x: [Number(Int(1))] | data.y: [Number(Int(2))] …",
        ),
        ("data.x == 1 || 1 / 0 == 1", "data.x: [Number(Int(1))]"),
    ] {
        assert_eq!(shapes_of(source), [expected], "{source}");
    }
}

#[test]
fn a_view_and_a_filter_count_as_one_conjunction() {
    let (server, client) = (expr("data.x > 1 && data.public"), expr("data.x < 3"));
    let found: Vec<_> = shapes([&server, &client]).iter().map(written).collect();
    assert_eq!(found, ["data.public: [Bool(true)] …", "data.x: 1..3 …"]);
    assert_eq!(shapes([&expr("true"), &client]).iter().map(written).collect::<Vec<_>>(), ["data.x: -inf..3"]);
    assert!(shapes([]).is_empty());
}

#[test]
fn tests_are_bounded() {
    let list = |count: usize| (0..count).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let source = |count| format!("data.x in [{}] || data.y == 1", list(count));
    assert_eq!(shapes_of(&source(MAX_TESTS - 1)).len(), 1);
    assert_eq!(shapes_of(&source(MAX_TESTS)).len(), 0);
    assert_eq!(shapes_of(&format!("data.x in [{}]", list(MAX_TESTS + 1))).len(), 0);
    let many: Vec<_> = (0..40).map(|field| format!("data.f{field} == 1")).collect();
    assert_eq!(shapes_of(&many.join(" && ")).len(), MAX_SHAPES);
}

#[test]
fn walking_through_the_payload_weighs_more() {
    let work = |source: &str| expr(source).work();
    assert!(work("event == 'a'") < work("data.a == 'a'"));
    assert!(work("data.a == 'a'") < work("data.a.b == 'a'"));
    assert!(work("data.a == 'a'") < work("data.a == data.b"));
    assert!(work("event == 'a'") < work("event.contains('a')"));
    assert!(work("data.a in [1]") < work("data.a in [1, 2, 3]"));
    assert!(work("data.a") < work("data.a && data.b"));
}
