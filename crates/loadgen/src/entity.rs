//! The entities that `world` moves and `watch` looks at: where each is at each tick, what is published of it, and
//! reading that back. Both sides know every way, so what a viewer should see can be checked. Positions are whole
//! hundredths of a unit: what is published is exact.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use crate::event::digits;

/// How far entities go from their places, as a part of the side of the square.
const REACH: f64 = 1.0 / 50.0;

/// A square over which entities are spread evenly, each going round its place in a circle at its own pace.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct World {
    /// How many entities there are: e0, e1, …
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) entities: u32,
    /// The side of the square that they are spread over
    #[arg(long, default_value_t = 1000.0, value_parser = side)]
    pub(crate) side: f64,
}

fn side(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (1.0..=1e6).contains(&value) => Ok(value),
        _ => Err("a number between 1 and 1000000".into()),
    }
}

/// A place, in hundredths of a unit; never negative.
pub(crate) type GridPoint = [i64; 2];

/// Whether two places are at most so many hundredths apart.
pub(crate) fn is_near([x, y]: GridPoint, [other_x, other_y]: GridPoint, distance: i64) -> bool {
    let (x, y) = (x - other_x, y - other_y);
    x * x + y * y <= distance * distance
}

impl World {
    /// Where an entity is at a tick.
    pub(crate) fn position(&self, entity: u32, tick: u64) -> GridPoint {
        let reach = self.side * REACH;
        let turned = tick as f64 * (0.02 + f64::from(entity % 7) * 0.005) + f64::from(entity);
        let [x, y] = scatter(entity).map(|part| reach + part * self.side);
        [x + reach * turned.cos(), y + reach * turned.sin()].map(hundredths)
    }

    /// Where a viewer stands: its area of this radius is where entities are equally dense, if the square has room.
    pub(crate) fn stand(&self, viewer: u32, radius: f64) -> GridPoint {
        let reach = self.side * REACH;
        let margin = (reach + radius).min(self.side / 2.0);
        scatter(viewer).map(|part| hundredths(reach + margin + part * (self.side - 2.0 * margin)))
    }
}

fn hundredths(units: f64) -> i64 {
    (units * 100.0).round().max(0.0) as i64
}

/// Somewhere in the unit square, always the same for a number: points that lie evenly (the R2 sequence).
fn scatter(number: u32) -> [f64; 2] {
    const STEPS: [f64; 2] = [0.754_877_666_246_692_8, 0.569_840_290_998_053_3];
    STEPS.map(|step| (0.5 + step * f64::from(number)).fract())
}

/// What is published, and shown, of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// When the publisher wrote it, in nanoseconds since 1970.
    pub(crate) sent: u64,
    /// The tick at which it was there.
    pub(crate) tick: u64,
    /// Its number.
    pub(crate) entity: u32,
    /// Where it was.
    pub(crate) at: GridPoint,
}

