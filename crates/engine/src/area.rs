//! Areas of interest (contract §5): parsing, and whether a position is inside. Which entities are where is
//! left to [`crate::grid`], what an area may follow to the class.

use std::sync::Arc;

use drawbridge_protocol::json::{Reader, decimal_text};
use serde_json::{Map, Value};

use crate::key::MAX_KEY_BYTES;

/// A place in the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Up or down, as the game has it.
    pub y: f64,
}

impl Point {
    /// How far away another place is. Does not overflow where the coordinates are finite but huge.
    pub fn distance(self, other: Point) -> f64 {
        (self.x - other.x).hypot(self.y - other.y)
    }

    /// Whether another point is at most this far away; as [`Point::distance`], mostly without its square root.
    pub fn is_within(self, other: Point, reach: f64) -> bool {
        // More than what rounding makes of a sum of squares; and where squares lose no digits.
        const MARGIN: f64 = 1e-12;
        const LEAST: f64 = 1e-280;
        let (x, y) = (self.x - other.x, self.y - other.y);
        let (distance, bound) = (x * x + y * y, reach * reach);
        match () {
            () if bound > LEAST && distance < bound * (1.0 - MARGIN) => true,
            () if bound > LEAST && distance > bound * (1.0 + MARGIN) => false,
            () => self.distance(other) <= reach,
        }
    }
}

/// A rectangle along the axes; `min` is at most `max`. Its edges belong to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// The corner with the smallest coordinates.
    pub min: Point,
    /// The corner with the largest.
    pub max: Point,
}

impl Rect {
    /// Whether a place is inside or on the edge.
    pub fn contains(&self, at: Point) -> bool {
        self.min.x <= at.x && at.x <= self.max.x && self.min.y <= at.y && at.y <= self.max.y
    }

    /// Larger by so much on every side.
    pub fn grown(&self, by: f64) -> Rect {
        Rect {
            min: Point { x: self.min.x - by, y: self.min.y - by },
            max: Point { x: self.max.x + by, y: self.max.y + by },
        }
    }

    /// The middle.
    pub fn center(&self) -> Point {
        // Halved before they are added: their sum may be infinite.
        Point { x: self.min.x / 2.0 + self.max.x / 2.0, y: self.min.y / 2.0 + self.max.y / 2.0 }
    }

    /// Half of the longer side.
    pub fn reach(&self) -> f64 {
        (self.max.x / 2.0 - self.min.x / 2.0).max(self.max.y / 2.0 - self.min.y / 2.0)
    }
}

/// Where an area is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Around a place.
    Circle {
        /// The place.
        center: Point,
        /// How far it reaches; not negative.
        radius: f64,
    },
    /// A box.
    Box(Rect),
}

impl Shape {
    /// Whether an entity there comes into the area.
    pub fn enters(&self, at: Point) -> bool {
        self.stays(at, 0.0)
    }

    /// Whether an entity of the area that is there now stays in it. Whoever enters would stay.
    pub fn stays(&self, at: Point, hysteresis: f64) -> bool {
        match self {
            Shape::Circle { center, radius } => center.is_within(at, radius + hysteresis),
            Shape::Box(rect) => rect.grown(hysteresis).contains(at),
        }
    }

    /// How far a place is from the middle.
    pub fn distance(&self, at: Point) -> f64 {
        match self {
            Shape::Circle { center, .. } => center.distance(at),
            Shape::Box(rect) => rect.center().distance(at),
        }
    }

    /// A rectangle that holds all places that enter, and hardly more.
    pub fn bounds(&self) -> Rect {
        match self {
            Shape::Circle { center, radius } => {
                // A little more, so that rounding excludes nothing that is just inside.
                let size = center.x.abs().max(center.y.abs()) + radius;
                Rect { min: *center, max: *center }.grown(radius + 4.0 * f64::EPSILON * size)
            }
            Shape::Box(rect) => *rect,
        }
    }
}

/// What a client is interested in.
#[derive(Clone, Debug, PartialEq)]
pub enum Area {
    /// What is there.
    Fixed(Shape),
    /// What is around an entity, wherever that is.
    Follow {
        /// The entity's key.
        key: Arc<str>,
        /// How far around it.
        radius: f64,
    },
}

/// What is wrong with an area, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaError {
    /// Names the field.
    pub message: String,
    /// Where its value begins: byte offset into the area's JSON text; 0 where no one field is at fault.
    pub position: usize,
    /// An example.
    pub hint: &'static str,
}

const HINT: &str =
    r#"an area is {"x":0,"y":0,"radius":50}, {"min":[0,0],"max":[100,50]} or {"follow":"e7","radius":50}"#;

