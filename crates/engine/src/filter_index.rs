//! stub
use crate::expr::{Expr, Scope};
#[derive(Debug, Default)]
pub(crate) struct FilterIndex(Vec<u32>);
impl FilterIndex {
    pub(crate) fn insert(&mut self, id: u32, _: Option<&Expr>, _: Option<&Expr>) {
        self.0.push(id);
    }
    pub(crate) fn remove(&mut self, id: u32) {
        self.0.retain(|x| *x != id);
    }
    pub(crate) fn candidates(&mut self, _: &impl Scope, found: &mut Vec<u32>) {
        found.extend(&self.0);
    }
    pub(crate) fn work_alone(_: &Expr) -> usize {
        0
    }
    pub(crate) fn work(&self) -> usize {
        0
    }
    pub(crate) fn work_of(&self, _: Option<&Expr>, _: Option<&Expr>) -> usize {
        0
    }
}
