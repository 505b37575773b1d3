//! Makes requests of one kind, or lets events of one kind come, as many as its argument says, and prints the tokens that
//! were granted. `scripts/price-list`
//! runs it under a counter of instructions.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use drawbridge_engine::settings::Rate;
use drawbridge_testkit::requests_of;

const ENTITIES: usize = 10_000;
/// The default of the configuration.
const WORK: Rate = Rate { per_second: 2_000, burst: 4_000 };

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(kind), Some(count)) = (arguments.next(), arguments.next()) else {
        return println!("{}", [&requests_of::KINDS[..], &requests_of::EVENTS].concat().join("\n"));
    };
    let mut client = requests_of::Client::new(&kind, ENTITIES, WORK);
    for _ in 0..count.parse().unwrap() {
        client.once();
    }
    println!("{}", client.paid().tokens());
}
