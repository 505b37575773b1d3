//! stub
use crate::area::{Point, Rect};
use std::collections::BTreeMap;
#[derive(Debug, Default)]
pub(crate) struct Grid(BTreeMap<u32, Point>, BTreeMap<u32, Rect>);
impl Grid {
    pub(crate) fn set_point(&mut self, id: u32, p: Point) {
        self.0.insert(id, p);
    }
    pub(crate) fn remove_point(&mut self, id: u32) {
        self.0.remove(&id);
    }
    pub(crate) fn points_in(&self, r: Rect, mut f: impl FnMut(u32, Point)) {
        for (i, p) in &self.0 {
            if r.has(*p) {
                f(*i, *p)
            }
        }
    }
    pub(crate) fn set_region(&mut self, id: u32, r: Rect) {
        self.1.insert(id, r);
    }
    pub(crate) fn remove_region(&mut self, id: u32) {
        self.1.remove(&id);
    }
    pub(crate) fn regions_at(&self, p: Point, mut f: impl FnMut(u32)) {
        for (i, r) in &self.1 {
            if r.has(p) {
                f(*i)
            }
        }
    }
}
