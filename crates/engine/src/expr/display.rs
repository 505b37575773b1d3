//! Writes a tree as the shortest source that makes it again, in one way of writing.

use std::fmt::{self, Formatter, Write};

use super::node::{BinaryOp, Const, Node, Tree, UnaryOp};
use super::number::Number;

/// How tightly a part holds together; those that bind less need brackets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binds {
    Conditional,
    Either,
    Both,
    Relation,
    Sum,
    Product,
    Prefix,
    Suffix,
}

/// Writes the whole tree.
pub(super) fn write(node: &Node, f: &mut Formatter<'_>) -> fmt::Result {
    write_node(node, Binds::Conditional, f)
}

/// Writes a part of something that takes what binds as tightly as this.
fn write_node(node: &Node, least: Binds, f: &mut Formatter<'_>) -> fmt::Result {
    if binds(node) >= least {
        return write_bare(node, f);
    }
    f.write_char('(')?;
    write_bare(node, f)?;
    f.write_char(')')
}

fn write_bare(node: &Node, f: &mut Formatter<'_>) -> fmt::Result {
    match node {
        Node::Const(value) => write_const(value, f),
        // The shortest that always fails and may be of any type.
        Node::Error => f.write_str("[][0]"),
        Node::Var(var) => f.write_str(var.name()),
        Node::Select(base, name) => write_select(base, name, f),
        Node::Has(base, name) => {
            f.write_str("has(")?;
            write_select(base, name, f)?;
            f.write_char(')')
        }
        Node::List(parts) => {
            f.write_char('[')?;
            write_joined(parts, ", ", Binds::Conditional, f)?;
            f.write_char(']')
        }
        Node::Unary(op @ (UnaryOp::Size | UnaryOp::Text | UnaryOp::Integer), operand) => {
            write!(f, "{}(", op.name())?;
            write(operand, f)?;
            f.write_char(')')
        }
        Node::Unary(op, operand) => {
            f.write_str(op.name())?;
            write_node(operand, Binds::Prefix, f)
        }
        Node::Binary(op, a, b) => write_binary(*op, a, b, f),
        Node::All(parts) => write_logic(parts, "true", " && ", Binds::Relation, f),
        Node::Any(parts) => write_logic(parts, "false", " || ", Binds::Both, f),
        Node::Conditional(test, then, otherwise) => {
            write_node(test, Binds::Either, f)?;
            f.write_str(" ? ")?;
            write_node(then, Binds::Either, f)?;
            f.write_str(" : ")?;
            write(otherwise, f)
        }
    }
}

fn write_binary(op: BinaryOp, a: &Node, b: &Node, f: &mut Formatter<'_>) -> fmt::Result {
    match op {
        BinaryOp::Index => {
            write_node(a, Binds::Suffix, f)?;
            f.write_char('[')?;
            write(b, f)?;
            f.write_char(']')
        }
        BinaryOp::StartsWith | BinaryOp::EndsWith | BinaryOp::Contains => {
            write_node(a, Binds::Suffix, f)?;
            write!(f, ".{}(", op.name())?;
            write(b, f)?;
            f.write_char(')')
        }
        _ => {
            let (own, right) = match tightness(op) {
                Binds::Relation => (Binds::Relation, Binds::Sum),
                Binds::Sum => (Binds::Sum, Binds::Product),
                _ => (Binds::Product, Binds::Prefix),
            };
            write_node(a, own, f)?;
            write!(f, " {} ", op.name())?;
            write_node(b, right, f)
        }
    }
}

fn write_logic(
    parts: &[Tree],
    neutral: &str,
    sign: &str,
    least: Binds,
    f: &mut Formatter<'_>,
) -> fmt::Result {
    if let [only] = parts {
        write!(f, "{neutral}{sign}")?;
        return write_node(only, least, f);
    }
    write_joined(parts, sign, least, f)
}

fn write_joined(parts: &[Tree], between: &str, least: Binds, f: &mut Formatter<'_>) -> fmt::Result {
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            f.write_str(between)?;
        }
        write_node(part, least, f)?;
    }
    Ok(())
}

fn write_select(base: &Node, name: &str, f: &mut Formatter<'_>) -> fmt::Result {
    write_node(base, Binds::Suffix, f)?;
    if is_field_name(name) {
        return write!(f, ".{name}");
    }
    f.write_char('[')?;
    write_text(name, f)?;
    f.write_char(']')
}

fn is_field_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(word)
        && !matches!(name, "in" | "true" | "false" | "null")
}

fn write_const(value: &Const, f: &mut Formatter<'_>) -> fmt::Result {
    match value {
        Const::Null => f.write_str("null"),
        Const::Bool(value) => write!(f, "{value}"),
        Const::Number(Number::Int(value)) => write!(f, "{value}"),
        Const::Number(Number::Uint(value)) => write!(f, "{value}"),
        Const::Number(Number::Double(value)) => write_double(*value, f),
        Const::Text(text) => write_text(text, f),
        Const::List(items) => {
            f.write_char('[')?;
            for (place, item) in items.iter().enumerate() {
                f.write_str(if place > 0 { ", " } else { "" })?;
                write_const(item, f)?;
            }
            f.write_char(']')
        }
        Const::Json(text) => f.write_str(text),
    }
}

fn write_double(value: f64, f: &mut Formatter<'_>) -> fmt::Result {
    match value {
        _ if value.is_nan() => f.write_str("0.0 / 0.0"),
        f64::INFINITY => f.write_str("1.0 / 0.0"),
        f64::NEG_INFINITY => f.write_str("-1.0 / 0.0"),
        _ => write!(f, "{value:?}"),
    }
}

fn write_text(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_char('\'')?;
    for c in text.chars() {
        match c {
            '\'' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            _ if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            _ => f.write_char(c)?,
        }
    }
    f.write_char('\'')
}

fn binds(node: &Node) -> Binds {
    match node {
        Node::Conditional(..) => Binds::Conditional,
        Node::Any(_) => Binds::Either,
        Node::All(_) => Binds::Both,
        Node::Binary(op, ..) => tightness(*op),
        Node::Unary(UnaryOp::Not | UnaryOp::Negate, _) => Binds::Prefix,
        Node::Const(Const::Number(number)) => number_binds(*number),
        _ => Binds::Suffix,
    }
}

fn number_binds(number: Number) -> Binds {
    match number {
        Number::Double(value) if !value.is_finite() => Binds::Product,
        Number::Double(value) if value.is_sign_negative() => Binds::Prefix,
        Number::Int(value) if value < 0 => Binds::Prefix,
        _ => Binds::Suffix,
    }
}

fn tightness(op: BinaryOp) -> Binds {
    use BinaryOp::*;
    match op {
        Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual | In => Binds::Relation,
        Add | Subtract => Binds::Sum,
        Multiply | Divide | Remainder => Binds::Product,
        Index | StartsWith | EndsWith | Contains => Binds::Suffix,
    }
}
