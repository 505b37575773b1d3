//! Numbers: integers and doubles that compare by value, exactly, and what is reckoned with them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::node::BinaryOp;
use super::value::Failed;

/// A number. Equality and hash are those of its form (`1` is not `1.0`); [`Number::compare`] goes by value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Int(i64),
    /// Only what is more than `i64` holds.
    Uint(u64),
    Double(f64),
}

impl Number {
    /// Of an unsigned integer.
    pub(super) fn of_unsigned(value: u64) -> Self {
        i64::try_from(value).map_or(Number::Uint(value), Number::Int)
    }

    /// Of a JSON number: integer text that fits is an integer, everything else a double.
    pub(super) fn of_json(text: &str) -> Option<Self> {
        if let Ok(int) = text.parse() {
            return Some(Number::Int(int));
        }
        match text.parse() {
            Ok(uint) => Some(Number::Uint(uint)),
            Err(_) => text.parse().ok().map(Number::Double),
        }
    }

    /// Of decimal digits behind an optional sign, as `int('42')` reads them; `None` for any other text, and where the
    /// value fits neither `i64` nor `u64`.
    pub(super) fn of_digits(text: &str) -> Option<Self> {
        text.parse().map(Number::Int).or_else(|_| text.parse().map(Number::Uint)).ok()
    }

    /// The integer towards zero; `None` where it fits neither `i64` nor `u64`, and for NaN.
    pub(super) fn truncate(self) -> Option<Self> {
        match self {
            Number::Int(_) | Number::Uint(_) => Some(self),
            Number::Double(double) => match Number::Double(double.trunc()).canonical()? {
                Number::Double(_) => None,
                integer => Some(integer),
            },
        }
    }

    /// By value; `None` with NaN.
    pub(super) fn compare(self, other: Number) -> Option<Ordering> {
        match (self.as_integer(), other.as_integer()) {
            (Ok(a), Ok(b)) => Some(a.cmp(&b)),
            (Ok(a), Err(b)) => compare_exactly(a, b),
            (Err(a), Ok(b)) => compare_exactly(b, a).map(Ordering::reverse),
            (Err(a), Err(b)) => a.partial_cmp(&b),
        }
    }

    /// The one form that all numbers of this value share, so that equal values are equal forms; `None` for NaN, which
    /// equals nothing.
    pub(super) fn canonical(self) -> Option<Self> {
        let integer = match self.as_integer() {
            Ok(integer) => integer,
            Err(double) if double.is_nan() => return None,
            Err(double) if double.fract() != 0.0 => return Some(self),
            // The cast saturates, and what it saturates at is no integer of ours.
            Err(double) => double as i128,
        };
        let signed = i64::try_from(integer).map(Number::Int);
        Some(signed.or_else(|_| u64::try_from(integer).map(Number::Uint)).unwrap_or(self))
    }

    /// As the place of an element: a whole number from 0.
    pub(super) fn as_place(self) -> Option<usize> {
        match self {
            Number::Int(place) => usize::try_from(place).ok(),
            Number::Uint(place) => usize::try_from(place).ok(),
            // Places of lists that fit into memory are far below 2^53, so nothing is lost here.
            Number::Double(place) if place >= 0.0 && place.fract() == 0.0 && place < 9e15 => {
                Some(place as usize)
            }
            Number::Double(_) => None,
        }
    }

    /// The other sign.
    pub(super) fn negate(self) -> Result<Self, Failed> {
        match self.as_integer() {
            Ok(int) => integer(Some(-int)),
            Err(double) => Ok(Number::Double(-double)),
        }
    }

    /// `+ - * / %`. Integers stay integers and fail on overflow and on division by zero; with a double on either
    /// side the result is a double. `%` is for integers only.
    pub(super) fn reckon(self, op: BinaryOp, other: Number) -> Result<Self, Failed> {
        if let (Ok(a), Ok(b)) = (self.as_integer(), other.as_integer()) {
            return integer(match op {
                BinaryOp::Add => a.checked_add(b),
                BinaryOp::Subtract => a.checked_sub(b),
                BinaryOp::Multiply => a.checked_mul(b),
                BinaryOp::Divide => a.checked_div(b),
                // As in CEL, it fails where the division would: for the least integer and -1.
                BinaryOp::Remainder if b == -1 => integer(a.checked_neg()).map(|_| 0).ok(),
                BinaryOp::Remainder => a.checked_rem(b),
                _ => None,
            });
        }
        let (a, b) = (self.as_double(), other.as_double());
        match op {
            BinaryOp::Add => Ok(Number::Double(a + b)),
            BinaryOp::Subtract => Ok(Number::Double(a - b)),
            BinaryOp::Multiply => Ok(Number::Double(a * b)),
            BinaryOp::Divide => Ok(Number::Double(a / b)),
            _ => Err(Failed),
        }
    }

    fn as_integer(self) -> Result<i128, f64> {
        match self {
            Number::Int(int) => Ok(i128::from(int)),
            Number::Uint(uint) => Ok(i128::from(uint)),
            Number::Double(double) => Err(double),
        }
    }

    /// The nearest double. Never changes which of two numbers is the greater, though it may make them equal.
    pub(super) fn as_double(self) -> f64 {
        match self {
            Number::Int(int) => int as f64,
            Number::Uint(uint) => uint as f64,
            Number::Double(double) => double,
        }
    }

    /// What makes two of them the same in form; all NaN are one.
    fn form(self) -> (u8, u64) {
        match self {
            Number::Int(int) => (0, int.cast_unsigned()),
            Number::Uint(uint) => (1, uint),
            Number::Double(double) if double.is_nan() => (2, f64::NAN.to_bits()),
            Number::Double(double) => (2, double.to_bits()),
        }
    }
}

/// The decimal text: an integer's digits, and for a double the shortest digits that read as the same double, without
/// an exponent (`1.0` is `1`).
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(int) => int.fmt(f),
            Number::Uint(uint) => uint.fmt(f),
            Number::Double(double) => double.fmt(f),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.form() == other.form()
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.form().hash(state);
    }
}

/// A reckoned integer, which has to fit `i64` as in CEL.
fn integer(value: Option<i128>) -> Result<Number, Failed> {
    value.and_then(|value| i64::try_from(value).ok()).map(Number::Int).ok_or(Failed)
}

/// Compares without rounding the integer, as every double between `i128`'s ends has an exact whole part there.
fn compare_exactly(int: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    let whole = double.trunc();
    // The cast saturates beyond `i128`, where no integer of ours is.
    Some(int.cmp(&(whole as i128)).then_with(|| whole.total_cmp(&double)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_exactly() {
        let of = |text| Number::of_json(text).unwrap();
        for (a, b, order) in [
            ("1", "1.0", Ordering::Equal),
            ("0", "-0.0", Ordering::Equal),
            ("-0", "0.0", Ordering::Equal),
            ("1", "1.5", Ordering::Less),
            ("-1", "-1.5", Ordering::Greater),
            ("9007199254740993", "9007199254740992.0", Ordering::Greater),
            ("9223372036854775807", "9223372036854775808", Ordering::Less),
            ("18446744073709551615", "18446744073709551616", Ordering::Less),
            ("18446744073709551615", "1e300", Ordering::Less),
            ("-9223372036854775808", "-1e300", Ordering::Greater),
        ] {
            assert_eq!(of(a).compare(of(b)), Some(order), "{a} {b}");
            assert_eq!(of(b).compare(of(a)), Some(order.reverse()), "{b} {a}");
        }
        assert_eq!(Number::Int(1).compare(Number::Double(f64::NAN)), None);
    }
}
