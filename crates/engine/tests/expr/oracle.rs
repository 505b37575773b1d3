//! The crate `cel` as the judge, over random expressions and data.
//!
//! Left out, because this language differs there and says so (`docs/expressions.md`): integers reckoned with doubles,
//! integers above `i64`, `has` on null, comparing integers beyond 2^53 with doubles.
//! Expressions that the type check refuses are not judged; `cel` checks no types beforehand.

use std::collections::HashMap;

use cel::{Context, Program, Value};
use drawbridge_engine::expr::{Vars, compile};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::random;
use crate::scope::Plain;

fn to_cel(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(int),
            None => Value::Float(number.as_f64().unwrap()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(items.iter().map(to_cel).collect::<Vec<_>>().into()),
        Json::Object(members) => Value::from(
            members.iter().map(|(key, value)| (key.clone(), to_cel(value))).collect::<HashMap<_, _>>(),
        ),
    }
}

/// Whether `cel` says that it matches.
fn expected(source: &str, data: &str) -> bool {
    let program = Program::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    let mut context = Context::default();
    context.add_variable_from_value("data", to_cel(&serde_json::from_str(data).unwrap()));
    matches!(program.execute(&context), Ok(Value::Bool(true)))
}

#[test]
fn agrees_with_cel() {
    let expected_ones = std::cell::Cell::new(0);
    let cases = 2500;
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
    let outcome = runner.run(&(random::condition(3), random::data()), |(source, data)| {
        for source in [source.clone(), format!("!({source})")] {
            let Ok(expr) = compile(&source, Vars::DATA) else { continue };
            expected_ones.set(expected_ones.get() + 1);
            let matched = expr.matches(&Plain::of_data(&data));
            prop_assert_eq!(matched, expected(&source, &data), "{} over {} ({})", source, data, expr);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(expected_ones.get() > cases, "too few are well typed: {}", expected_ones.get());
}
