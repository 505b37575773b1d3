//! The keys of a class for its channels' logs (contract §4, §10): `history` and `plain_publish`.

use std::time::Duration;

use drawbridge_engine::class::{History, SlowConsumer};

use super::reader::{Field, Section};
use super::views::Views;

const MOST_EVENTS: u64 = 100_000;
const SHORTEST_AGE: Duration = Duration::from_secs(1);
const LONGEST_AGE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What a class says of its logs.
pub(super) struct Logs {
    pub(super) kept: Option<History>,
    pub(super) ignores_plain_publish: bool,
}

/// Reads both keys. `views` and `forward` are what else the class says, as far as a log contradicts it.
pub(super) fn read(section: &Section<'_>, views: &Views, forward: Option<&Field<'_>>) -> Logs {
    let is_given = section.has("history");
    let table = section.table_of_form("history", "{ events = 200, age = \"10m\" }");
    let events = table.field("events").map(|field| field.number(1..=MOST_EVENTS));
    let age = table.field("age").map(|field| field.duration(SHORTEST_AGE..=LONGEST_AGE));
    table.close();
    let is_ignored = section.field("plain_publish").and_then(|field| {
        if !is_given && !field.node.is_text("deliver") {
            field.error(
                "needs `history`",
                "without a log every publish is a plain one: say history = { events = 200, age = \"10m\" }, or leave it out",
            );
        }
        field.choice(&[("deliver", false), ("ignore", true)])
    });
    let kept = events
        .flatten()
        .zip(age.flatten())
        .map(|(events, age)| History { events, age_ms: age.as_millis() as u64 });
    if table.is_present() {
        if events.is_none() || age.is_none() {
            table.error(
                "`channel.history` needs both `events` and `age`",
                "how much a log keeps is written like { events = 200, age = \"10m\" }",
            );
        }
        refuse_contradictions(&table, views, forward.is_some());
    }
    Logs { kept, ignores_plain_publish: is_ignored.unwrap_or(false) }
}

/// Every event of a log reaches every subscriber whose view shows it, in order. What leaves events out contradicts that.
fn refuse_contradictions(table: &Section<'_>, views: &Views, is_forwarded: bool) {
    let delivery = &views.delivery;
    let leaves_out = "a log is there so that no event is missing";
    let rows = [
        (
            views.entity.is_some(),
            "kind = \"entity\"",
            "an entity channel stores the last state of each entity, from which subscribers start anew: leave one of the two out",
        ),
        (delivery.conflate, "`conflate`", leaves_out),
        (delivery.max_updates.is_some(), "`max_updates`", leaves_out),
        (
            views.entity.is_none() && delivery.slow_consumer == SlowConsumer::Latest,
            "slow_consumer = \"latest\"",
            "a log is there so that no event is missing: say \"disconnect\", after which clients resume, or \"drop_oldest\"",
        ),
        (
            is_forwarded,
            "`forward`",
            "players' publishes go to the stream, where a service reads them: give the channel on which it publishes what follows the `history`",
        ),
    ];
    for (is_given, what, reason) in rows {
        if is_given {
            let reason = match reason == leaves_out {
                true => format!("{leaves_out}: leave {what} out"),
                false => reason.to_owned(),
            };
            table.error(format_args!("`channel.history` does not go with {what}"), reason);
        }
    }
}