/// A field at fault, if it is one, and what is wrong.
type Fault = (Option<&'static str>, String);

impl Area {
    /// As a client would send it.
    pub fn to_json(&self) -> String {
        match self {
            Area::Fixed(Shape::Circle { center: Point { x, y }, radius }) => {
                serde_json::json!({ "x": x, "y": y, "radius": radius })
            }
            Area::Fixed(Shape::Box(Rect { min, max })) => {
                serde_json::json!({ "min": [min.x, min.y], "max": [max.x, max.y] })
            }
            Area::Follow { key, radius } => serde_json::json!({ "follow": &**key, "radius": radius }),
        }
        .to_string()
    }

    /// Reads the JSON object of a client; `max_radius` bounds the radius, and half of a box's longer side.
    ///
    /// # Errors
    /// Where it is of none of the forms or of several, a number is not finite, or it is larger than it may be.
    pub fn parse(json: &str, max_radius: Option<f64>) -> Result<Area, AreaError> {
        Area::read(json, max_radius).map_err(|(field, message)| AreaError {
            message,
            position: field.and_then(|field| place_of(json, field)).unwrap_or(0),
            hint: HINT,
        })
    }

    fn read(json: &str, max_radius: Option<f64>) -> Result<Area, Fault> {
        // Numbers too large for a double are none for this reader.
        let fields: Map<String, Value> = serde_json::from_str(json)
            .map_err(|_| (None, "it is not an object, or holds a number that is not finite".to_owned()))?;
        let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
        let circle = has("x") || has("y");
        let rect = has("min") || has("max");
        let area = match (circle, rect, has("follow")) {
            (true, false, false) => Area::Fixed(Shape::Circle {
                center: Point { x: number(&fields, "x")?, y: number(&fields, "y")? },
                radius: radius(&fields)?,
            }),
            (false, true, false) if has("radius") => {
                return Err((Some("radius"), "a box has no `radius`".to_owned()));
            }
            (false, true, false) => {
                let rect = Rect { min: corner(&fields, "min")?, max: corner(&fields, "max")? };
                if rect.min.x > rect.max.x || rect.min.y > rect.max.y {
                    return Err((Some("min"), "`min` is above `max`".to_owned()));
                }
                Area::Fixed(Shape::Box(rect))
            }
            (false, false, true) => Area::Follow { key: key(&fields)?, radius: radius(&fields)? },
            (false, false, false) => return Err((None, "it names no place".to_owned())),
            _ => {
                let text = "an area is exactly one of `circle`, `box` and `follow`";
                return Err((None, text.to_owned()));
            }
        };
        match max_radius {
            Some(max) if area.reach() > max => {
                let field = if rect { "max" } else { "radius" };
                let reach = area.reach();
                Err((Some(field), format!("it reaches {reach} from its middle: at most {max} is allowed")))
            }
            _ => Ok(area),
        }
    }

    /// The radius, or half of a box's longer side.
    fn reach(&self) -> f64 {
        match self {
            Area::Fixed(Shape::Circle { radius, .. }) | Area::Follow { radius, .. } => *radius,
            Area::Fixed(Shape::Box(rect)) => rect.reach(),
        }
    }
}

/// Where the value of a field begins; of duplicate names the last counts.
fn place_of(json: &str, field: &str) -> Option<usize> {
    let mut reader = Reader::new(json);
    reader.next().ok()?;
    let [value] = reader.members(&[field]).ok()?;
    value.map(|value| value.at)
}

fn number(fields: &Map<String, Value>, name: &'static str) -> Result<f64, Fault> {
    let value = fields.get(name).and_then(Value::as_f64).filter(|number| number.is_finite());
    value.ok_or_else(|| (Some(name), format!("`{name}` must be a finite number")))
}

fn radius(fields: &Map<String, Value>) -> Result<f64, Fault> {
    match number(fields, "radius")? {
        negative if negative < 0.0 => Err((Some("radius"), "`radius` must not be negative".to_owned())),
        radius => Ok(radius),
    }
}

fn corner(fields: &Map<String, Value>, name: &'static str) -> Result<Point, Fault> {
    let error = || (Some(name), format!("`{name}` must be two finite numbers"));
    let Some([x, y]) = fields.get(name).and_then(Value::as_array).map(Vec::as_slice) else {
        return Err(error());
    };
    let finite = |value: &Value| value.as_f64().filter(|number| number.is_finite()).ok_or_else(error);
    Ok(Point { x: finite(x)?, y: finite(y)? })
}

fn key(fields: &Map<String, Value>) -> Result<Arc<str>, Fault> {
    let key = match fields.get("follow") {
        Some(Value::String(key)) => key.as_str().into(),
        Some(Value::Number(key)) => decimal_text(&key.to_string()).into(),
        _ => Arc::<str>::default(),
    };
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let message = format!("`follow` must be an entity's key: a string of 1 to {MAX_KEY_BYTES} bytes");
        return Err((Some("follow"), message));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn is_within_as_its_distance_says() {
        let numbers =
            [0.0, 0.3, 0.4, 0.5, 3.0, 4.0, 5.0, 1e-170, 3e-162, 1e-140, 1e154, 1e155, 1e300, f64::MAX];
        for x in numbers {
            for y in numbers {
                let (at, origin) = (Point { x, y: -y }, Point { x: 0.0, y: 0.0 });
                let exact = at.distance(origin);
                for reach in numbers.into_iter().chain([exact, exact.next_down(), exact.next_up()]) {
                    assert_eq!(at.is_within(origin, reach), exact <= reach, "{at:?} {reach:e}");
                }
            }
        }
    }

    #[test]
    fn reads_each_form() {
        let (center, radius) = (Point { x: 1.0, y: -2.5 }, 3.0);
        let rect = Rect { min: Point { x: 0.0, y: 0.0 }, max: Point { x: 100.0, y: 50.0 } };
        for (json, expected) in [
            (r#"{"x":1,"y":-2.5,"radius":3,"zoom":9}"#, Area::Fixed(Shape::Circle { center, radius })),
            (r#"{"min":[0,0],"max":[100,50]}"#, Area::Fixed(Shape::Box(rect))),
            (r#"{"follow":"e7","radius":3,"x":null}"#, Area::Follow { key: "e7".into(), radius }),
            (r#"{"follow":7,"radius":3}"#, Area::Follow { key: "7".into(), radius }),
        ] {
            assert_eq!(Area::parse(json, Some(50.0)), Ok(expected), "{json}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (json, expected) in [
            ("{}", "names no place"),
            (r#"{"radius":3}"#, "names no place"),
            (r#"{"x":1,"radius":3}"#, "`y` must"),
            (r#"{"x":"1","y":0,"radius":3}"#, "`x` must"),
            (r#"{"x":1e999,"y":0,"radius":3}"#, "not finite"),
            (r#"{"x":1,"y":0}"#, "`radius` must"),
            (r#"{"x":1,"y":0,"radius":-1}"#, "negative"),
            (r#"{"x":1,"y":0,"radius":50.1}"#, "at most 50"),
            (r#"{"x":1,"y":0,"radius":3,"min":[0,0]}"#, "exactly one of"),
            (r#"{"follow":"a","x":1,"y":0,"radius":3}"#, "exactly one of"),
            (r#"{"min":[0,0],"max":[1,1],"radius":3}"#, "no `radius`"),
            (r#"{"min":[0,0]}"#, "`max` must"),
            (r#"{"min":[0,0,0],"max":[1,1]}"#, "`min` must"),
            (r#"{"min":[2,0],"max":[1,1]}"#, "above"),
            (r#"{"min":[0,0],"max":[1,101]}"#, "at most 50"),
            (r#"{"min":[-1e308,0],"max":[1e308,1]}"#, "at most 50"),
            (r#"{"follow":"","radius":3}"#, "`follow` must"),
            (r#"{"follow":{},"radius":3}"#, "`follow` must"),
        ] {
            let error = Area::parse(json, Some(50.0)).unwrap_err();
            assert!(error.message.contains(expected), "{json}: {}", error.message);
            // It points at the value, where the message names one that is there.
            let named = error.message.strip_prefix('`').and_then(|rest| rest.split('`').next());
            let there =
                named.and_then(|name| json.find(&format!(r#""{name}":"#)).map(|at| at + name.len() + 3));
            if let Some(there) = there {
                assert_eq!(error.position, there, "{json}");
            }
        }
    }

    #[test]
    fn edges_belong_to_an_area() {
        let circle = Shape::Circle { center: Point { x: 0.0, y: 0.0 }, radius: 5.0 };
        let at = |x, y| Point { x, y };
        assert!(circle.enters(at(3.0, 4.0)) && !circle.enters(at(3.0, 4.000001)));
        assert!(circle.stays(at(6.0, 0.0), 1.0) && !circle.stays(at(6.000001, 0.0), 1.0));
        let rect = Shape::Box(Rect { min: at(0.0, 0.0), max: at(2.0, 1.0) });
        assert!(rect.enters(at(2.0, 1.0)) && !rect.enters(at(2.0, 1.1)) && rect.stays(at(2.5, 1.5), 0.5));
        let huge = Shape::Circle { center: at(-1e308, 0.0), radius: 1.0 };
        assert!(!huge.enters(at(1e308, 0.0)) && huge.enters(at(-1e308, 0.0)));
    }
}
