//! The values of an evaluation: borrowed from the scope or from the expression wherever nothing new was made.
//! This file owns equality, order, membership and size; walking the tree is left to `eval`.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use drawbridge_protocol::json::{self, Str};

use super::node::Const;
use super::number::Number;
use super::vars::Binding;

/// An evaluation that ended in an error. It carries no reason, because only the expression's author could act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// What an evaluation may still cost.
pub(super) struct Work(Cell<usize>);

impl Work {
    /// One unit is a node evaluated or a byte looked at.
    pub(super) fn of(units: usize) -> Self {
        Work(Cell::new(units))
    }

    /// Once something was too much, everything is.
    pub(super) fn spend(&self, units: usize) -> Result<(), Failed> {
        let left = self.0.get().checked_sub(units);
        self.0.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or(Failed)
    }
}

/// What one more comparison or table entry costs beside the bytes it looks at.
const STEP: usize = 8;
const ENTRY: usize = 64;

/// How deep equality follows lists and maps; payloads are 64 deep at most.
const MAX_EQUAL_DEPTH: usize = 96;

/// A value.
#[derive(Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(List<'a>),
    Map(Map<'a>),
}

/// A list.
#[derive(Clone)]
pub(super) enum List<'a> {
    Json(&'a str),
    Const(&'a [Const]),
    Made(Rc<[Value<'a>]>),
}

/// A map from texts.
#[derive(Clone, Copy)]
pub(super) enum Map<'a> {
    Json(&'a str),
    Me { player: &'a str, claims: &'a str },
    Params(&'a [(&'a str, &'a str)]),
}

impl<'a> Value<'a> {
    /// Of a variable; `None` where it is missing.
    pub(super) fn of_binding(binding: Binding<'a>, work: &Work) -> Result<Option<Self>, Failed> {
        Ok(Some(match binding {
            Binding::Missing => return Ok(None),
            Binding::Null => Value::Null,
            Binding::Text(text) => Value::Text(Cow::Borrowed(text)),
            Binding::Json(text) => {
                work.spend(cost_to_open(text))?;
                Value::of_json(text)?
            }
            Binding::Me { player, claims } => Value::Map(Map::Me { player, claims: trimmed(claims) }),
            Binding::Params(params) => Value::Map(Map::Params(params)),
        }))
    }

    /// Of a known value.
    pub(super) fn of_const(value: &'a Const) -> Result<Self, Failed> {
        Ok(match value {
            Const::Null => Value::Null,
            Const::Bool(value) => Value::Bool(*value),
            Const::Number(number) => Value::Number(*number),
            Const::Text(text) => Value::Text(Cow::Borrowed(text)),
            Const::List(items) => Value::List(List::Const(items)),
            Const::Json(text) => Value::of_json(text)?,
        })
    }

    /// Of the text of a JSON value.
    pub(super) fn of_json(text: &'a str) -> Result<Self, Failed> {
        let text = trimmed(text);
        Ok(match text.as_bytes().first() {
            Some(b'"') => Value::Text(Str::quoted(text).decode()),
            Some(b'{') => Value::Map(Map::Json(text)),
            Some(b'[') => Value::List(List::Json(text)),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') => Value::Null,
            _ => Value::Number(Number::of_json(text).ok_or(Failed)?),
        })
    }

    fn cost_to_copy(&self) -> usize {
        match self {
            Value::Text(Cow::Owned(text)) => text.len(),
            _ => STEP,
        }
    }

    /// Whether both are the same: by value for numbers, deep for lists and maps, false across types.
    pub(super) fn equals(&self, other: &Value<'_>, work: &Work) -> Result<bool, Failed> {
        self.equals_within(other, work, MAX_EQUAL_DEPTH)
    }

    fn equals_within(&self, other: &Value<'_>, work: &Work, depth: usize) -> Result<bool, Failed> {
        work.spend(STEP)?;
        let deeper = depth.checked_sub(1).ok_or(Failed)?;
        match (self, other) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
            (Value::Number(a), Value::Number(b)) => Ok(a.compare(*b) == Some(Ordering::Equal)),
            (Value::Text(a), Value::Text(b)) => {
                work.spend(if a.len() == b.len() { a.len() } else { 0 })?;
                Ok(a == b)
            }
            (Value::List(a), Value::List(b)) => a.equals(b, work, deeper),
            (Value::Map(a), Value::Map(b)) => a.equals(b, work, deeper),
            _ => Ok(false),
        }
    }

    /// Which comes first; NaN has no order.
    pub(super) fn compare(&self, other: &Value<'_>, work: &Work) -> Result<Ordering, Failed> {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => a.compare(*b).ok_or(Failed),
            (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => {
                work.spend(a.len().min(b.len()))?;
                Ok(a.cmp(b))
            }
            _ => Err(Failed),
        }
    }

    /// Whether this is an element of the list or a key of the map.
    pub(super) fn is_in(&self, container: &Value<'_>, work: &Work) -> Result<bool, Failed> {
        match (container, self) {
            (Value::List(list), _) => list.contains(self, work),
            (Value::Map(map), Value::Text(key)) => Ok(map.get(key, work)?.is_some()),
            (Value::Map(_), _) => Ok(false),
            _ => Err(Failed),
        }
    }

    /// Characters of a text, elements of a list, distinct keys of a map.
    pub(super) fn size(&self, work: &Work) -> Result<usize, Failed> {
        match self {
            Value::Text(text) => {
                work.spend(text.len())?;
                Ok(text.chars().count())
            }
            Value::List(list) => list.len(work),
            Value::Map(map) => Ok(map.entries(work)?.len()),
            _ => Err(Failed),
        }
    }

    /// `string(x)`: a text as it is, a number as its decimal text, a boolean as its name.
    pub(super) fn into_text(self, work: &Work) -> Result<Cow<'a, str>, Failed> {
        let text = match self {
            Value::Text(text) => return Ok(text),
            Value::Bool(value) => return Ok(Cow::Borrowed(if value { "true" } else { "false" })),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::List(_) | Value::Map(_) => return Err(Failed),
        };
        work.spend(text.len())?;
        Ok(Cow::Owned(text))
    }

    /// `int(x)`: a number without its fraction, or the integer that a text is the decimal digits of.
    pub(super) fn as_integer(&self, work: &Work) -> Result<Number, Failed> {
        match self {
            Value::Number(number) => number.truncate().ok_or(Failed),
            Value::Text(text) => {
                work.spend(text.len())?;
                Number::of_digits(text).ok_or(Failed)
            }
            _ => Err(Failed),
        }
    }

    /// The member of a map or the element of a list.
    pub(super) fn index(self, index: &Value<'_>, work: &Work) -> Result<Value<'a>, Failed> {
        match (self, index) {
            (Value::List(list), Value::Number(place)) => {
                list.get(place.as_place().ok_or(Failed)?, work)?.ok_or(Failed)
            }
            (Value::Map(map), Value::Text(key)) => map.get(key, work)?.ok_or(Failed),
            _ => Err(Failed),
        }
    }
}

/// Lists and maps are paid for when something is looked for in them, all other text at once.
fn cost_to_open(text: &str) -> usize {
    let inner = trimmed(text);
    match inner.as_bytes().first() {
        Some(b'{' | b'[') => text.len() - inner.len(),
        _ => text.len(),
    }
}

/// Without the white space around it. Mostly there is none, and that is seen at a glance.
fn trimmed(text: &str) -> &str {
    match (text.as_bytes().first(), text.as_bytes().last()) {
        (Some(b'!'..=b'~'), Some(b'!'..=b'~')) => text,
        _ => text.trim(),
    }
}

impl<'a> List<'a> {
    /// The elements. Reading all of a JSON list costs its length, whichever of them are wanted.
    pub(super) fn iter(&self, work: &Work) -> Result<Elements<'_, 'a>, Failed> {
        Ok(match self {
            List::Json(text) => {
                work.spend(text.len())?;
                Elements::Json(json::elements(text))
            }
            List::Const(items) => Elements::Const(items.iter()),
            List::Made(values) => {
                work.spend(values.iter().map(Value::cost_to_copy).sum())?;
                Elements::Made(values.iter())
            }
        })
    }

    fn len(&self, work: &Work) -> Result<usize, Failed> {
        match self {
            List::Json(_) => Ok(self.iter(work)?.count()),
            List::Const(items) => Ok(items.len()),
            List::Made(values) => Ok(values.len()),
        }
    }

    fn get(&self, place: usize, work: &Work) -> Result<Option<Value<'a>>, Failed> {
        self.iter(work)?.nth(place).transpose()
    }

    fn contains(&self, value: &Value<'_>, work: &Work) -> Result<bool, Failed> {
        for element in self.iter(work)? {
            if element?.equals(value, work)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn equals(&self, other: &List<'_>, work: &Work, depth: usize) -> Result<bool, Failed> {
        if self.len(work)? != other.len(work)? {
            return Ok(false);
        }
        for (a, b) in self.iter(work)?.zip(other.iter(work)?) {
            if !a?.equals_within(&b?, work, depth)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The elements of a list, each an error if its text is not a value.
pub(super) enum Elements<'l, 'a> {
    Json(json::Elements<'a>),
    Const(std::slice::Iter<'a, Const>),
    Made(std::slice::Iter<'l, Value<'a>>),
}

impl<'a> Iterator for Elements<'_, 'a> {
    type Item = Result<Value<'a>, Failed>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Elements::Json(texts) => texts.next().map(Value::of_json),
            Elements::Const(items) => items.next().map(Value::of_const),
            Elements::Made(values) => values.next().cloned().map(Ok),
        }
    }
}

impl<'a> Map<'a> {
    /// The value of a key.
    pub(super) fn get(self, key: &str, work: &Work) -> Result<Option<Value<'a>>, Failed> {
        match self {
            Map::Json(text) => {
                work.spend(text.len())?;
                json::member(text, key).map(Value::of_json).transpose()
            }
            Map::Me { player, .. } if key == "player" => Ok(Some(Value::Text(Cow::Borrowed(player)))),
            Map::Me { claims, .. } => Map::Json(claims).get(key, work),
            Map::Params(params) => {
                let found = params.iter().find(|(name, _)| *name == key);
                Ok(found.map(|(_, value)| Value::Text(Cow::Borrowed(value))))
            }
        }
    }

    /// Its distinct keys with their values.
    pub(super) fn entries(self, work: &Work) -> Result<BTreeMap<Cow<'a, str>, Value<'a>>, Failed> {
        match self {
            Map::Json(text) => {
                work.spend(text.len())?;
                let entry = |(name, value): (Str<'a>, &'a str)| {
                    work.spend(ENTRY)?;
                    Ok((name.decode(), Value::of_json(value)?))
                };
                json::members(text).map(entry).collect()
            }
            Map::Me { player, claims } => {
                let mut entries = Map::Json(claims).entries(work)?;
                entries.insert(Cow::Borrowed("player"), Value::Text(Cow::Borrowed(player)));
                Ok(entries)
            }
            Map::Params(params) => {
                let entry = |(name, value): &(&'a str, &'a str)| {
                    (Cow::Borrowed(*name), Value::Text(Cow::Borrowed(*value)))
                };
                Ok(params.iter().map(entry).collect())
            }
        }
    }

    fn equals(self, other: &Map<'_>, work: &Work, depth: usize) -> Result<bool, Failed> {
        let (a, b) = (self.entries(work)?, other.entries(work)?);
        if a.len() != b.len() {
            return Ok(false);
        }
        for ((a_key, a_value), (b_key, b_value)) in a.iter().zip(&b) {
            if a_key != b_key || !a_value.equals_within(b_value, work, depth)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
