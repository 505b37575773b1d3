//! The index against asking every filter, over random filters and events; and how few it names.

use proptest::prelude::*;

use super::*;
use crate::expr::{Binding, Expr, Var, Vars, compile};

#[path = "../../tests/expr/random.rs"]
mod random;

type Filter = (Option<Expr>, Option<Expr>);

#[derive(Clone, Debug)]
struct Event {
    name: &'static str,
    data: String,
    from: Option<&'static str>,
    tags: Option<&'static str>,
    key: Option<&'static str>,
}

impl Event {
    fn of(data: &str) -> Event {
        Event { name: "hit", data: data.into(), from: None, tags: None, key: None }
    }
}

impl Scope for Event {
    fn var(&self, var: Var) -> Binding<'_> {
        match var {
            Var::Event => Binding::Text(self.name),
            Var::Data => Binding::Json(&self.data),
            Var::From => self.from.map_or(Binding::Missing, Binding::Text),
            Var::Tags => self.tags.map_or(Binding::Missing, Binding::Json),
            Var::Key => self.key.map_or(Binding::Missing, Binding::Text),
            Var::Channel => Binding::Text("room"),
            Var::Me | Var::Params => Binding::Missing,
        }
    }
}

fn expr(source: &str) -> Expr {
    compile(source, Vars::VIEW_RULE).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn candidates(index: &FilterIndex, event: &Event) -> Vec<u32> {
    let mut found = vec![u32::MAX];
    index.candidates(event, &mut found);
    assert_eq!(found.remove(0), u32::MAX, "what was found before is kept");
    found
}

fn matches(filter: &Filter, event: &Event) -> bool {
    [&filter.0, &filter.1].into_iter().flatten().all(|expr| expr.matches(event))
}

fn insert(index: &mut FilterIndex, id: u32, (server, client): &Filter) {
    index.remove(id);
    let (before, told) = (index.work(), index.work_of(server.as_ref(), client.as_ref()));
    index.insert(id, server.as_ref(), client.as_ref());
    assert!(index.work() - before <= told, "told {told}, is {}", index.work() - before);
}

fn assert_holds_nothing(index: &FilterIndex) {
    assert!(index.is_empty() && index.always.is_empty() && index.path_indexes.is_empty());
    assert!(index.of_path.is_empty());
    assert_eq!((index.len(), index.work()), (0, 0));
}

/// The index holds these filters of one source each.
fn indexed(sources: impl IntoIterator<Item = String>) -> FilterIndex {
    let mut index = FilterIndex::default();
    for (id, source) in sources.into_iter().enumerate() {
        insert(&mut index, u32::try_from(id).unwrap(), &(None, Some(expr(&source))));
    }
    index
}

/// Paths, some of which are missing or no scalars.
fn path() -> BoxedStrategy<&'static str> {
    let fields = ["data.i", "data.j", "data.d", "data.s", "data.b", "data.n", "data.m.i", "data.l", "data.x"];
    prop_oneof![
        4 => prop::sample::select(fields.to_vec()),
        1 => prop::sample::select(vec!["data", "event", "from", "tags", "tags.t", "key", "channel"]),
    ]
    .boxed()
}

/// Numbers where representations meet and end, as CEL and JSON both write them.
const NUMBERS: [&str; 20] = [
    "0",
    "-0.0",
    "1",
    "1.0",
    "2.5",
    "-3",
    "-3.0",
    "4",
    "1e-300",
    "9007199254740993",
    "9007199254740992.0",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808.0",
    "18446744073709551615",
    "18446744073709551616.0",
    "1e308",
    "-1e308",
    "4503599627370497",
    "-4503599627370496.5",
];

fn number() -> BoxedStrategy<String> {
    let infinite = prop::sample::select(vec!["1.0 / 0.0", "-1.0 / 0.0", "0.0 / 0.0"]);
    prop_oneof![
        4 => (-5i64..6).prop_map(|number| number.to_string()),
        4 => prop::sample::select(NUMBERS.to_vec()).prop_map(str::to_owned),
        1 => infinite.prop_map(str::to_owned),
    ]
    .boxed()
}

fn scalar() -> BoxedStrategy<String> {
    let others = ["'a'", "'b\u{e9}'", "''", "'hit'", "'bob'", "true", "false", "null", "[1]", "'1'"];
    prop_oneof![number(), prop::sample::select(others.to_vec()).prop_map(str::to_owned)].boxed()
}

fn test() -> BoxedStrategy<String> {
    let order = || prop::sample::select(vec!["<", "<=", ">", ">="]);
    prop_oneof![
        3 => (path(), scalar()).prop_map(|(path, value)| format!("{path} == {value}")),
        1 => (path(), scalar()).prop_map(|(path, value)| format!("{value} == {path}")),
        2 => (path(), prop::collection::vec(scalar(), 0..4))
            .prop_map(|(path, values)| format!("{path} in [{}]", values.join(", "))),
        2 => (path(), order(), number()).prop_map(|(path, op, value)| format!("{path} {op} {value}")),
        1 => (path(), order(), number()).prop_map(|(path, op, value)| format!("{value} {op} {path}")),
        3 => (path(), number(), number())
            .prop_map(|(path, least, most)| format!("{path} >= {least} && {path} < {most}")),
        1 => path().prop_map(|path| format!("{path} || {path} == 1")),
        1 => path().prop_map(|path| format!("!{path}")),
        1 => (path(), scalar()).prop_map(|(path, value)| format!("{path} != {value}")),
    ]
    .boxed()
}

