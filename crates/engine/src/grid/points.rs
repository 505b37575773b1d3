//! Points by where they are.

use hashbrown::HashMap;
use slab::Slab;

use super::{LEVELS, cell_of, side};
use crate::area::{Point, Rect};

/// See the module.
#[derive(Debug)]
pub(super) struct Points {
    level: i32,
    side: f64,
    cells: Slab<Cell>,
    by_cell: HashMap<(i64, i64), u32>,
    /// By point: in which cell, and where there.
    slots: Vec<CellSlot>,
    len: usize,
    /// Changes since the points were sorted, so that sorting again costs no more than they did.
    changes: usize,
}

#[derive(Debug)]
struct Cell {
    at: (i64, i64),
    points: Vec<(u32, Point)>,
}

#[derive(Clone, Copy, Debug)]
struct CellSlot {
    cell: u32,
    slot: u32,
}

/// A number that represents no point.
const NOWHERE: CellSlot = CellSlot { cell: u32::MAX, slot: 0 };

impl Default for Points {
    fn default() -> Self {
        Points {
            level: 0,
            side: 1.0,
            cells: Slab::new(),
            by_cell: HashMap::new(),
            slots: Vec::new(),
            len: 0,
            changes: 0,
        }
    }
}

impl Points {
    pub(super) fn set(&mut self, id: u32, at: Point) {
        self.changes += 1;
        let to = self.cell_at(at);
        if let Some(cell_slot) = self.slots.get(id as usize).copied()
            && let Some(cell) = self.cells.get_mut(cell_slot.cell as usize)
        {
            if cell.at == to
                && let Some(point) = cell.points.get_mut(cell_slot.slot as usize)
            {
                point.1 = at;
                return;
            }
            self.remove(id);
        }
        self.put(id, to, at);
    }

    fn cell_at(&self, at: Point) -> (i64, i64) {
        (cell_of(at.x, self.side), cell_of(at.y, self.side))
    }

    fn put(&mut self, id: u32, to: (i64, i64), at: Point) {
        let cells = &mut self.cells;
        let cell = *self
            .by_cell
            .entry(to)
            .or_insert_with(|| cells.insert(Cell { at: to, points: Vec::new() }) as u32);
        let Some(points) = self.cells.get_mut(cell as usize).map(|cell| &mut cell.points) else { return };
        let slot = points.len() as u32;
        points.push((id, at));
        if self.slots.len() <= id as usize {
            self.slots.resize(id as usize + 1, NOWHERE);
        }
        self.slots[id as usize] = CellSlot { cell, slot };
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(cell_slot) = self.slots.get_mut(id as usize) else { return };
        let CellSlot { cell, slot } = std::mem::replace(cell_slot, NOWHERE);
        let Some(found) = self.cells.get_mut(cell as usize) else { return };
        found.points.swap_remove(slot as usize);
        self.len -= 1;
        if let Some((moved, _)) = found.points.get(slot as usize)
            && let Some(cell_slot) = self.slots.get_mut(*moved as usize)
        {
            cell_slot.slot = slot;
        }
        if found.points.is_empty() {
            let cell_slot = found.at;
            self.cells.remove(cell as usize);
            self.by_cell.remove(&cell_slot);
        }
        if self.len == 0 {
            self.slots = Vec::new();
        }
    }

    /// Returns how many points and cells were examined.
    pub(super) fn within(&self, rect: Rect, mut found: impl FnMut(u32, Point)) -> usize {
        let (from, to) = (self.cell_at(rect.min), self.cell_at(rect.max));
        let mut examined = 0;
        let mut look = |cell: &Cell| {
            examined += 1 + cell.points.len();
            for (id, at) in &cell.points {
                if rect.contains(*at) {
                    found(*id, *at);
                }
            }
        };
        let width = to.0.saturating_sub(from.0).saturating_add(1);
        let height = to.1.saturating_sub(from.1).saturating_add(1);
        if width.saturating_mul(height) > self.cells.len() as i64 {
            // There are fewer cells with something in them than cells to look into.
            self.cells.iter().for_each(|(_, cell)| look(cell));
            return examined;
        }
        for x in from.0..=to.0 {
            for y in from.1..=to.1 {
                if let Some(cell) = self.by_cell.get(&(x, y)).and_then(|cell| self.cells.get(*cell as usize))
                {
                    look(cell);
                }
            }
        }
        examined + (width * height) as usize
    }

    /// Cells of this level would suit the lookups better: sorts the points again, if enough has changed since the last time.
    pub(super) fn suit(&mut self, level: i32) {
        let level = level.clamp(*LEVELS.start(), *LEVELS.end());
        if level == self.level || self.changes < self.len {
            return;
        }
        (self.level, self.side, self.changes) = (level, side(level), 0);
        self.by_cell.clear();
        self.len = 0;
        let cells = std::mem::take(&mut self.cells);
        for (id, at) in cells.into_iter().flat_map(|(_, cell)| cell.points) {
            let to = self.cell_at(at);
            self.put(id, to, at);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.cells.is_empty() && self.by_cell.is_empty() && self.slots.is_empty()
    }
}
