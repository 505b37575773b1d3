//! No kind of request does work that nobody pays for: over a minute, each does no more steps for a token than a token is
//! worth. What a token is worth in CPU time is measured by `scripts/price-list`.

use drawbridge_engine::settings::Rate;
use drawbridge_engine::work::{STEPS_PER_TOKEN, in_steps};

use drawbridge_testkit::requests_of::{Client, KINDS};

const SECONDS: u64 = 60;
/// A twentieth of the default, as the world is a twentieth of 10,000 entities: the same number of whole tables is examined.
const WORK: Rate = Rate { per_second: 100, burst: 200 };
/// The dearest request examines the whole table, shows it and hides it.
const ENTITIES: usize = 500;
const WHOLE: u64 = ENTITIES as u64 * 300;

#[test]
fn no_kind_of_request_does_work_that_it_does_not_pay_for() {
    for kind in KINDS {
        let mut client = Client::new(kind, ENTITIES, WORK);
        let end_ms = client.bench.now.mono_ms + SECONDS * 1_000;
        while client.bench.now.mono_ms < end_ms {
            client.once();
        }
        let paid = client.paid();
        // A token of a message pays for what it causes beside charged work, too.
        assert!(paid.work <= STEPS_PER_TOKEN * paid.tokens(), "{kind}: {paid:?}");
        let bound = in_steps(WORK).burst + SECONDS * in_steps(WORK).per_second + WHOLE;
        assert!(paid.charged <= bound, "{kind}: {paid:?}");
        assert!(paid.messages >= 8, "{kind} is refused too often: {paid:?}");
    }
}
