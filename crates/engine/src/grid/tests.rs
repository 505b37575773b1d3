//! The grid against brute force.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Instant;

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

/// Prints what one move and one look cost: `cargo test --release -p drawbridge-engine grid -- --ignored --nocapture`.
#[test]
#[ignore = "prints numbers"]
fn a_move_costs() {
    let (entities, viewers, side) = (5_000u32, 1_000u32, 1_000.0);
    let mut state = 7u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut at: Vec<Point> =
        (0..entities).map(|_| Point { x: random() * side, y: random() * side }).collect();
    let mut grid = Grid::default();
    for id in 0..viewers {
        let center = Point { x: random() * side, y: random() * side };
        grid.set_region(id, Rect { min: center, max: center }.grown(40.0));
    }
    (0..).zip(&at).for_each(|(id, at)| grid.set_point(id, *at));
    grid.set_region(0, Rect { min: at[0], max: at[0] }.grown(40.0));
    let (rounds, mut hits) = (100, 0u64);
    let start = Instant::now();
    for _ in 0..rounds {
        for (id, at) in (0..).zip(&mut at) {
            at.x += random() - 0.5;
            at.y += random() - 0.5;
            grid.set_point(id, *at);
            grid.regions_at(*at, |_| hits += 1);
        }
    }
    let moves = u64::from(entities) * rounds;
    println!("{} ns a move, {} hits each", start.elapsed().as_nanos() as u64 / moves, hits / moves);
    let (start, mut seen) = (Instant::now(), 0u64);
    for at in &at {
        grid.points_in(Rect { min: *at, max: *at }.grown(40.0), |_, _| seen += 1);
    }
    let looks = u64::from(entities);
    println!("{} ns a look, {} points each", start.elapsed().as_nanos() as u64 / looks, seen / looks);
}
