//! stub
use std::sync::Arc;
/// A place in the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Up or down, as the game has it.
    pub y: f64,
}
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub min: Point,
    pub max: Point,
}
#[allow(missing_docs)]
impl Rect {
    pub fn has(&self, p: Point) -> bool {
        p.x >= self.min.x && p.x <= self.max.x && p.y >= self.min.y && p.y <= self.max.y
    }
}
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Circle { center: Point, radius: f64 },
    Box(Rect),
}
#[allow(missing_docs)]
impl Shape {
    pub fn enters(&self, p: Point) -> bool {
        self.stays(p, 0.0)
    }
    pub fn stays(&self, p: Point, h: f64) -> bool {
        match self {
            Shape::Circle { center, radius } => (p.x - center.x).hypot(p.y - center.y) <= radius + h,
            Shape::Box(r) => Rect {
                min: Point { x: r.min.x - h, y: r.min.y - h },
                max: Point { x: r.max.x + h, y: r.max.y + h },
            }
            .has(p),
        }
    }
    pub fn distance(&self, p: Point) -> f64 {
        let b = self.bounds();
        (p.x - (b.min.x + b.max.x) / 2.0).hypot(p.y - (b.min.y + b.max.y) / 2.0)
    }
    pub fn bounds(&self) -> Rect {
        match self {
            Shape::Circle { center, radius } => Rect {
                min: Point { x: center.x - radius, y: center.y - radius },
                max: Point { x: center.x + radius, y: center.y + radius },
            },
            Shape::Box(r) => *r,
        }
    }
}
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq)]
pub enum Area {
    Fixed(Shape),
    Follow { key: Arc<str>, radius: f64 },
}
#[allow(missing_docs)]
#[derive(Debug)]
pub struct AreaError {
    pub message: String,
    pub hint: &'static str,
}
#[allow(missing_docs)]
impl Area {
    pub fn parse(json: &str, _max: Option<f64>) -> Result<Area, AreaError> {
        let v: serde_json::Value =
            serde_json::from_str(json).map_err(|e| AreaError { message: e.to_string(), hint: "" })?;
        let n = |k: &str| v[k].as_f64().unwrap_or(0.0);
        if let Some(key) = v["follow"].as_str() {
            return Ok(Area::Follow { key: key.into(), radius: n("radius") });
        }
        Ok(Area::Fixed(Shape::Circle { center: Point { x: n("x"), y: n("y") }, radius: n("radius") }))
    }
}
