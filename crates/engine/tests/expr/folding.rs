//! What folding makes of expressions: what is known disappears, what is left is the same.

use drawbridge_engine::expr::{Vars, compile};

use crate::scope::{Plain, expr};

#[test]
fn writes_canonically() {
    for (source, canonical) in [
        ("event==\"hit\"&&data . damage>10", "event == 'hit' && data.damage > 10"),
        ("((data.a)||((data.b)))&&data.c", "(data.a || data.b) && data.c"),
        ("data.a || data.b && data.c", "data.a || data.b && data.c"),
        ("data.a && (data.b && data.c)", "data.a && data.b && data.c"),
        ("data['a'].b[0]['c d']", "data.a.b[0]['c d']"),
        ("data.size() > 1", "size(data) > 1"),
        ("int( string(data.a) ) in [-(-1)]", "int(string(data.a)) in [1]"),
        ("string(42) == data.a && int('7') < data.b", "'42' == data.a && 7 < data.b"),
        ("has(data['in'])", "has(data['in'])"),
        ("(data.a - (data.b - 1)) * 2 == -data.c", "(data.a - (data.b - 1)) * 2 == -data.c"),
        ("data.a - data.b - 1 == 0", "data.a - data.b - 1 == 0"),
        (
            "(data.a ? data.b : data.c) ? data.d : (data.e ? true : false)",
            "(data.a ? data.b : data.c) ? data.d : data.e ? true : false",
        ),
        ("!(data.a == 1) && !!data.b", "!(data.a == 1) && !!data.b"),
        ("-(-data.a) == -1.0", "--data.a == -1.0"),
        (
            "data in ['it\\'s', \"\\n\\u0001é\", 1.5, -2, null]",
            "data in ['it\\'s', '\\n\\u0001é', 1.5, -2, null]",
        ),
        ("(data.x == 1) == true", "data.x == 1 == true"),
        ("true == (data.x == 1)", "true == (data.x == 1)"),
        ("data.x.contains('a' + 'b')", "data.x.contains('ab')"),
        ("(data.a + data.b).startsWith('x')", "(data.a + data.b).startsWith('x')"),
    ] {
        let once = expr(source);
        assert_eq!(once.to_string(), canonical);
        assert_eq!(expr(canonical), once, "{canonical}");
    }
}

#[test]
fn simplifies() {
    for (source, simple) in [
        ("true && data.x", "data.x"),
        ("data.x || true", "true"),
        ("data.x && false", "false"),
        ("1 / 0 == 1 && data.x", "false"),
        ("1 / 0 == 1 || data.x", "data.x"),
        ("!(1 / 0 == 1 && data.x)", "!([][0] && data.x)"),
        ("1 < 2 ? data.x : data.y", "data.x"),
        ("data.x ? 1 : data.y", "data.x ? false : data.y"),
        ("(true && data.x) == 3", "(true && data.x) == 3"),
        ("!(true && data.x)", "!data.x"),
        ("(false || data.x) && (data.y || false || data.z)", "data.x && (data.y || data.z)"),
    ] {
        assert_eq!(expr(source).to_string(), simple, "{source}");
        assert_eq!(expr(simple), expr(source), "{source}");
    }
    assert_eq!(expr("1 + 1 == 2").as_constant(), Some(true));
    assert_eq!(expr("1 / 0 == 1").as_constant(), Some(false));
    assert_eq!(expr("data.x").as_constant(), None);
}

#[test]
fn binding_leaves_what_depends_on_the_event() {
    let scope = Plain::default();
    let player = Vars::ME | Vars::CHANNEL | Vars::PARAMS;
    for (source, bound) in [
        ("data.team == me.team || data.public", "data.team == 'red' || data.public"),
        ("params.room in me.rooms && event != 'chat'", "event != 'chat'"),
        ("me.admin || data.x > me.level", "data.x > 7"),
        ("me.rank > 3 || data.x == 1", "data.x == 1"),
        ("me.rank > 3 && data.x == 1", "false"),
        ("me.team && data.x", "false"),
        ("data.x in me.rooms", "data.x in ['42', '43']"),
        ("data[me.team] == 1", "data.red == 1"),
        ("channel == 'room:42' && from != me.player", "from != 'alice'"),
        (
            "me[data.k] == 1 && true",
            r#"{"rooms":["42","43"],"team":"red","level":7,"player":"mallory","admin":false,"player":"alice"}[data.k] == 1"#,
        ),
        ("params[data.k] == '1'", r#"{"shard":"a b","room":"42"}[data.k] == '1'"#),
    ] {
        let expr = expr(source).bind(&scope, player);
        assert_eq!(expr.to_string(), bound, "{source}");
        assert!(!expr.vars().contains(Vars::ME) && !expr.vars().contains(Vars::PARAMS));
    }
}

#[test]
fn equal_views_are_equal() {
    use std::collections::HashSet;
    let of = |team: &str, level: u32| Plain {
        player: format!("player {level}"),
        claims: format!(r#"{{"team":"{team}","level":{level}}}"#),
        ..Plain::default()
    };
    let view = compile("data.team == me.team || me.level > 100", Vars::VIEW_RULE).unwrap();
    let bound: HashSet<_> =
        [of("red", 1), of("red", 2), of("blue", 3)].iter().map(|scope| view.bind(scope, Vars::ME)).collect();
    assert_eq!(bound.len(), 2);
}

#[test]
fn long_sums_are_not_kept() {
    let claims = format!(r#"{{"bio":"{}"}}"#, "x".repeat(3000));
    let scope = Plain { claims, data: r#""x""#.into(), ..Plain::default() };
    let view = expr("(me.bio + me.bio).startsWith(data)");
    let bound = view.bind(&scope, Vars::ME);
    assert!(view.matches(&scope) && bound.matches(&scope));
    assert_eq!(bound.vars(), Vars::DATA);
    assert!(bound.to_string().contains("' + '"));
}

#[test]
fn expressions_go_between_threads() {
    fn shared<T: Send + Sync + Clone + Eq + std::hash::Hash>(_: &T) {}
    shared(&expr("data.x"));
    assert_eq!(size_of::<drawbridge_engine::expr::Expr>(), size_of::<usize>());
}
