//! An area as a client writes it: an error that points into its text, or finite numbers within the bound; what enters it
//! stays in it and is within its rectangle.
#![no_main]

use drawbridge_engine::area::{Area, Point, Shape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, Option<f64>, f64, f64, f64)| {
    let (json, max_radius, x, y, hysteresis) = input;
    let max_radius = max_radius.filter(|max| max.is_finite() && *max >= 0.0);
    let shape = match Area::parse(json, max_radius) {
        Err(error) => {
            assert!(error.position <= json.len() && json.is_char_boundary(error.position));
            assert!(!error.message.is_empty() && !error.hint.is_empty());
            return;
        }
        Ok(Area::Follow { key, radius }) => {
            assert!((1..=255).contains(&key.len()));
            assert!(radius >= 0.0 && max_radius.is_none_or(|max| radius <= max));
            // Around whom it follows.
            Shape::Circle { center: Point { x: 0.0, y: 0.0 }, radius }
        }
        Ok(Area::Fixed(shape)) => shape,
    };
    match shape {
        Shape::Circle { center, radius } => {
            assert!(center.x.is_finite() && center.y.is_finite() && radius.is_finite() && radius >= 0.0);
            assert!(max_radius.is_none_or(|max| radius <= max));
            assert!(shape.enters(center));
        }
        Shape::Box(rect) => {
            assert!(rect.min.x <= rect.max.x && rect.min.y <= rect.max.y);
            assert!(max_radius.is_none_or(|max| rect.reach() <= max));
            assert!(shape.enters(rect.min) && shape.enters(rect.max));
        }
    }
    if x.is_finite() && y.is_finite() && hysteresis.is_finite() && hysteresis >= 0.0 {
        let at = Point { x, y };
        assert!(!shape.enters(at) || shape.stays(at, hysteresis), "{shape:?} {at:?} {hysteresis}");
        assert!(!shape.enters(at) || shape.bounds().contains(at), "{shape:?} {at:?}");
        assert!(!shape.distance(at).is_nan());
    }
});
