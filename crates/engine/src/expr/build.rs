//! Makes trees, simplified as they grow: what is known is evaluated, what cannot matter is left out, and what is
//! known to fail becomes `Node::Error` in its place, so that `&&` and `||` around it still absorb it.
//! Every function here keeps the meaning of what it is given; which texts make which trees is left to `parse`.

use std::sync::Arc;

use super::eval;
use super::node::{BinaryOp, Const, Node, Tree, UnaryOp, ValueType};
use super::value::{List, Map, Value, Work};
use super::vars::{Binding, Scope, Var, Vars};

/// The longest text that folding makes, in bytes: a sum of claims must not grow in memory without need.
const MAX_FOLDED_BYTES: usize = 4096;

/// What a constant is evaluated over.
struct Nothing;

impl Scope for Nothing {
    fn var(&self, _: Var) -> Binding<'_> {
        Binding::Missing
    }
}

pub(super) fn constant(value: Const) -> Tree {
    Arc::new(Node::Const(value))
}

pub(super) fn boolean(value: bool) -> Tree {
    constant(Const::Bool(value))
}

pub(super) fn var(var: Var) -> Tree {
    Arc::new(Node::Var(var))
}

fn error() -> Tree {
    Arc::new(Node::Error)
}

pub(super) fn select(base: Tree, name: Arc<str>) -> Tree {
    if !base.kind().may_be(&[ValueType::Map]) || is_error(&base) {
        return error();
    }
    fold(Node::Select(base, name))
}

pub(super) fn has(base: Tree, name: Arc<str>) -> Tree {
    if !base.kind().may_be(&[ValueType::Map, ValueType::Null]) || is_error(&base) {
        return error();
    }
    fold(Node::Has(base, name))
}

pub(super) fn list(parts: Vec<Tree>) -> Tree {
    if parts.iter().any(is_error) {
        return error();
    }
    fold(Node::List(parts))
}

pub(super) fn unary(op: UnaryOp, operand: Tree) -> Tree {
    let operand = if op == UnaryOp::Not { condition(operand) } else { operand };
    if is_error(&operand) || op.result(operand.kind()).is_none() {
        return error();
    }
    fold(Node::Unary(op, operand))
}

pub(super) fn binary(op: BinaryOp, a: Tree, b: Tree) -> Tree {
    if is_error(&a) || is_error(&b) || op.result(a.kind(), b.kind()).is_none() {
        return error();
    }
    match (op, &*b) {
        (BinaryOp::Index, Node::Const(Const::Text(name))) => select(a, name.clone()),
        _ => fold(Node::Binary(op, a, b)),
    }
}

/// `&&` over the operands.
pub(super) fn all(parts: Vec<Tree>) -> Tree {
    logic(parts, false)
}

/// `||` over the operands.
pub(super) fn any(parts: Vec<Tree>) -> Tree {
    logic(parts, true)
}

pub(super) fn conditional(test: Tree, then: Tree, otherwise: Tree) -> Tree {
    let test = condition(test);
    match &*test {
        Node::Const(Const::Bool(true)) => then,
        Node::Const(Const::Bool(false)) => otherwise,
        Node::Error => error(),
        _ if !test.kind().may_be(&[ValueType::Bool]) => error(),
        _ => Arc::new(Node::Conditional(test, then, otherwise)),
    }
}

fn logic(parts: Vec<Tree>, decides: bool) -> Tree {
    let mut left = Vec::with_capacity(parts.len());
    let mut fails = false;
    for part in parts.into_iter().flat_map(|part| operands(condition(part), decides)) {
        match &*part {
            Node::Const(Const::Bool(value)) if *value == decides => return boolean(decides),
            Node::Const(Const::Bool(_)) => {}
            _ if is_error(&part) || !part.kind().may_be(&[ValueType::Bool]) => {
                if !fails {
                    left.push(error());
                }
                fails = true;
            }
            _ => left.push(part),
        }
    }
    match &left[..] {
        [] => boolean(!decides),
        [only] if is_error(only) || only.kind() == ValueType::Bool => only.clone(),
        _ if decides => Arc::new(Node::Any(left)),
        _ => Arc::new(Node::All(left)),
    }
}

/// The operands of a tree that is itself of this operator; otherwise the tree.
fn operands(tree: Tree, decides: bool) -> Vec<Tree> {
    match &*tree {
        Node::Any(parts) if decides => parts.clone(),
        Node::All(parts) if !decides => parts.clone(),
        _ => vec![tree],
    }
}

/// Where only a boolean will do, `true && x` is `x`: both fail for the same values.
fn condition(tree: Tree) -> Tree {
    match &*tree {
        Node::All(parts) | Node::Any(parts) => match &parts[..] {
            [only] => only.clone(),
            _ => tree,
        },
        _ => tree,
    }
}

