//! Evaluates a tree over a scope, within a bound of work.
//! What values are and how they compare is in `value`; trees come from `build`.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::node::{BinaryOp, Node, Tree, UnaryOp};
use super::number::Number;
use super::value::{Failed, List, Value, Work};
use super::vars::{Binding, Scope, Var};

/// What one evaluation may cost at most: bytes looked at or copied, and steps taken.
pub(super) const MAX_WORK: usize = 4 << 20;
/// What it may cost over a small payload, and how often a larger one may be walked through: a filter that mentions
/// many fields must not make others wait.
const BASE_WORK: usize = 256 << 10;
const WALKS: usize = 8;

/// The value of a tree, or that it ends in an error.
pub(super) fn evaluate<'a>(node: &'a Node, scope: &'a dyn Scope) -> Result<Value<'a>, Failed> {
    let data = match scope.var(Var::Data) {
        Binding::Json(text) => text.len(),
        _ => 0,
    };
    let bound =
        BASE_WORK.saturating_add(data.saturating_mul(WALKS)).min(MAX_WORK.max(data.saturating_mul(2)));
    Evaluation { scope, work: Work::of(bound) }.value(node)
}

struct Evaluation<'a> {
    scope: &'a dyn Scope,
    work: Work,
}

impl<'a> Evaluation<'a> {
    /// Recursion is bounded by the depth of trees, which the parser bounds.
    fn value(&self, node: &'a Node) -> Result<Value<'a>, Failed> {
        self.work.spend(1)?;
        match node {
            Node::Const(value) => Value::of_const(value),
            Node::Error => Err(Failed),
            Node::Var(var) => self.var(*var),
            Node::Select(base, name) => match self.value(base)? {
                Value::Map(map) => map.get(name, &self.work)?.ok_or(Failed),
                _ => Err(Failed),
            },
            Node::Has(base, name) => match self.value(base)? {
                Value::Map(map) => Ok(Value::Bool(map.get(name, &self.work)?.is_some())),
                Value::Null => Ok(Value::Bool(false)),
                _ => Err(Failed),
            },
            Node::List(parts) => self.list(parts),
            Node::Unary(op, operand) => self.unary(*op, self.value(operand)?),
            Node::Binary(op, a, b) => self.binary(*op, self.value(a)?, self.value(b)?),
            Node::All(parts) => self.logic(parts, false),
            Node::Any(parts) => self.logic(parts, true),
            Node::Conditional(condition, then, otherwise) => match self.value(condition)? {
                Value::Bool(true) => self.value(then),
                Value::Bool(false) => self.value(otherwise),
                _ => Err(Failed),
            },
        }
    }

    fn var(&self, var: Var) -> Result<Value<'a>, Failed> {
        match Value::of_binding(self.scope.var(var), &self.work)? {
            Some(value) => Ok(value),
            None if matches!(var, Var::From | Var::Tags | Var::Key) => Ok(Value::Null),
            None => Err(Failed),
        }
    }

    /// `&&` and `||` over any number of operands: the value that `decides` wins over errors on either side of it.
    fn logic(&self, parts: &'a [Tree], decides: bool) -> Result<Value<'a>, Failed> {
        let mut outcome = Ok(Value::Bool(!decides));
        for part in parts {
            match self.value(part) {
                Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                _ => outcome = Err(Failed),
            }
        }
        outcome
    }

    fn list(&self, parts: &'a [Tree]) -> Result<Value<'a>, Failed> {
        let values: Result<Vec<_>, _> = parts.iter().map(|part| self.value(part)).collect();
        Ok(Value::List(List::Made(values?.into())))
    }

    fn unary(&self, op: UnaryOp, operand: Value<'a>) -> Result<Value<'a>, Failed> {
        match (op, operand) {
            (UnaryOp::Not, Value::Bool(value)) => Ok(Value::Bool(!value)),
            (UnaryOp::Negate, Value::Number(number)) => number.negate().map(Value::Number),
            (UnaryOp::Size, value) => {
                let size = u64::try_from(value.size(&self.work)?).map_err(|_| Failed)?;
                Ok(Value::Number(Number::of_unsigned(size)))
            }
            (UnaryOp::Text, value) => value.into_text(&self.work).map(Value::Text),
            (UnaryOp::Integer, value) => value.as_integer(&self.work).map(Value::Number),
            _ => Err(Failed),
        }
    }

    fn binary(&self, op: BinaryOp, a: Value<'a>, b: Value<'a>) -> Result<Value<'a>, Failed> {
        use BinaryOp::*;
        let answer = match op {
            Equal => a.equals(&b, &self.work)?,
            NotEqual => !a.equals(&b, &self.work)?,
            Less | LessEqual | Greater | GreaterEqual => holds(op, a.compare(&b, &self.work)?),
            In => a.is_in(&b, &self.work)?,
            StartsWith | EndsWith | Contains => self.texts(op, &a, &b)?,
            Index => return a.index(&b, &self.work),
            Add => return self.add(a, b),
            Subtract | Multiply | Divide | Remainder => return reckon(op, &a, &b),
        };
        Ok(Value::Bool(answer))
    }

    fn texts(&self, op: BinaryOp, a: &Value<'_>, b: &Value<'_>) -> Result<bool, Failed> {
        let (Value::Text(text), Value::Text(part)) = (a, b) else { return Err(Failed) };
        let (text, part): (&str, &str) = (text, part);
        match op {
            BinaryOp::StartsWith => Ok(text.starts_with(part)),
            BinaryOp::EndsWith => Ok(text.ends_with(part)),
            _ => {
                self.work.spend(text.len())?;
                Ok(text.contains(part))
            }
        }
    }

    /// Numbers add up; texts and lists follow one another.
    fn add(&self, a: Value<'a>, b: Value<'a>) -> Result<Value<'a>, Failed> {
        match (a, b) {
            (Value::Text(a), Value::Text(b)) => {
                self.work.spend(a.len() + b.len())?;
                Ok(Value::Text(Cow::Owned(a.into_owned() + &b)))
            }
            (Value::List(a), Value::List(b)) => {
                let mut values = Vec::new();
                for value in a.iter(&self.work)?.chain(b.iter(&self.work)?) {
                    self.work.spend(size_of::<Value<'_>>())?;
                    values.push(value?);
                }
                Ok(Value::List(List::Made(values.into())))
            }
            (a, b) => reckon(BinaryOp::Add, &a, &b),
        }
    }
}

fn reckon<'a>(op: BinaryOp, a: &Value<'_>, b: &Value<'_>) -> Result<Value<'a>, Failed> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.reckon(op, *b).map(Value::Number),
        _ => Err(Failed),
    }
}

/// Whether the comparison is true of this order.
fn holds(op: BinaryOp, order: Ordering) -> bool {
    match op {
        BinaryOp::Less => order.is_lt(),
        BinaryOp::LessEqual => order.is_le(),
        BinaryOp::Greater => order.is_gt(),
        _ => order.is_ge(),
    }
}