fn source(depth: u32) -> BoxedStrategy<String> {
    if depth == 0 {
        return test();
    }
    let below = || source(depth - 1);
    let join = |sign: &'static str| move |(a, b): (String, String)| format!("({a}) {sign} ({b})");
    prop_oneof![
        3 => test(),
        3 => (below(), below()).prop_map(join("&&")),
        2 => (below(), below()).prop_map(join("||")),
        1 => (below(), below(), below()).prop_map(|(a, b, c)| format!("({a}) ? ({b}) : ({c})")),
        1 => random::condition(2),
    ]
    .boxed()
}

/// Those that the compiler refuses, as `event < 3`, are taken for none.
fn filter() -> impl Strategy<Value = Filter> {
    let expr = || {
        prop::option::weighted(0.7, source(2))
            .prop_map(|source| source.and_then(|source| compile(&source, Vars::VIEW_RULE).ok()))
    };
    (expr(), expr())
}

fn event() -> impl Strategy<Value = Event> {
    let data = (random::data(), prop::option::of(prop::sample::select(NUMBERS.to_vec())), 0..20).prop_map(
        |(data, number, form)| match (number, form) {
            (_, 0) => "true".to_owned(),
            (Some(number), 1) => number.to_owned(),
            (_, 2) => data.replacen('{', r#"{"n":1e999,"#, 1).replace(",}", "}"),
            (Some(number), _) => {
                data.replacen('{', &format!(r#"{{"n":{number},"i":{number},"#), 1).replace(",}", "}")
            }
            (None, _) => data,
        },
    );
    let maybe = |values: Vec<&'static str>| prop::option::of(prop::sample::select(values));
    (
        prop::sample::select(vec!["hit", "a", "1"]),
        data,
        maybe(vec!["bob", "a"]),
        maybe(vec![r#"{"t":1}"#, r#"{"t":"a"}"#, "null", "2.5", "[1]"]),
        maybe(vec!["a", ""]),
    )
        .prop_map(|(name, data, from, tags, key)| Event { name, data, from, tags, key })
}

proptest! {
    #[test]
    fn names_all_filters_that_match(
        steps in prop::collection::vec((0u32..24, prop::option::weighted(0.75, filter())), 1..60),
        events in prop::collection::vec(event(), 1..8),
    ) {
        let mut index = FilterIndex::default();
        let mut model = std::collections::BTreeMap::new();
        for (step, (id, filter)) in steps.into_iter().enumerate() {
            match filter {
                Some(filter) => {
                    insert(&mut index, id, &filter);
                    model.insert(id, filter);
                }
                None => {
                    index.remove(id);
                    model.remove(&id);
                }
            }
            prop_assert_eq!(index.len(), model.len());
            let event = &events[step % events.len()];
            let found = candidates(&index, event);
            let distinct: std::collections::BTreeSet<_> = found.iter().copied().collect();
            prop_assert_eq!(distinct.len(), found.len(), "an id came twice");
            let of_index: Vec<_> = distinct.into_iter().filter(|id| matches(&model[id], event)).collect();
            let of_model: Vec<_> =
                model.iter().filter(|(_, filter)| matches(filter, event)).map(|(id, _)| *id).collect();
            prop_assert_eq!(of_index, of_model);
        }
        model.keys().for_each(|id| index.remove(*id));
        assert_holds_nothing(&index);
    }
}

#[test]
fn each_is_named_once_in_order() {
    for found in [vec![], vec![1], vec![3, 3, 1, 2, 1, 3], vec![2, 2, 2]] {
        let expected: std::collections::BTreeSet<_> = found.iter().copied().collect();
        let mut sorted = [vec![9], found].concat();
        sort_from(&mut sorted, 1);
        assert_eq!(sorted, [vec![9], expected.into_iter().collect()].concat());
    }
}

#[test]
fn of_many_equalities_only_those_that_match_are_named() {
    let mut index = indexed((0..10_000).map(|id| format!("data.id == 'p{id}'")));
    assert_eq!(candidates(&index, &Event::of(r#"{"id":"p17"}"#)), [17]);
    assert_eq!(candidates(&index, &Event::of(r#"{"id":"else"}"#)), [0; 0]);
    assert_eq!(candidates(&index, &Event::of(r#"{"id":17}"#)), [0; 0]);
    assert_eq!(candidates(&index, &Event::of("null")), [0; 0]);
    assert_eq!(index.work(), expr("data.id").work(), "only the path is looked up");
    (0..10_000).for_each(|id| index.remove(id));
    assert_holds_nothing(&index);
}

#[test]
fn of_many_disjoint_ranges_a_handful_is_named() {
    let index = indexed((0..10_000).map(|at| format!("data.x >= {at} && data.x < {}", at + 1)));
    for at in [0.0, 0.5, 17.0, 17.999, 9_999.5] {
        let found = candidates(&index, &Event::of(&format!(r#"{{"x":{at}}}"#)));
        assert!(found.contains(&(at as u32)) && found.len() <= 3, "{at}: {found:?}");
    }
    assert!(candidates(&index, &Event::of(r#"{"x":-1000}"#)).is_empty());
    assert_eq!(index.work(), expr("data.x").work());
}

#[test]
fn open_ranges_name_those_on_the_right_side() {
    let index = indexed((0..1_000).map(|at| format!("data.level >= {at}")));
    assert_eq!(candidates(&index, &Event::of(r#"{"level":2}"#)), [0, 1, 2]);
    let index = indexed((0..1_000).map(|at| format!("data.level <= {at}")));
    assert_eq!(candidates(&index, &Event::of(r#"{"level":998}"#)), [998, 999]);
}

#[test]
fn what_all_have_in_common_does_not_bring_them_together() {
    for common in ["event == 'hit'", "data.kind == 'hit'", "data.open", "data.level >= 1"] {
        for (own, data) in [
            ("data.id == 'pN'", r#""id":"p17""#),
            ("data.x >= N && data.x < N.5", r#""x":17.2"#),
            ("(data.id == 'pN' || data.to == 'pN')", r#""id":"p17","to":"p18""#),
        ] {
            let sources = (0..2_000).map(|id| format!("{common} && {}", own.replace('N', &id.to_string())));
            let index = indexed(sources);
            let event = Event::of(&format!(r#"{{"kind":"hit","open":true,"level":7,{data}}}"#));
            let found = candidates(&index, &event);
            assert!(found.contains(&17) && found.len() <= 30, "{common} && {own}: {}", found.len());
            assert!(index.work() < 2_000, "{common} && {own}: {}", index.work());
        }
    }
}

#[test]
fn filters_in_the_way_of_one_value_add_up_to_work() {
    let crowded =
        |count: usize| indexed((0..count).map(|id| format!("event == 'hit' && size(data) != {id}")));
    let (path, one) = (expr("event == 'hit'").work() - 2, expr("event == 'hit' && size(data) != 1").work());
    assert_eq!(crowded(100).work(), path + 100 * one);
    let spread = indexed((0..100).map(|id| format!("key == 'k{id}' && size(data) != {id}")));
    assert_eq!(spread.work(), expr("key == 'a'").work() - 2 + one, "a key has one of them");
    let unshaped = indexed((0..100).map(|id| format!("size(data) != {id}")));
    assert_eq!(unshaped.work(), 100 * expr("size(data) != 1").work());
}

#[test]
fn work_is_told_before() {
    let mut index = FilterIndex::default();
    let (id, walk) = (expr("data.id == 'a'"), expr("size(data) > 3"));
    assert_eq!(index.work_of(None, None), 0);
    assert_eq!(index.work_of(None, Some(&walk)), walk.work());
    assert_eq!(index.work_of(Some(&walk), Some(&walk)), 2 * walk.work());
    let path = expr("data.id").work();
    assert_eq!(index.work_of(None, Some(&id)), path);
    assert_eq!(index.work_of(Some(&walk), Some(&id)), path + walk.work() + id.work());
    index.insert(1, None, Some(&id));
    assert_eq!(index.work_of(None, Some(&expr("data.id == 'b'"))), 0);
    index.insert(1, None, Some(&walk));
    assert_eq!((index.len(), index.work()), (1, walk.work()), "an id is replaced");
    index.insert(1, None, None);
    assert_eq!((index.work(), candidates(&index, &Event::of("null"))), (0, vec![1]));
}

/// The lines of the blocks of this kind in the documentation, with a player folded in.
fn documented(kind: &str) -> Vec<Expr> {
    struct Player;
    impl Scope for Player {
        fn var(&self, _: Var) -> Binding<'_> {
            Binding::Me { player: "alice", claims: r#"{"team":"red","guild":"g","rooms":["a","b"]}"# }
        }
    }
    let opening = format!("```{kind}\n");
    let blocks = include_str!("../../../../docs/filters.md").split(&*opening).skip(1);
    let lines = blocks.filter_map(|block| block.split("```").next()).flat_map(str::lines);
    lines.map(|line| expr(line).bind(&Player, Vars::ME)).collect()
}

#[test]
fn the_documentation_is_right() {
    let (fast, asked) = (documented("fast"), documented("asked"));
    assert!(fast.len() >= 11 && asked.len() >= 12);
    for expr in fast {
        assert!(!shapes([&expr]).is_empty(), "{expr}");
    }
    for expr in asked {
        assert!(shapes([&expr]).is_empty() && expr.as_constant().is_none(), "{expr}");
    }
    assert_eq!((expr("data.id == 'p17'").work(), expr("data.id").work()), (11, 9));
}