/// Where the whole answer is wanted, an error or anything that is not a boolean is as good as `false`.
pub(super) fn answer(tree: &Tree) -> Tree {
    let answers = |parts: &[Tree]| parts.iter().map(answer).collect();
    match &**tree {
        Node::Const(Const::Bool(_)) => tree.clone(),
        Node::All(parts) => condition(all(answers(parts))),
        Node::Any(parts) => condition(any(answers(parts))),
        Node::Conditional(test, a, b) => match conditional(test.clone(), answer(a), answer(b)) {
            same if matches!(&*same, Node::Conditional(..)) => same,
            chosen => answer(&chosen),
        },
        _ if is_error(tree) || !tree.kind().may_be(&[ValueType::Bool]) => boolean(false),
        _ => tree.clone(),
    }
}

/// The tree with the present values of these variables folded in.
pub(super) fn bind(tree: &Tree, scope: &dyn Scope, vars: Vars) -> Tree {
    let asked = tree.vars();
    if asked.iter().all(|var| !vars.contains(var)) {
        return tree.clone();
    }
    if vars.contains(asked)
        && let Some(known) = evaluated(tree, scope)
    {
        return known;
    }
    let part = |tree: &Tree| bind(tree, scope, vars);
    let parts = |trees: &[Tree]| trees.iter().map(part).collect();
    match &**tree {
        Node::Const(_) | Node::Error | Node::Var(_) => tree.clone(),
        Node::Select(a, name) => select(part(a), name.clone()),
        Node::Has(a, name) => has(part(a), name.clone()),
        Node::List(trees) => list(parts(trees)),
        Node::Unary(op, a) => unary(*op, part(a)),
        Node::Binary(op, a, b) => binary(*op, part(a), part(b)),
        Node::All(trees) => all(parts(trees)),
        Node::Any(trees) => any(parts(trees)),
        Node::Conditional(a, b, c) => conditional(part(a), part(b), part(c)),
    }
}

/// The node, or its value where that is known.
fn fold(node: Node) -> Tree {
    if node.vars() == Vars::NONE
        && let Some(known) = evaluated(&node, &Nothing)
    {
        return known;
    }
    Arc::new(node)
}

/// The node's value in this scope; `None` where it is better kept as it is.
fn evaluated(node: &Node, scope: &dyn Scope) -> Option<Tree> {
    let Ok(value) = eval::evaluate(node, scope) else { return Some(error()) };
    match (&value, node) {
        (Value::Text(text), Node::Binary(..)) if text.len() > MAX_FOLDED_BYTES => None,
        (Value::List(List::Made(values)), Node::Binary(..)) if values.len() > MAX_FOLDED_BYTES => None,
        _ => Some(known(&value).map_or_else(error, constant)),
    }
}

/// `None` where a JSON text does not hold what it should.
fn known(value: &Value<'_>) -> Option<Const> {
    Some(match value {
        Value::Null => Const::Null,
        Value::Bool(value) => Const::Bool(*value),
        Value::Number(number) => Const::Number(*number),
        Value::Text(text) => Const::Text(text.as_ref().into()),
        Value::List(list) => known_list(list)?,
        Value::Map(Map::Json(text)) => Const::Json((*text).into()),
        Value::Map(Map::Me { player, claims }) => Const::Json(me(player, claims).into()),
        Value::Map(Map::Params(params)) => Const::Json(object(params).into()),
    })
}

/// A JSON list of scalars is read once and for all; one that holds more is kept as text.
fn known_list(list: &List<'_>) -> Option<Const> {
    let work = Work::of(usize::MAX);
    let mut items = Vec::new();
    for element in list.iter(&work).ok()? {
        match (element.ok()?, list) {
            (Value::List(_) | Value::Map(_), List::Json(text)) => return Some(Const::Json((*text).into())),
            (value, _) => items.push(known(&value)?),
        }
    }
    Some(Const::List(items.into()))
}

/// The claims with the player's id in front of a claim of that name: the last of duplicate keys counts.
fn me(player: &str, claims: &str) -> String {
    let members =
        claims.trim().strip_prefix('{').and_then(|claims| claims.strip_suffix('}')).unwrap_or("").trim();
    let comma = if members.is_empty() { "" } else { "," };
    format!("{{{members}{comma}\"player\":{}}}", quoted(player))
}

fn object(params: &[(&str, &str)]) -> String {
    // The first of equal names counts, as it does unfolded.
    let members: Vec<_> =
        params.iter().rev().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    format!("{{{}}}", members.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn is_error(tree: &Tree) -> bool {
    matches!(**tree, Node::Error)
}
