//! Laws that hold for every expression: binding changes nothing, and what is written is read back as the same.

use drawbridge_engine::expr::{Var, Vars, compile};
use proptest::prelude::*;

use crate::random;
use crate::scope::{Only, Plain};

/// Renames some of `data` to the player's claims, so that there is something to bind.
fn with_claims() -> impl Strategy<Value = String> {
    (random::condition(3), prop::collection::vec(any::<bool>(), 8)).prop_map(|(source, which)| {
        let mut which = which.into_iter().cycle();
        let mut pieces = source.split("data");
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |all, piece| all + if which.next() == Some(true) { "me" } else { "data" } + piece)
    })
}

fn scope() -> impl Strategy<Value = Plain> {
    (random::data(), random::data()).prop_map(|(data, claims)| Plain { data, claims, ..Plain::default() })
}

fn vars() -> impl Strategy<Value = Vars> {
    prop::sample::subsequence(vec![Var::Data, Var::Me, Var::Event], 0..=3)
        .prop_map(|vars| vars.into_iter().fold(Vars::NONE, |set, var| set | var.into()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn binding_changes_no_answer(source in with_claims(), scope in scope(), vars in vars()) {
        let Ok(expr) = compile(&source, Vars::VIEW_RULE) else { return Ok(()) };
        let others = Var::ALL.into_iter().filter(|var| !vars.contains(*var));
        let rest = Only(&scope, others.fold(Vars::NONE, |set, var| set | var.into()));
        let bound = expr.bind(&scope, vars);
        prop_assert_eq!(bound.matches(&rest), expr.matches(&scope), "{} became {}", expr, bound);
        prop_assert!(bound.vars().iter().all(|var| !vars.contains(var)), "{} became {}", expr, bound);
        prop_assert_eq!(expr.bind(&scope, vars), bound.clone(), "binding is a function");
        prop_assert_eq!(bound.bind(&rest, Vars::VIEW_RULE).as_constant(), Some(expr.matches(&scope)));
    }

    #[test]
    fn what_is_written_is_read_back(source in with_claims()) {
        let Ok(expr) = compile(&source, Vars::VIEW_RULE) else { return Ok(()) };
        let written = expr.to_string();
        let read = compile(&written, Vars::VIEW_RULE);
        prop_assert_eq!(read.as_ref(), Ok(&expr), "{} as {}", source, written);
        prop_assert_eq!(read.map(|read| read.to_string()), Ok(written));
    }

    #[test]
    fn equal_claims_make_equal_expressions(source in with_claims(), scope in scope()) {
        let Ok(expr) = compile(&source, Vars::VIEW_RULE) else { return Ok(()) };
        let again = Plain { data: "null".into(), ..scope.clone() };
        prop_assert_eq!(expr.bind(&scope, Vars::ME), expr.bind(&again, Vars::ME));
    }
}
