//! The grid against brute force.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    SetPoint(u32, Point),
    RemovePoint(u32),
    SetRegion(u32, Rect),
    RemoveRegion(u32),
    PointsIn(Rect),
    RegionsAt(Point),
}

fn coordinate() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (-400i32..400).prop_map(|n| f64::from(n) / 4.0),
        2 => -1e6..1e6,
        1 => prop::sample::select(vec![0.0, -0.0, 1e300, -1e300, 1e-300, f64::MAX, f64::MIN]),
    ]
}

fn point() -> impl Strategy<Value = Point> {
    (coordinate(), coordinate()).prop_map(|(x, y)| Point { x, y })
}

fn rect() -> impl Strategy<Value = Rect> {
    let half = prop_oneof![4 => 0.0..30.0, 1 => Just(0.0), 1 => 0.0..1e5, 1 => Just(1e301)];
    (point(), half.clone(), half).prop_map(|(at, x, y)| Rect {
        min: Point { x: at.x - x, y: at.y - y },
        max: Point { x: at.x + x, y: at.y + y },
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u32..40, point()).prop_map(|(id, at)| Step::SetPoint(id, at)),
        1 => (0u32..40).prop_map(Step::RemovePoint),
        3 => (0u32..20, rect()).prop_map(|(id, rect)| Step::SetRegion(id, rect)),
        1 => (0u32..20).prop_map(Step::RemoveRegion),
        2 => rect().prop_map(Step::PointsIn),
        2 => point().prop_map(Step::RegionsAt),
    ]
}

proptest! {
    #[test]
    fn answers_as_if_everything_were_looked_at(steps in proptest::collection::vec(step(), 1..200)) {
        let mut grid = Grid::default();
        let (mut points, mut regions) = (BTreeMap::new(), BTreeMap::new());
        for step in steps {
            match step {
                Step::SetPoint(id, at) => {
                    points.insert(id, at);
                    grid.set_point(id, at);
                }
                Step::RemovePoint(id) => {
                    points.remove(&id);
                    grid.remove_point(id);
                }
                Step::SetRegion(id, rect) => {
                    regions.insert(id, rect);
                    grid.set_region(id, rect);
                }
                Step::RemoveRegion(id) => {
                    regions.remove(&id);
                    grid.remove_region(id);
                }
                Step::PointsIn(rect) => {
                    let mut found = Vec::new();
                    grid.points_in(rect, |id, _| found.push(id));
                    found.sort_unstable();
                    let expected: Vec<u32> =
                        points.iter().filter(|(_, at)| rect.contains(**at)).map(|(id, _)| *id).collect();
                    prop_assert_eq!(found, expected);
                }
                Step::RegionsAt(at) => {
                    let mut found = Vec::new();
                    grid.regions_at(at, |id| found.push(id));
                    found.sort_unstable();
                    let expected: Vec<u32> =
                        regions.iter().filter(|(_, rect)| rect.contains(at)).map(|(id, _)| *id).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
        (0..40).for_each(|id| grid.remove_point(id));
        (0..20).for_each(|id| grid.remove_region(id));
        prop_assert!(grid.points.is_empty() && grid.regions.is_empty());
    }
}
