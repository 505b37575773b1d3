//! Numbers from a seed, and runs of a simulation with many seeds.

use drawbridge_engine::io::PublishFailure;

/// A source of numbers that repeats: from a seed, or from the bytes of a fuzzer.
pub trait Chance {
    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize;

    /// One of these.
    fn pick<T: Copy>(&mut self, of: &[T]) -> T
    where
        Self: Sized,
    {
        of[self.roll(of.len())]
    }

    /// How a write fails: one in ten, and no one knows whether half of those were done.
    fn write_failure(&mut self) -> Option<PublishFailure> {
        match self.roll(20) {
            0 => Some(PublishFailure::Unknown),
            1 => Some(PublishFailure::NotDone),
            _ => None,
        }
    }
}

/// Numbers from a seed (SplitMix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }
}

impl Chance for Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// Runs a simulation with each of `count` seeds, or as many as `DRAWBRIDGE_SEEDS` says (`10000`, or `4000..10000` for a part of
/// them), or with the one of `DRAWBRIDGE_SEED`. Names the seed that fails.
pub fn for_each_seed(test: &str, count: u64, run: fn(u64)) {
    match number("DRAWBRIDGE_SEED") {
        Some(seed) => run(seed),
        None => seeds(count).for_each(|seed| {
            if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
                eprintln!("repeat: DRAWBRIDGE_SEED={seed} cargo test -p drawbridge-engine --test {test}");
                std::panic::resume_unwind(panic);
            }
        }),
    }
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let Ok(stated) = std::env::var("DRAWBRIDGE_SEEDS") else { return 0..count };
    let (from, to) = stated.split_once("..").unwrap_or(("0", &stated));
    from.parse().unwrap()..to.parse().unwrap()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}
