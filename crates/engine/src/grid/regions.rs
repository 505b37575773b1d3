//! Regions by the places that they hold.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{LEVELS, cell_of, side, within_reach};
use crate::area::{Point, Rect};

/// A square of one size: its level, and its place among those of the level.
type Cell = (i32, i64, i64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Regions {
    regions: HashMap<u32, Region>,
    /// With their rectangles, so that a look needs no second table.
    cells: HashMap<Cell, SmallVec<[(u32, Rect); 1]>>,
    /// How many regions there are of each level.
    levels: BTreeMap<i32, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Region {
    rect: Rect,
    level: i32,
}

/// The least level whose cells are no smaller than half of the rectangle.
fn level_of(rect: &Rect) -> i32 {
    let width = within_reach(rect.max.x) - within_reach(rect.min.x);
    let height = within_reach(rect.max.y) - within_reach(rect.min.y);
    let longer = width.max(height);
    if longer <= 0.0 {
        return *LEVELS.start();
    }
    ((longer / 2.0).log2().ceil() as i32).clamp(*LEVELS.start(), *LEVELS.end())
}

/// The cells of a region's own level that it touches: at most three by three, and one more each way where rounding makes
/// a difference.
fn cells_of(region: &Region) -> impl Iterator<Item = Cell> + use<> {
    let side = side(region.level);
    let (rect, level) = (region.rect, region.level);
    let columns = cell_of(rect.min.x, side)..=cell_of(rect.max.x, side);
    let rows = cell_of(rect.min.y, side)..=cell_of(rect.max.y, side);
    columns.flat_map(move |x| rows.clone().map(move |y| (level, x, y)))
}

impl Regions {
    pub(super) fn set(&mut self, id: u32, rect: Rect) {
        let region = Region { rect, level: level_of(&rect) };
        if let Some(before) = self.regions.get_mut(&id)
            && before.level == region.level
            && cells_of(before).eq(cells_of(&region))
        {
            before.rect = rect;
            for cell in cells_of(&region) {
                let entries = self.cells.get_mut(&cell).into_iter().flatten();
                entries.filter(|entry| entry.0 == id).for_each(|entry| entry.1 = rect);
            }
            return;
        }
        self.remove(id);
        for cell in cells_of(&region) {
            self.cells.entry(cell).or_default().push((id, rect));
        }
        *self.levels.entry(region.level).or_default() += 1;
        self.regions.insert(id, region);
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(region) = self.regions.remove(&id) else { return };
        for cell in cells_of(&region) {
            if let Some(ids) = self.cells.get_mut(&cell) {
                ids.retain(|(other, _)| *other != id);
                if ids.is_empty() {
                    self.cells.remove(&cell);
                }
            }
        }
        if let Some(count) = self.levels.get_mut(&region.level) {
            *count -= 1;
            if *count == 0 {
                self.levels.remove(&region.level);
            }
        }
    }

    pub(super) fn holding(&self, at: Point, mut found: impl FnMut(u32)) {
        for level in self.levels.keys() {
            let side = side(*level);
            let cell = (*level, cell_of(at.x, side), cell_of(at.y, side));
            for (id, rect) in self.cells.get(&cell).into_iter().flatten() {
                if rect.contains(at) {
                    found(*id);
                }
            }
        }
    }

    /// The level that most regions have.
    pub(super) fn usual_level(&self) -> Option<i32> {
        self.levels.iter().max_by_key(|(_, count)| **count).map(|(level, _)| *level)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.cells.is_empty() && self.levels.is_empty()
    }
}
