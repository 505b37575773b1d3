//! Paths: fields of an event that many expressions mention, so that each is looked up once an event, and the
//! scalars that are found there, as keys of tables. Which expressions test a path for what is left to `shape`.

use std::borrow::Cow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::Equivalent;

use super::display;
use super::eval;
use super::node::{Const, Node, Tree};
use super::number::Number;
use super::value::Value;
use super::vars::{Scope, Var};

/// A variable of an event, or a field of one however deep.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Path(Tree);

/// A scalar that a path is compared with. Numbers of equal value are equal keys, in whatever form they are written.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key(Scalar<Arc<str>>);

/// The scalar that a path leads to in one event. It is looked up among [`Key`]s as it is.
#[derive(Debug, Hash)]
pub(crate) struct Found<'a>(Scalar<Cow<'a, str>>);

/// The hash does not depend on how the text is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scalar<T> {
    Null,
    Bool(bool),
    /// In canonical form.
    Number(Number),
    Text(T),
}

impl Path {
    /// The path that this tree is; `None` where it is something else.
    pub(super) fn of(tree: &Tree) -> Option<Path> {
        let mut base = tree;
        while let Node::Select(below, _) = &**base {
            base = below;
        }
        let of_event = matches!(
            **base,
            Node::Var(Var::Event | Var::Data | Var::From | Var::Tags | Var::Key | Var::Channel)
        );
        of_event.then(|| Path(tree.clone()))
    }

    /// What it leads to; `None` where that is missing, no scalar, or an error.
    pub(crate) fn find<'a>(&'a self, scope: &'a dyn Scope) -> Option<Found<'a>> {
        Some(Found(match eval::evaluate(&self.0, scope).ok()? {
            Value::Null => Scalar::Null,
            Value::Bool(value) => Scalar::Bool(value),
            Value::Number(number) => Scalar::Number(number.canonical()?),
            Value::Text(text) => Scalar::Text(text),
            Value::List(_) | Value::Map(_) => return None,
        }))
    }

    /// About how much following it costs.
    pub(crate) fn work(&self) -> usize {
        self.0.work()
    }

    /// Whether it has few values: names of events and channels, which nearly every filter of a game may name.
    pub(super) fn is_common(&self) -> bool {
        matches!(*self.0, Node::Var(Var::Event | Var::Channel))
    }
}

impl Key {
    pub(super) fn of_bool(value: bool) -> Key {
        Key(Scalar::Bool(value))
    }

    /// The keys that stand for being equal to one of these, none of them for NaN; `None` where one is not a scalar.
    pub(super) fn of_all(values: &[Const]) -> Option<Vec<Key>> {
        let mut keys = Vec::with_capacity(values.len());
        for value in values {
            keys.push(Key(match value {
                Const::Null => Scalar::Null,
                Const::Bool(value) => Scalar::Bool(*value),
                Const::Text(text) => Scalar::Text(text.clone()),
                Const::Number(number) => match number.canonical() {
                    Some(number) => Scalar::Number(number),
                    None => continue,
                },
                Const::List(_) | Const::Json(_) => return None,
            }));
        }
        Some(keys)
    }

    /// Whether it is one of the three that say little.
    pub(super) fn is_common(&self) -> bool {
        matches!(self.0, Scalar::Null | Scalar::Bool(_))
    }
}

impl Found<'_> {
    /// Where it is a number, the nearest double. Rounding keeps the order, so a number within bounds is within the
    /// bounds' nearest doubles too.
    pub(crate) fn number(&self) -> Option<f64> {
        match self.0 {
            Scalar::Number(number) => Some(number.as_double()),
            _ => None,
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display::write(&self.0, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Equivalent<Key> for Found<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        match (&self.0, &key.0) {
            (Scalar::Null, Scalar::Null) => true,
            (Scalar::Bool(a), Scalar::Bool(b)) => a == b,
            (Scalar::Number(a), Scalar::Number(b)) => a == b,
            (Scalar::Text(a), Scalar::Text(b)) => **a == **b,
            _ => false,
        }
    }
}
