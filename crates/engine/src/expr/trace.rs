//! How an expression came to its result in one scope, for the person who wrote it: the conditions that it is made of, and
//! what its paths lead to. `eval` decides; nothing here is on the delivery path.

use super::build;
use super::eval;
use super::node::{Node, Tree, UnaryOp};
use super::value::Value;
use super::vars::{Scope, Var, Vars};

/// Conditions, and paths, of one expression that are listed.
const MAX_LISTED: usize = 64;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The operands of `&&`, `||` and `!`, however deep, in the order of the text; at most 64.
    pub conditions: Vec<(String, Outcome)>,
    /// Variables and fields, each once, with what they lead to; at most 64.
    pub paths: Vec<(String, PathValue)>,
}

/// What a condition comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be decided: something is missing, or a type does not fit. An error is never true.
    Error,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathValue {
    /// A value, as it is written in the language.
    Value(String),
    /// Nothing: `claim` is the player's claim that is missing, if it begins with `me`.
    Missing {
        /// The claim's name.
        claim: Option<String>,
    },
}

/// Of a rule in this scope.
pub(super) fn trace(tree: &Tree, scope: &dyn Scope) -> Trace {
    let mut trace = Trace::default();
    conditions(tree, scope, &mut trace.conditions);
    paths(tree, scope, &mut trace.paths);
    trace
}

/// Recursion is bounded by the depth of trees, which the parser bounds.
fn conditions(tree: &Tree, scope: &dyn Scope, found: &mut Vec<(String, Outcome)>) {
    match &**tree {
        Node::All(parts) | Node::Any(parts) => parts.iter().for_each(|part| conditions(part, scope, found)),
        Node::Unary(UnaryOp::Not, part) => conditions(part, scope, found),
        _ if found.len() < MAX_LISTED => found.push((source(tree), outcome(tree, scope))),
        _ => {}
    }
}

fn outcome(tree: &Tree, scope: &dyn Scope) -> Outcome {
    match eval::evaluate(tree, scope) {
        Ok(Value::Bool(true)) => Outcome::True,
        Ok(Value::Bool(false)) => Outcome::False,
        _ => Outcome::Error,
    }
}

fn paths(tree: &Tree, scope: &dyn Scope, found: &mut Vec<(String, PathValue)>) {
    let mut all = |parts: &[&Tree]| parts.iter().for_each(|part| paths(part, scope, found));
    match &**tree {
        Node::Const(_) | Node::Error => {}
        Node::Var(Var::Me | Var::Params) => {}
        Node::Var(_) => path(tree, scope, found),
        Node::Select(..) if is_path(tree) => path(tree, scope, found),
        Node::Has(base, name) if is_path(base) => {
            path(&build::select(base.clone(), name.clone()), scope, found);
        }
        Node::Select(a, _) | Node::Has(a, _) | Node::Unary(_, a) => all(&[a]),
        Node::Binary(_, a, b) => all(&[a, b]),
        Node::Conditional(a, b, c) => all(&[a, b, c]),
        Node::List(parts) | Node::All(parts) | Node::Any(parts) => {
            parts.iter().for_each(|part| paths(part, scope, found));
        }
    }
}

/// Whether it is a variable or a field of one, however deep.
fn is_path(tree: &Tree) -> bool {
    let mut base = tree;
    while let Node::Select(below, _) = &**base {
        base = below;
    }
    matches!(**base, Node::Var(_))
}

fn path(tree: &Tree, scope: &dyn Scope, found: &mut Vec<(String, PathValue)>) {
    let name = source(tree);
    if found.len() >= MAX_LISTED || found.iter().any(|(known, _)| *known == name) {
        return;
    }
    let value = match eval::evaluate(tree, scope) {
        Ok(_) => PathValue::Value(source(&build::bind(tree, scope, Vars::VIEW_RULE))),
        Err(_) => PathValue::Missing { claim: missing_claim(tree, scope) },
    };
    found.push((name, value));
}

/// The claim in this path that the player's token does not have.
fn missing_claim(tree: &Tree, scope: &dyn Scope) -> Option<String> {
    let Node::Select(base, name) = &**tree else { return None };
    match &**base {
        Node::Var(Var::Me) => Some(name.to_string()),
        _ => missing_claim(base, scope).filter(|_| eval::evaluate(base, scope).is_err()),
    }
}

fn source(tree: &Tree) -> String {
    super::Expr(tree.clone()).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::vars::Binding;
    use super::super::{compile, compile_for_class};
    use super::*;

    struct Alice;

    impl Scope for Alice {
        fn var(&self, var: Var) -> Binding<'_> {
            match var {
                Var::Me => Binding::Me { player: "alice", claims: r#"{"room":"42","level":5,"a":{"b":1}}"# },
                Var::Params => Binding::Params(&[("room", "43")]),
                Var::Event => Binding::Text("hit"),
                _ => Binding::Missing,
            }
        }
    }

    fn traced(rule: &str) -> Trace {
        trace(&compile_for_class(rule, Vars::PUBLISH_RULE, &["room"]).unwrap().0, &Alice)
    }

    fn value(text: &str) -> PathValue {
        PathValue::Value(text.to_owned())
    }

    fn missing(claim: &str) -> PathValue {
        PathValue::Missing { claim: Some(claim.to_owned()) }
    }

    #[test]
    fn each_condition_has_its_outcome_and_each_path_its_value() {
        let trace = traced("params.room == me.room || params.room in me.rooms && !(me.level > 3)");
        assert_eq!(
            trace.conditions,
            [
                ("params.room == me.room".to_owned(), Outcome::False),
                ("params.room in me.rooms".to_owned(), Outcome::Error),
                ("me.level > 3".to_owned(), Outcome::True),
            ]
        );
        assert_eq!(
            trace.paths,
            [
                ("params.room".to_owned(), value("'43'")),
                ("me.room".to_owned(), value("'42'")),
                ("me.rooms".to_owned(), missing("rooms")),
                ("me.level".to_owned(), value("5")),
            ]
        );
    }

    #[test]
    fn the_missing_claim_is_the_one_that_the_token_lacks() {
        assert_eq!(traced("me.team.name == 'red'").paths, [("me.team.name".to_owned(), missing("team"))]);
        assert_eq!(traced("has(me.vip)").paths, [("me.vip".to_owned(), missing("vip"))]);
        let inside = [("me.a.c".to_owned(), PathValue::Missing { claim: None })];
        assert_eq!(traced("me.a.c == 1").paths, inside);
        assert_eq!(traced("me.player == 'alice'").paths, [("me.player".to_owned(), value("'alice'"))]);
    }

    #[test]
    fn what_is_listed_is_bounded() {
        let rule = (0..200).map(|n| format!("me.c{n} == 1")).collect::<Vec<_>>().join(" || ");
        let trace = trace(&compile(&rule, Vars::ME).unwrap().0, &Alice);
        assert_eq!((trace.conditions.len(), trace.paths.len()), (MAX_LISTED, MAX_LISTED));
    }
}
