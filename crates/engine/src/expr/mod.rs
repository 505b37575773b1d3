//! The expression language of filters, views and rules: a typed subset of CEL, compiled once and evaluated without
//! allocation in the usual case. `docs/expressions.md` is its grammar and its meaning.
//! This module owns the language; its callers decide who may evaluate what.

mod build;
mod display;
mod error;
mod estimate;
mod eval;
mod lex;
mod misfit;
mod node;
mod number;
mod parse;
mod path;
mod shape;
mod suggest;
mod trace;
mod value;
mod vars;

use std::fmt;

pub use error::CompileError;
pub use trace::{Outcome, PathValue, Trace};
pub use vars::{Binding, Scope, Var, Vars};

pub(crate) use path::{Key, Path};
pub(crate) use shape::{Interval, Shape, Test, shapes};

use node::{Const, Node, Tree};
use value::Value;

/// The longest source of a rule, in bytes.
pub const MAX_RULE_BYTES: usize = 4096;
/// The longest source of a client's filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 1024;

/// A compiled expression: cheap to clone, and equal to every other that was simplified to the same.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Expr(Tree);

/// What to do about an expression over its bounds.
const SHORTER: &str =
    "`x in [a, b]` does the work of many `==`; what many ask for may be a field of the event";

/// Compiles a rule of at most [`MAX_RULE_BYTES`] that may refer to the `allowed` variables.
///
/// # Errors
/// Where the text is not an expression of the language, refers to other variables, cannot be a boolean, or is over
/// a bound.
pub fn compile(source: &str, allowed: Vars) -> Result<Expr, CompileError> {
    compile_within(MAX_RULE_BYTES, source, allowed, None)
}

/// As [`compile`], where the names of all `params` are known: those of the placeholders of a class's name.
///
/// # Errors
/// As [`compile`], and where the rule refers to a parameter by another name.
pub fn compile_for_class(source: &str, allowed: Vars, params: &[&str]) -> Result<Expr, CompileError> {
    compile_within(MAX_RULE_BYTES, source, allowed, Some(params))
}

/// Compiles a client's filter of at most [`MAX_FILTER_BYTES`], over [`Vars::FILTER`].
///
/// # Errors
/// As [`compile`].
pub fn compile_filter(source: &str) -> Result<Expr, CompileError> {
    compile_within(MAX_FILTER_BYTES, source, Vars::FILTER, None)
}

fn compile_within(
    bytes: usize,
    source: &str,
    allowed: Vars,
    params: Option<&[&str]>,
) -> Result<Expr, CompileError> {
    if source.len() > bytes {
        let position = (0..=bytes).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
        return Err(CompileError::new(position, format!("longer than {bytes} bytes")).hint(SHORTER));
    }
    Ok(Expr(build::answer(&parse::parse(source, allowed, params)?)))
}

impl Expr {
    /// The expression that is never true.
    pub fn never() -> Expr {
        Expr(Node::Const(Const::Bool(false)).into())
    }

    /// True where both are: what the two say of every scope is unchanged by the way they are put together.
    pub fn and(&self, other: &Expr) -> Expr {
        Expr(build::answer(&Node::All(vec![self.0.clone(), other.0.clone()]).into()))
    }

    /// Whether it is true of this scope. An expression that ends in an error or in something other than a boolean
    /// does not match.
    pub fn matches(&self, scope: &impl Scope) -> bool {
        matches!(eval::evaluate(&self.0, scope), Ok(Value::Bool(true)))
    }

    /// Why it may have been false or an error in this scope without being meant to: the first comparison of a text with a
    /// number, for a person. Names parts of the expression, never values.
    pub fn misfit(&self, scope: &impl Scope) -> Option<String> {
        misfit::find(&self.0, scope)
    }

    /// How it comes to its result in this scope: its conditions, and what its paths lead to. For a person.
    pub fn trace(&self, scope: &impl Scope) -> Trace {
        trace::trace(&self.0, scope)
    }

    /// The same expression with these variables' present values folded in, so that it no longer reads them from a scope.
    /// A value that is missing is folded in as missing.
    pub fn bind(&self, scope: &impl Scope, vars: Vars) -> Expr {
        Expr(build::answer(&build::bind(&self.0, scope, vars)))
    }

    /// The answer, where it is the same for every scope; one that always ends in an error is `Some(false)`.
    pub fn as_constant(&self) -> Option<bool> {
        match *self.0 {
            Node::Const(Const::Bool(value)) => Some(value),
            _ => None,
        }
    }

    /// About how much one evaluation costs, in the units of `docs/filters.md`.
    pub(crate) fn work(&self) -> usize {
        self.0.work()
    }

    /// The variables that it still reads from a scope.
    pub fn vars(&self) -> Vars {
        self.0.vars()
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display::write(&self.0, f)
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({self})")
    }
}
