//! Finds why a rule that was not true could not be: a comparison of a text with a number, which are never equal, or
//! `contains` of a list. Ids in claims are often numbers, and what a channel's name holds is always a text.
//! `eval` decides whether a rule holds; this explains to its author why it cannot.

use super::build;
use super::eval;
use super::node::{BinaryOp, Node, Tree, UnaryOp};
use super::value::{List, Value, Work};
use super::vars::Scope;

/// Comparisons of one rule that are looked at.
const MAX_COMPARISONS: usize = 32;
/// What looking through one list may cost.
const MAX_WORK: usize = 64 << 10;

/// What is wrong with the first such comparison in this scope, and what would be right.
pub(super) fn find(tree: &Tree, scope: &dyn Scope) -> Option<String> {
    let mut left = MAX_COMPARISONS;
    walk(tree, scope, &mut left)
}

/// Recursion is bounded by the depth of trees, which the parser bounds.
fn walk(tree: &Tree, scope: &dyn Scope, left: &mut usize) -> Option<String> {
    let mut first = |parts: &[&Tree]| parts.iter().find_map(|part| walk(part, scope, left));
    match &**tree {
        Node::Const(_) | Node::Error | Node::Var(_) => None,
        Node::Select(a, _) | Node::Has(a, _) | Node::Unary(_, a) => first(&[a]),
        Node::List(parts) | Node::All(parts) | Node::Any(parts) => {
            parts.iter().find_map(|part| walk(part, scope, left))
        }
        Node::Conditional(a, b, c) => first(&[a, b, c]),
        Node::Binary(op, a, b) => {
            if let Some(found) = first(&[a, b]) {
                return Some(found);
            }
            *left = left.checked_sub(1)?;
            comparison(*op, a, b, scope)
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum ComparedType {
    Text,
    Number,
}

fn comparison(op: BinaryOp, a: &Tree, b: &Tree, scope: &dyn Scope) -> Option<String> {
    use BinaryOp::*;
    let show = |tree: &Tree| super::Expr(tree.clone()).to_string();
    let right = match op {
        Contains => {
            let is_list = matches!(eval::evaluate(a, scope), Ok(Value::List(_)));
            let better = || show(&build::binary(In, b.clone(), a.clone()));
            return is_list.then(|| {
                format!("`{}` is a list, and `contains` is for texts: write `{}`", show(a), better())
            });
        }
        Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual => kind_of(b, scope)?,
        In => kind_of_elements(b, scope)?,
        _ => return None,
    };
    let left = kind_of(a, scope)?;
    if left == right {
        return None;
    }
    let ordered = matches!(op, Less | LessEqual | Greater | GreaterEqual);
    let convert = |op, tree: &Tree| build::unary(op, tree.clone());
    let (a_right, b_right) = match (left, right) {
        // A text of digits has the order of its number only as a number.
        (ComparedType::Text, _) if ordered || op == In => (convert(UnaryOp::Integer, a), b.clone()),
        (_, ComparedType::Text) if ordered => (a.clone(), convert(UnaryOp::Integer, b)),
        (ComparedType::Number, _) => (convert(UnaryOp::Text, a), b.clone()),
        (ComparedType::Text, _) => (a.clone(), convert(UnaryOp::Text, b)),
    };
    let right_is = match (op, right) {
        (In, ComparedType::Text) => "holds texts",
        (In, ComparedType::Number) => "holds numbers",
        (_, ComparedType::Text) => "is a text",
        (_, ComparedType::Number) => "is a number",
    };
    let left_is = if left == ComparedType::Text { "a text" } else { "a number" };
    let better = show(&build::binary(op, a_right, b_right));
    Some(format!("`{}` is {left_is} and `{}` {right_is}: write `{better}`", show(a), show(b)))
}

fn kind_of(tree: &Tree, scope: &dyn Scope) -> Option<ComparedType> {
    match eval::evaluate(tree, scope).ok()? {
        Value::Text(_) => Some(ComparedType::Text),
        Value::Number(_) => Some(ComparedType::Number),
        _ => None,
    }
}

/// The one kind of all elements; `None` for an empty list and for one of several kinds.
fn kind_of_elements(tree: &Tree, scope: &dyn Scope) -> Option<ComparedType> {
    let Value::List(list) = eval::evaluate(tree, scope).ok()? else { return None };
    one_kind(&list)
}

fn one_kind(list: &List<'_>) -> Option<ComparedType> {
    let work = Work::of(MAX_WORK);
    let mut kind = None;
    for element in list.iter(&work).ok()? {
        let own = match element.ok()? {
            Value::Text(_) => ComparedType::Text,
            Value::Number(_) => ComparedType::Number,
            _ => return None,
        };
        if *kind.get_or_insert(own) != own {
            return None;
        }
    }
    kind
}
