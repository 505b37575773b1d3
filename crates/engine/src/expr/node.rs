//! The tree of an expression and what is known of its types before any event is seen.
//! Trees are made by `build` only, which keeps them simplified; evaluating them is left to `eval`.

use std::sync::Arc;

use super::number::Number;
use super::vars::{Var, Vars};

/// A part of an expression, shared by all expressions that were made from it.
pub(super) type Tree = Arc<Node>;

/// What an expression is made of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Const(Const),
    /// What ends in an error in every scope.
    Error,
    Var(Var),
    /// `base.name`, also for `base['name']`.
    Select(Tree, Arc<str>),
    /// `has(base.name)`.
    Has(Tree, Arc<str>),
    List(Vec<Tree>),
    Unary(UnaryOp, Tree),
    Binary(BinaryOp, Tree, Tree),
    /// All of one or more; only a condition may represent itself, so one operand is possible.
    All(Vec<Tree>),
    /// Any of one or more.
    Any(Vec<Tree>),
    Conditional(Tree, Tree, Tree),
}

/// A value that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Const {
    Null,
    Bool(bool),
    Number(Number),
    Text(Arc<str>),
    List(Arc<[Const]>),
    /// The text of a JSON object, or of a list that holds more than scalars.
    Json(Arc<str>),
}

/// Operators of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum UnaryOp {
    Not,
    Negate,
    Size,
    /// `string(x)`
    Text,
    /// `int(x)`
    Integer,
}

/// Operators of two operands, both always evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum BinaryOp {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Index,
    StartsWith,
    EndsWith,
    Contains,
}

/// The type of a value, as far as it is known without a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    /// Not known before the value is there.
    Any,
    Null,
    Bool,
    Number,
    Text,
    List,
    Map,
}

impl ValueType {
    /// With its article, for messages.
    pub(super) fn described(self) -> &'static str {
        match self {
            ValueType::Any => "a value",
            ValueType::Null => "null",
            ValueType::Bool => "a boolean",
            ValueType::Number => "a number",
            ValueType::Text => "a text",
            ValueType::List => "a list",
            ValueType::Map => "a map",
        }
    }

    /// Whether a value of this kind may be one of these.
    pub(super) fn may_be(self, kinds: &[ValueType]) -> bool {
        self == ValueType::Any || kinds.contains(&self)
    }
}

impl UnaryOp {
    /// The kind of its result; `None` where it never fits.
    pub(super) fn result(self, operand: ValueType) -> Option<ValueType> {
        let (takes, gives): (&[ValueType], ValueType) = match self {
            UnaryOp::Not => (&[ValueType::Bool], ValueType::Bool),
            UnaryOp::Negate => (&[ValueType::Number], ValueType::Number),
            UnaryOp::Size => (&[ValueType::Text, ValueType::List, ValueType::Map], ValueType::Number),
            UnaryOp::Text => (&[ValueType::Text, ValueType::Number, ValueType::Bool], ValueType::Text),
            UnaryOp::Integer => (&[ValueType::Number, ValueType::Text], ValueType::Number),
        };
        operand.may_be(takes).then_some(gives)
    }

    /// As it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            UnaryOp::Not => "!",
            UnaryOp::Negate => "-",
            UnaryOp::Size => "size",
            UnaryOp::Text => "string",
            UnaryOp::Integer => "int",
        }
    }
}

