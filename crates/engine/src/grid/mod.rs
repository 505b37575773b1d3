//! Who is near whom: entities as *points*, areas of viewers as *regions*, both by small numbers of their owner's choice.
//! The cost of a lookup depends on what is near the position. Exact shapes, hysteresis and who sees what are left
//! to [`crate::area`] and [`crate::world`].
//!
//! Cells are squares whose sides are powers of two. A region is in cells of about half its own size, at most nine of
//! them, so a huge one costs no more than a tiny one. Points lie in cells of half the size that most regions'
//! cells have, and are sorted again when that changes.

mod points;
mod regions;
#[cfg(test)]
mod tests;

use crate::area::{Point, Rect};
use points::Points;
use regions::Regions;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    points: Points,
    regions: Regions,
}

impl Grid {
    /// A point is there, or has moved there.
    pub(crate) fn set_point(&mut self, id: u32, at: Point) {
        self.points.set(id, at);
    }

    pub(crate) fn remove_point(&mut self, id: u32) {
        self.points.remove(id);
    }

    /// Every point in the rectangle, once, in no order; returns how many points and cells were examined.
    pub(crate) fn points_in(&self, rect: Rect, found: impl FnMut(u32, Point)) -> usize {
        self.points.within(rect, found)
    }

    /// A region is there, or has moved there.
    pub(crate) fn set_region(&mut self, id: u32, rect: Rect) {
        self.regions.set(id, rect);
        if let Some(level) = self.regions.usual_level() {
            self.points.suit(level - 1);
        }
    }

    pub(crate) fn remove_region(&mut self, id: u32) {
        self.regions.remove(id);
    }

    /// Every region that holds this place, once, in no order.
    pub(crate) fn regions_at(&self, at: Point, found: impl FnMut(u32)) {
        self.regions.holding(at, found);
    }
}

/// The exponents of cells' sides; finer or coarser ones are not useful.
const LEVELS: std::ops::RangeInclusive<i32> = -20..=1023;

/// The side of a cell: two to the power of its level.
fn side(level: i32) -> f64 {
    2f64.powi(level)
}

/// Where a coordinate is among the cells of a level. Beyond what an integer holds all share the last cell.
fn cell_of(coordinate: f64, side: f64) -> i64 {
    (within_reach(coordinate) / side).floor() as i64
}

/// So that the distance between two coordinates is always finite. What is beyond shares the last cells.
fn within_reach(coordinate: f64) -> f64 {
    coordinate.clamp(-f64::MAX / 4.0, f64::MAX / 4.0)
}
