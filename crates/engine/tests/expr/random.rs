//! Random expressions and random data of one shape: mostly well typed, with some that fail.

use proptest::prelude::*;

/// A strategy for sources.
pub(crate) type Source = BoxedStrategy<String>;

/// Fields of `data`: `i j` integers, `d e` doubles, `s t` texts, `b c` booleans, `l` a list of integers, `m` a map with
/// the same fields; each may be missing, and `x` always is.
pub(crate) fn data() -> impl Strategy<Value = String> {
    (fields(), prop::option::weighted(0.8, fields())).prop_map(|(mut fields, inner)| {
        fields.extend(inner.map(|inner| format!(r#""m":{{{}}}"#, inner.join(","))));
        format!("{{{}}}", fields.join(","))
    })
}

fn fields() -> impl Strategy<Value = Vec<String>> {
    let field = |name: &'static str, value: Source| {
        prop::option::weighted(0.85, value)
            .prop_map(move |value| value.map(|value| format!(r#""{name}":{value}"#)))
    };
    let ints = prop::collection::vec(json_int(), 0..4).prop_map(|ints| format!("[{}]", ints.join(",")));
    let fields = (
        field("i", json_int()),
        field("j", json_int()),
        field("d", double()),
        field("e", double()),
        field("s", json_text()),
        field("t", json_text()),
        field("b", boolean()),
        field("c", boolean()),
        field("l", ints.boxed()),
    );
    fields.prop_map(|(i, j, d, e, s, t, b, c, l)| [i, j, d, e, s, t, b, c, l].into_iter().flatten().collect())
}

fn json_int() -> Source {
    prop_oneof![
        8 => (-4i64..5).prop_map(|int| int.to_string()),
        1 => prop::sample::select(vec![i64::MAX, i64::MIN, i64::MAX - 1]).prop_map(|int| int.to_string()),
    ]
    .boxed()
}

fn double() -> Source {
    prop::sample::select(vec!["0.0", "-0.5", "1.0", "2.5", "-3.0", "1e300", "4.0"])
        .prop_map(str::to_owned)
        .boxed()
}

fn boolean() -> Source {
    prop::sample::select(vec!["true", "false"]).prop_map(str::to_owned).boxed()
}

fn json_text() -> Source {
    prop::sample::select(vec![r#""""#, r#""a""#, r#""ab""#, r#""b\u00e9""#, r#""i""#, r#""a\nb""#, r#""😀""#])
        .prop_map(str::to_owned)
        .boxed()
}

/// A boolean expression, nested up to this deep.
pub(crate) fn condition(depth: u32) -> Source {
    let fields = field(&["b", "c", "x"]);
    if depth == 0 {
        return prop_oneof![2 => boolean(), 4 => fields, 1 => any_field(0)].boxed();
    }
    let below = depth - 1;
    let logic = (condition(below), prop::sample::select(vec!["&&", "||"]), condition(below));
    prop_oneof![
        1 => condition(0),
        4 => logic.prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        2 => grouped(condition(below)),
        1 => grouped(condition(below)).prop_map(|a| format!("!{a}")),
        1 => (grouped(condition(below)), grouped(condition(below)), condition(below))
            .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        2 => related(number(below)),
        1 => related(double_sum(below)),
        2 => related(text(below)),
        1 => (any_value(below), prop::sample::select(vec!["==", "!="]), any_value(below))
            .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (any_value(below), list(below)).prop_map(|(a, b)| format!("{a} in {b}")),
        1 => (grouped(text(below)), prop::sample::select(vec!["startsWith", "endsWith", "contains"]), text(below))
            .prop_map(|(a, method, b)| format!("{a}.{method}({b})")),
        1 => prop::sample::select(vec!["has(data.i)", "has(data.m.i)", "has(data.m)", "has(data.x)", "'i' in data"])
            .prop_map(str::to_owned),
    ]
    .boxed()
}

fn related(operand: Source) -> Source {
    (operand.clone(), prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]), operand)
        .prop_map(|(a, op, b)| format!("{a} {op} {b}"))
        .boxed()
}

fn number(depth: u32) -> Source {
    let literal = (-3i64..6).prop_map(|int| if int < 0 { format!("({int})") } else { int.to_string() });
    if depth == 0 {
        return prop_oneof![literal, field(&["i", "j", "i", "x"])].boxed();
    }
    let below = depth - 1;
    prop_oneof![
        2 => number(0),
        3 => (number(below), prop::sample::select(vec!["+", "-", "*", "/", "%"]), number(below))
            .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => grouped(number(below)),
        1 => grouped(number(below)).prop_map(|a| format!("-{a}")),
        1 => text(below).prop_map(|a| format!("size({a})")),
        1 => prop_oneof![number(below), double_sum(0), digits(), text(0)].prop_map(|a| format!("int({a})")),
        1 => list(below).prop_map(|a| format!("size({a})")),
        1 => (grouped(list(below)), number(below)).prop_map(|(a, b)| format!("{a}[{b}]")),
        1 => (condition(below), number(below), number(below)).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
    ]
    .boxed()
}

fn double_sum(depth: u32) -> Source {
    let operand = prop_oneof![double().prop_map(|text| format!("({text})")), field(&["d", "e"])].boxed();
    if depth == 0 {
        return operand;
    }
    (operand.clone(), prop::sample::select(vec!["+", "-", "*", "/"]), grouped(operand))
        .prop_map(|(a, op, b)| format!("({a} {op} {b})"))
        .boxed()
}

fn text(depth: u32) -> Source {
    let literal =
        prop::sample::select(vec!["'a'", "'b'", "\"ab\"", "''", r"'b\u00e9'", r"'\n'", "'😀'", "'i'"]);
    if depth == 0 {
        return prop_oneof![literal.prop_map(str::to_owned), field(&["s", "t", "x"])].boxed();
    }
    prop_oneof![
        2 => text(0),
        1 => (text(depth - 1), text(0)).prop_map(|(a, b)| format!("({a} + {b})")),
        1 => prop_oneof![number(depth - 1), double_sum(0), text(0)].prop_map(|a| format!("string({a})")),
    ]
    .boxed()
}

/// Texts of digits, and some that are nearly so.
fn digits() -> Source {
    prop::sample::select(vec![
        "'2'",
        "'-3'",
        "'+1'",
        "'007'",
        "'9223372036854775807'",
        "'1.0'",
        "' 1'",
        "''",
        "'0x1'",
    ])
    .prop_map(str::to_owned)
    .boxed()
}

fn list(depth: u32) -> Source {
    if depth == 0 {
        return prop_oneof![field(&["l"]), Just("[1, 2]".to_owned()), Just("[]".to_owned())].boxed();
    }
    let below = depth - 1;
    prop_oneof![
        1 => list(0),
        2 => prop::collection::vec(any_value(below), 0..3).prop_map(|parts| format!("[{}]", parts.join(", "))),
        1 => (list(below), list(0)).prop_map(|(a, b)| format!("({a} + {b})")),
    ]
    .boxed()
}

fn any_value(depth: u32) -> Source {
    prop_oneof![
        3 => number(depth.min(1)),
        2 => text(0),
        2 => list(depth),
        1 => any_field(depth),
        1 => Just("null".to_owned()),
        1 => boolean(),
        1 => double().prop_map(|text| format!("({text})")),
    ]
    .boxed()
}

fn any_field(_: u32) -> Source {
    field(&["i", "d", "s", "l", "m", "x"])
}

fn grouped(inner: Source) -> Source {
    inner.prop_map(|inner| format!("({inner})")).boxed()
}

/// A field of `data`, written in one of the ways there are.
fn field(names: &[&'static str]) -> Source {
    (prop::sample::select(names.to_vec()), 0..8)
        .prop_map(|(name, form)| match form {
            0 => format!("data['{name}']"),
            1 => format!("data.m.{name}"),
            2 => format!("data.m[\"{name}\"]"),
            _ => format!("data.{name}"),
        })
        .boxed()
}