impl BinaryOp {
    /// The kind of its result; `None` where these two never fit.
    pub(super) fn result(self, a: ValueType, b: ValueType) -> Option<ValueType> {
        use BinaryOp::*;
        match self {
            Equal | NotEqual => Some(ValueType::Bool),
            Less | LessEqual | Greater | GreaterEqual => {
                alike(a, b, &[ValueType::Number, ValueType::Text, ValueType::Bool]).map(|_| ValueType::Bool)
            }
            In => b.may_be(&[ValueType::List, ValueType::Map]).then_some(ValueType::Bool),
            Add => alike(a, b, &[ValueType::Number, ValueType::Text, ValueType::List]),
            Subtract | Multiply | Divide | Remainder => {
                alike(a, b, &[ValueType::Number]).map(|_| ValueType::Number)
            }
            StartsWith | EndsWith | Contains => alike(a, b, &[ValueType::Text]).map(|_| ValueType::Bool),
            Index => {
                let in_list = a.may_be(&[ValueType::List]) && b.may_be(&[ValueType::Number]);
                let in_map = a.may_be(&[ValueType::Map]) && b.may_be(&[ValueType::Text]);
                (in_list || in_map).then_some(ValueType::Any)
            }
        }
    }

    /// As it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            BinaryOp::Equal => "==",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Less => "<",
            BinaryOp::LessEqual => "<=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterEqual => ">=",
            BinaryOp::In => "in",
            BinaryOp::Add => "+",
            BinaryOp::Subtract => "-",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::Remainder => "%",
            BinaryOp::Index => "[]",
            BinaryOp::StartsWith => "startsWith",
            BinaryOp::EndsWith => "endsWith",
            BinaryOp::Contains => "contains",
        }
    }
}

/// The one kind of two operands that have to be of the same, which is one of these.
fn alike(a: ValueType, b: ValueType, kinds: &[ValueType]) -> Option<ValueType> {
    if !a.may_be(kinds) || !b.may_be(kinds) {
        return None;
    }
    match (a, b) {
        (ValueType::Any, kind) | (kind, ValueType::Any) => Some(kind),
        (a, b) => (a == b).then_some(a),
    }
}

impl Const {
    fn kind(&self) -> ValueType {
        match self {
            Const::Null => ValueType::Null,
            Const::Bool(_) => ValueType::Bool,
            Const::Number(_) => ValueType::Number,
            Const::Text(_) => ValueType::Text,
            Const::List(_) => ValueType::List,
            Const::Json(text) if text.starts_with('[') => ValueType::List,
            Const::Json(_) => ValueType::Map,
        }
    }
}

impl Node {
    /// What is known of its type.
    pub(super) fn kind(&self) -> ValueType {
        match self {
            Node::Const(value) => value.kind(),
            Node::Error => ValueType::Any,
            Node::Var(Var::Event | Var::Channel) => ValueType::Text,
            Node::Var(Var::Me | Var::Params) => ValueType::Map,
            Node::Var(Var::Data | Var::From | Var::Tags | Var::Key) => ValueType::Any,
            Node::Select(base, name) => match **base {
                Node::Var(Var::Params) => ValueType::Text,
                Node::Var(Var::Me) if &**name == "player" => ValueType::Text,
                _ => ValueType::Any,
            },
            Node::Has(..) | Node::All(_) | Node::Any(_) => ValueType::Bool,
            Node::List(_) => ValueType::List,
            Node::Unary(op, a) => op.result(a.kind()).unwrap_or(ValueType::Any),
            Node::Binary(op, a, b) => op.result(a.kind(), b.kind()).unwrap_or(ValueType::Any),
            Node::Conditional(_, a, b) => {
                let kind = a.kind();
                if kind == b.kind() { kind } else { ValueType::Any }
            }
        }
    }

    /// The variables that it reads.
    pub(super) fn vars(&self) -> Vars {
        let of_all = |parts: &[Tree]| parts.iter().fold(Vars::NONE, |vars, part| vars | part.vars());
        match self {
            Node::Const(_) | Node::Error => Vars::NONE,
            Node::Var(var) => Vars::from(*var),
            Node::Select(a, _) | Node::Has(a, _) | Node::Unary(_, a) => a.vars(),
            Node::Binary(_, a, b) => a.vars() | b.vars(),
            Node::List(parts) | Node::All(parts) | Node::Any(parts) => of_all(parts),
            Node::Conditional(a, b, c) => a.vars() | b.vars() | c.vars(),
        }
    }
}
