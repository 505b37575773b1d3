//! The small world of the playground: two teams that wander about, and whose lanterns now and then show them to
//! everyone. A pure simulation: the same seed produces the same walks. `dev.rs` publishes it.

use std::f64::consts::{PI, TAU};

use serde_json::{Value, json};

/// The world's size in its own units.
pub(super) const WIDTH: f64 = 200.0;
/// See [`WIDTH`].
pub(super) const HEIGHT: f64 = 100.0;
/// How often each wanderer is to take a step.
pub(super) const STEPS_PER_SECOND: u32 = 10;

const TEAMS: [&str; 2] = ["red", "blue"];
/// Units a second.
const SLOWEST: f64 = 2.0;
const FASTEST: f64 = 6.0;
/// How far a wanderer turns in one step at most, to either side.
const TURN: f64 = 0.35;
/// A lantern is lit for the first part of each round.
const LIT_STEPS: u64 = 40;
const LANTERN_ROUND_STEPS: u64 = 200;

/// All wanderers.
#[derive(Debug)]
pub(super) struct World {
    wanderers: Vec<Wanderer>,
    random: Random,
}

#[derive(Debug)]
struct Wanderer {
    id: String,
    team: &'static str,
    x: f64,
    y: f64,
    heading: f64,
    speed: f64,
    steps: u64,
}

impl World {
    /// So many wanderers, half of each team, scattered over the world.
    pub(super) fn new(seed: u64, wanderers: usize) -> Self {
        let mut random = Random(seed);
        let wanderers = (0..wanderers)
            .map(|at| {
                let team = TEAMS[at % TEAMS.len()];
                Wanderer {
                    id: format!("{team}-{}", at / TEAMS.len() + 1),
                    team,
                    x: random.below(WIDTH),
                    y: random.below(HEIGHT),
                    heading: random.below(TAU),
                    speed: SLOWEST + random.below(FASTEST - SLOWEST),
                    steps: random.next() % LANTERN_ROUND_STEPS,
                }
            })
            .collect();
        World { wanderers, random }
    }

    /// Lets one of them take a step; returns its state, or `None` if there is no such one.
    pub(super) fn step(&mut self, at: usize) -> Option<Value> {
        let turn = self.random.below(2.0 * TURN) - TURN;
        let wanderer = self.wanderers.get_mut(at)?;
        wanderer.step(turn);
        Some(wanderer.state())
    }
}

impl Wanderer {
    fn step(&mut self, turn: f64) {
        self.steps += 1;
        self.heading = (self.heading + turn).rem_euclid(TAU);
        let way = self.speed / f64::from(STEPS_PER_SECOND);
        self.x += way * self.heading.cos();
        self.y += way * self.heading.sin();
        // As light from a mirror.
        if !(0.0..=WIDTH).contains(&self.x) {
            self.x = self.x.clamp(0.0, WIDTH);
            self.heading = PI - self.heading;
        }
        if !(0.0..=HEIGHT).contains(&self.y) {
            self.y = self.y.clamp(0.0, HEIGHT);
            self.heading = -self.heading;
        }
    }

    /// As it is published: `public` while the lantern is lit.
    fn state(&self) -> Value {
        let round = |value: f64| (value * 10.0).round() / 10.0;
        json!({
            "id": self.id,
            "team": self.team,
            "x": round(self.x),
            "y": round(self.y),
            "public": self.steps % LANTERN_ROUND_STEPS < LIT_STEPS,
        })
    }
}

/// Splitmix64: enough for walks.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to `bound`.
    fn below(&mut self, bound: f64) -> f64 {
        // The 53 bits that a double holds.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64 * bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANDERERS: usize = 40;

    /// What all of them are after each of so many rounds.
    fn walk(seed: u64, rounds: usize) -> Vec<Vec<Value>> {
        let mut world = World::new(seed, WANDERERS);
        (0..rounds).map(|_| (0..WANDERERS).map(|at| world.step(at).unwrap()).collect()).collect()
    }

    fn place(state: &Value) -> (f64, f64) {
        (state["x"].as_f64().unwrap(), state["y"].as_f64().unwrap())
    }

    #[test]
    fn the_same_seed_gives_the_same_walks() {
        assert_eq!(walk(7, 50), walk(7, 50));
        assert_ne!(walk(7, 1), walk(8, 1));
    }

    #[test]
    fn nobody_leaves_the_world_or_leaps() {
        let rounds = walk(1, 2_000);
        for (before, after) in rounds.iter().zip(&rounds[1..]) {
            for (before, after) in before.iter().zip(after) {
                let ((x0, y0), (x, y)) = (place(before), place(after));
                assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{after}");
                // Each place is rounded.
                assert!(
                    (x - x0).hypot(y - y0) <= FASTEST / f64::from(STEPS_PER_SECOND) + 0.15,
                    "{before} {after}"
                );
            }
        }
    }

    #[test]
    fn everyone_gets_about() {
        let rounds = walk(1, 2_000);
        for at in 0..WANDERERS {
            let xs = rounds.iter().map(|round| place(&round[at]).0);
            let (least, most) = xs.fold((f64::MAX, f64::MIN), |(least, most), x| (least.min(x), most.max(x)));
            assert!(most - least > 10.0, "{} stays between {least} and {most}", rounds[0][at]["id"]);
        }
    }

    #[test]
    fn there_are_as_many_of_each_team_and_no_name_is_there_twice() {
        let round = walk(1, 1).remove(0);
        let red = round.iter().filter(|state| state["team"] == "red").count();
        assert_eq!(red, WANDERERS / 2);
        let names: std::collections::BTreeSet<_> =
            round.iter().map(|state| state["id"].to_string()).collect();
        assert_eq!(names.len(), WANDERERS);
        assert_eq!(World::new(1, WANDERERS).step(WANDERERS), None);
    }

    #[test]
    fn lanterns_are_lit_for_their_part_of_the_time_and_not_all_at_once() {
        let rounds = walk(1, LANTERN_ROUND_STEPS as usize);
        let lit = |state: &&Value| state["public"] == true;
        for at in 0..WANDERERS {
            assert_eq!(rounds.iter().map(|round| &round[at]).filter(lit).count(), LIT_STEPS as usize);
        }
        for round in &rounds {
            assert!((1..WANDERERS).contains(&round.iter().filter(lit).count()));
        }
    }
}