impl Sighting {
    /// Appends the payload: about 110 bytes.
    pub(crate) fn write_payload(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let Sighting { sent, tick, entity, at: [x, y] } = self;
        write!(out, r#"{{"event":"move","data":{{"t":{sent},"n":{tick},"id":"e{entity}","#)?;
        write!(out, r#""x":{}.{:02},"y":{}.{:02},"team":"red"}}}}"#, x / 100, x % 100, y / 100, y % 100)
    }

    /// Reads an `EVENT` that begins as [`event_begins`] says, and names the entity as its key; `None` for others.
    pub(crate) fn of_event(text: &[u8], begins: &[u8]) -> Option<Sighting> {
        let (sighting, rest) = Sighting::read(text.strip_prefix(begins)?)?;
        let (key, rest) = digits(rest.strip_prefix(br#","key":"e"#)?)?;
        (key == u64::from(sighting.entity) && rest.starts_with(b"\"")).then_some(sighting)
    }

    /// Reads the `data` of a payload.
    pub(crate) fn of_data(data: &[u8]) -> Option<Sighting> {
        Sighting::read(data).map(|(sighting, _)| sighting)
    }

    /// Reads the `data` that `text` begins with, as it was written; and what follows it.
    fn read(text: &[u8]) -> Option<(Sighting, &[u8])> {
        let (sent, rest) = digits(text.strip_prefix(br#"{"t":"#)?)?;
        let (tick, rest) = digits(rest.strip_prefix(br#","n":"#)?)?;
        let (entity, rest) = digits(rest.strip_prefix(br#","id":"e"#)?)?;
        let (x, rest) = decimal(rest.strip_prefix(br#"","x":"#)?)?;
        let (y, rest) = decimal(rest.strip_prefix(br#","y":"#)?)?;
        let rest = rest.strip_prefix(br#","team":"red"}"#)?;
        Some((Sighting { sent, tick, entity: u32::try_from(entity).ok()?, at: [x, y] }, rest))
    }
}

/// The entity that a key names.
pub(crate) fn number_of(key: &str) -> Option<u32> {
    key.strip_prefix('e')?.parse().ok()
}

/// How the events of a world on this channel begin, up to their `data`.
pub(crate) fn event_begins(channel: &str) -> Vec<u8> {
    format!(r#"{{"type":"EVENT","channel":{},"event":"move","data":"#, json!(channel)).into_bytes()
}

/// The number with two decimals that `text` begins with, in hundredths, and what follows it.
fn decimal(text: &[u8]) -> Option<(i64, &[u8])> {
    let (whole, rest) = digits(text)?;
    let (part, rest) = rest.strip_prefix(b".")?.split_first_chunk::<2>()?;
    let (part, after) = digits(part)?;
    let hundredths = i64::try_from(whole).ok()?.checked_mul(100)?.checked_add(i64::try_from(part).ok()?)?;
    after.is_empty().then_some((hundredths, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WORLD: World = World { entities: 5000, side: 1000.0 };

    #[test]
    fn a_sighting_is_read_back_as_it_was_written() {
        let sighting =
            Sighting { sent: 1_790_000_000_000_000_123, tick: 7, entity: 17, at: [12_305, 99_900] };
        let mut payload = Vec::new();
        sighting.write_payload(&mut payload).unwrap();
        let payload = String::from_utf8(payload).unwrap();
        assert!((100..=150).contains(&payload.len()), "{payload}");
        let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!((&value["data"]["x"], &value["data"]["y"]), (&json!(123.05), &json!(999.0)));

        let data = payload.split_once(r#""data":"#).map(|(_, data)| data.strip_suffix('}').unwrap()).unwrap();
        assert_eq!(Sighting::of_data(data.as_bytes()), Some(sighting));
        let begins = event_begins("map:0");
        let event = |tail: &str| {
            let mut text = begins.clone();
            text.extend_from_slice(data.as_bytes());
            text.extend_from_slice(tail.as_bytes());
            Sighting::of_event(&text, &begins)
        };
        assert_eq!(event(r#","key":"e17","offset":5}"#), Some(sighting));
        for other in [r#","key":"e18"}"#, r#","key":"e171"}"#, r#","offset":5}"#, "}"] {
            assert_eq!(event(other), None, "{other}");
        }
        assert_eq!(Sighting::of_event(b"{}", &begins), None);
        assert_eq!((number_of("e17"), number_of("17"), number_of("e")), (Some(17), None, None));
    }

    #[test]
    fn entities_stay_in_their_square_and_do_not_jump() {
        for entity in 0..200 {
            let mut before = WORLD.position(entity, 0);
            for tick in 1..400 {
                let now = WORLD.position(entity, tick);
                assert!(now.iter().all(|at| (0..=104_000).contains(at)), "{now:?}");
                assert!(is_near(now, before, 110), "{now:?} after {before:?}");
                before = now;
            }
        }
    }

    #[test]
    fn an_area_holds_about_as_many_as_its_share_of_the_square() {
        let radius = 1000.0 * (25.0 / 5000.0 / std::f64::consts::PI).sqrt();
        let mut seen = 0;
        for viewer in 0..100 {
            let stand = WORLD.stand(viewer, radius);
            seen += (0..5000).filter(|e| is_near(WORLD.position(*e, 40), stand, hundredths(radius))).count();
        }
        assert!((2400..=2600).contains(&seen), "{seen}");
    }
}
