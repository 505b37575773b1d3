//! Reads out of an expression what must be so for it to be true: one of a few tests of single paths. A table of such
//! tests then names, for an event, all expressions that can be true of it. The tests may hold where the expression
//! does not; keeping the tables, and evaluating what they name, is left to the callers.

use super::Expr;
use super::node::{BinaryOp, Const, Node, Tree, UnaryOp};
use super::path::{Key, Path};

/// How many keys and intervals a shape may have: what one filter may take up in the tables.
const MAX_TESTS: usize = 256;
/// How many shapes of one expression are returned.
const MAX_SHAPES: usize = 16;

/// What must be so: at least one of these tests holds. With none of them, the expression is never true.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// At most one test for keys of each path.
    pub(crate) tests: Vec<(Path, Test)>,
    /// Whether this is all that there is to the expression, except for the ends of intervals.
    pub(crate) whole: bool,
}

/// A test of one path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    /// It leads to one of these.
    Keys(Vec<Key>),
    /// It leads to a number within these bounds.
    Within(Interval),
}

/// The numbers from `least` to `most`, both included; infinite where there is no such end, never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// The shapes of the conjunction of these expressions: each by itself must be so. Empty if none is known.
pub(crate) fn shapes<'e>(exprs: impl IntoIterator<Item = &'e Expr>) -> Vec<Shape> {
    let parts: Vec<&Tree> = exprs.into_iter().flat_map(|expr| conjuncts(&expr.0)).collect();
    shapes_of_all(&parts)
}

fn conjuncts(tree: &Tree) -> Vec<&Tree> {
    match &**tree {
        Node::All(parts) => parts.iter().collect(),
        Node::Const(Const::Bool(true)) => Vec::new(),
        _ => vec![tree],
    }
}

fn shapes_of_all(parts: &[&Tree]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut ranges: Vec<(Path, Interval, usize)> = Vec::new();
    for part in parts {
        if let Some((path, interval)) = range(part) {
            narrow(&mut ranges, path, interval);
        } else if let Some(mut shape) = shape(part) {
            shape.whole &= parts.len() == 1;
            shapes.push(shape);
        }
    }
    shapes.extend(ranges.into_iter().map(|(path, interval, merged)| {
        let whole = merged == parts.len();
        // No number is in an empty interval.
        let tests = if interval.is_empty() { Vec::new() } else { vec![(path, Test::Within(interval))] };
        Shape { tests, whole }
    }));
    shapes.sort_by_key(Shape::breadth);
    shapes.truncate(MAX_SHAPES);
    shapes
}

/// Puts bounds of one path together, and counts them.
fn narrow(ranges: &mut Vec<(Path, Interval, usize)>, path: Path, interval: Interval) {
    match ranges.iter_mut().find(|(known, ..)| *known == path) {
        Some((_, known, merged)) => {
            known.least = known.least.max(interval.least);
            known.most = known.most.min(interval.most);
            *merged += 1;
        }
        None => ranges.push((path, interval, 1)),
    }
}

/// The shape of a condition that is neither a bound nor a conjunction.
fn shape(tree: &Tree) -> Option<Shape> {
    let (path, keys) = match &**tree {
        Node::Any(parts) => return shape_of_any(parts),
        Node::Error | Node::Const(Const::Bool(false)) => return Some(Shape::never()),
        Node::Binary(BinaryOp::Equal, a, b) => match (&**a, &**b) {
            (_, Node::Const(value)) => (Path::of(a)?, Key::of_all(std::slice::from_ref(value))?),
            (Node::Const(value), _) => (Path::of(b)?, Key::of_all(std::slice::from_ref(value))?),
            _ => return None,
        },
        Node::Binary(BinaryOp::In, a, b) => match &**b {
            Node::Const(Const::List(items)) if items.len() <= MAX_TESTS => {
                (Path::of(a)?, Key::of_all(items)?)
            }
            _ => return None,
        },
        Node::Unary(UnaryOp::Not, a) => (Path::of(a)?, vec![Key::of_bool(false)]),
        _ => (Path::of(tree)?, vec![Key::of_bool(true)]),
    };
    if keys.is_empty() {
        return Some(Shape::never());
    }
    Some(Shape { tests: vec![(path, Test::Keys(keys))], whole: true })
}

/// All operands' tests together, each operand giving those of its narrowest shape.
fn shape_of_any(parts: &[Tree]) -> Option<Shape> {
    let mut united = Shape { tests: Vec::new(), whole: true };
    for part in parts {
        let narrowest = shapes_of_all(&conjuncts(part)).into_iter().next()?;
        united.whole &= narrowest.whole;
        for (path, test) in narrowest.tests {
            united.unite(path, test);
        }
        if united.size() > MAX_TESTS {
            return None;
        }
    }
    Some(united)
}

/// The bounds that a comparison with a number sets.
fn range(tree: &Tree) -> Option<(Path, Interval)> {
    let Node::Binary(op, a, b) = &**tree else { return None };
    let (op, path, bound) = match (&**a, &**b) {
        (_, Node::Const(Const::Number(bound))) => (*op, Path::of(a)?, bound),
        (Node::Const(Const::Number(bound)), _) => (mirrored(*op), Path::of(b)?, bound),
        _ => return None,
    };
    let bound = bound.as_double();
    let open = Interval { least: f64::NEG_INFINITY, most: f64::INFINITY };
    let interval = match op {
        BinaryOp::Less | BinaryOp::LessEqual | BinaryOp::Greater | BinaryOp::GreaterEqual
            if bound.is_nan() =>
        {
            Interval { least: f64::INFINITY, most: f64::NEG_INFINITY }
        }
        BinaryOp::Less | BinaryOp::LessEqual => Interval { most: bound, ..open },
        BinaryOp::Greater | BinaryOp::GreaterEqual => Interval { least: bound, ..open },
        _ => return None,
    };
    Some((path, interval))
}

/// The operator that says the same with its sides exchanged.
fn mirrored(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessEqual => BinaryOp::GreaterEqual,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterEqual => BinaryOp::LessEqual,
        other => other,
    }
}

impl Shape {
    fn never() -> Shape {
        Shape { tests: Vec::new(), whole: true }
    }

    fn unite(&mut self, path: Path, test: Test) {
        if let Test::Keys(keys) = &test
            && let Some(known) = self.tests.iter_mut().find_map(|(known, test)| match test {
                Test::Keys(known_keys) if *known == path => Some(known_keys),
                _ => None,
            })
        {
            known.extend_from_slice(keys);
            return;
        }
        self.tests.push((path, test));
    }

    fn size(&self) -> usize {
        let size = |test: &Test| match test {
            Test::Keys(keys) => keys.len(),
            Test::Within(_) => 1,
        };
        self.tests.iter().map(|(_, test)| size(test)).sum()
    }

    /// How much it is likely to let through, before anything is known of events and of other filters: less is better.
    pub(crate) fn breadth(&self) -> usize {
        self.tests.iter().map(|(path, test)| usize::from(path.is_common()) + test.breadth()).sum()
    }
}

impl Test {
    fn breadth(&self) -> usize {
        match self {
            Test::Keys(keys) if keys.iter().any(Key::is_common) => 2,
            Test::Keys(_) => 0,
            Test::Within(interval) if interval.is_bounded() => 4,
            Test::Within(_) => 16,
        }
    }
}

impl Interval {
    fn is_empty(self) -> bool {
        self.least > self.most
    }

    /// Whether it has both ends.
    pub(crate) fn is_bounded(self) -> bool {
        self.least.is_finite() && self.most.is_finite()
    }
}

#[cfg(test)]
mod tests;
