//! Estimates what evaluating a tree costs, before any event is seen.
//! How much of it is too much is left to the callers; the bound of a single evaluation is in `eval`.

use super::node::{BinaryOp, Const, Node, Tree, UnaryOp};

/// What walks through the payload, or through a text or a list in it, costs beside a plain step.
const WALK: usize = 8;

impl Node {
    /// Steps, with what walks through text weighing more. All operands count, also those that may be left out.
    pub(super) fn work(&self) -> usize {
        let of_all = |parts: &[Tree]| parts.iter().map(|part| part.work()).sum::<usize>();
        match self {
            Node::Const(_) | Node::Error | Node::Var(_) => 1,
            Node::Select(base, _) | Node::Has(base, _) => WALK + base.work(),
            Node::Unary(op, a) => of_unary(*op) + a.work(),
            Node::Binary(op, a, b) => of_binary(*op, a, b) + a.work() + b.work(),
            Node::List(parts) | Node::All(parts) | Node::Any(parts) => 1 + of_all(parts),
            Node::Conditional(a, b, c) => 1 + a.work() + b.work() + c.work(),
        }
    }
}

fn of_unary(op: UnaryOp) -> usize {
    match op {
        UnaryOp::Size | UnaryOp::Text | UnaryOp::Integer => WALK,
        UnaryOp::Not | UnaryOp::Negate => 1,
    }
}

fn of_binary(op: BinaryOp, a: &Node, b: &Node) -> usize {
    use BinaryOp::*;
    match op {
        In => WALK + elements(b),
        Contains | StartsWith | EndsWith | Index | Add => WALK,
        // Neither side is known to be a scalar: lists and maps are compared deeply.
        Equal | NotEqual if !is_scalar(a) && !is_scalar(b) => 2 * WALK,
        _ => 1,
    }
}

/// How many elements are looked through at most, where that is known.
fn elements(container: &Node) -> usize {
    match container {
        Node::Const(Const::List(items)) => items.len(),
        Node::Const(Const::Json(text)) => text.len(),
        _ => 0,
    }
}

fn is_scalar(node: &Node) -> bool {
    matches!(node, Node::Const(Const::Null | Const::Bool(_) | Const::Number(_) | Const::Text(_)))
}
