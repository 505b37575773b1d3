//! A connection that is made again and again: how long to wait between attempts, and what the person who watches reads of it. How a
//! connection is made is left to the command.

use std::time::{Duration, Instant};

/// The first wait; each further one of an outage is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Connection {
    has_worked: bool,
    outage: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    wait: Duration,
    /// The reason that was reported last.
    reported: String,
}

impl Connection {
    /// Whether it has ever worked. One that never did has a wrong address or no permission, and is not tried again.
    pub(super) fn has_worked(&self) -> bool {
        self.has_worked
    }

    /// It works, as these words say; returns what to report.
    pub(super) fn works(&mut self, words: &str) -> String {
        self.has_worked = true;
        match self.outage.take() {
            None => words.to_owned(),
            Some(outage) => format!(
                "{words} again; what was published in the {:.1} s in between is not shown",
                outage.since.elapsed().as_secs_f64()
            ),
        }
    }

    /// It was lost, or could not be made again; returns what to report, each reason once, and when to try.
    pub(super) fn lost(&mut self, reason: &str) -> (Option<String>, Duration) {
        let outage = self.outage.get_or_insert_with(|| Outage {
            since: Instant::now(),
            wait: FIRST_WAIT,
            reported: String::new(),
        });
        let wait = outage.wait;
        outage.wait = (wait * 2).min(LAST_WAIT);
        let is_new = outage.reported != reason;
        reason.clone_into(&mut outage.reported);
        let note = is_new.then(|| format!("{reason}; reconnecting, until Ctrl-C ends this"));
        (note, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_start_again_after_a_connection() {
        let mut connection = Connection::default();
        assert!(!connection.has_worked());
        assert_eq!(connection.works("connected"), "connected");
        let waits = |connection: &mut Connection| (0..10).map(|_| connection.lost("x").1).collect::<Vec<_>>();
        let first = waits(&mut connection);
        assert_eq!(first[..3], [FIRST_WAIT, FIRST_WAIT * 2, FIRST_WAIT * 4]);
        assert_eq!(first.last(), Some(&LAST_WAIT));
        connection.works("connected");
        assert_eq!(waits(&mut connection), first);
        assert!(connection.has_worked());
    }

    #[test]
    fn each_reason_is_reported_once_and_the_return_says_what_is_missing() {
        let mut connection = Connection::default();
        connection.works("connected");
        assert_eq!(
            connection.lost("closed").0.as_deref(),
            Some("closed; reconnecting, until Ctrl-C ends this")
        );
        assert!(connection.lost("refused").0.is_some());
        assert!(connection.lost("refused").0.is_none());
        let back = connection.works("connected");
        assert!(back.starts_with("connected again; what was published in the "), "{back}");
        assert!(back.ends_with(" s in between is not shown"), "{back}");
        assert!(connection.lost("refused").0.is_some(), "a new outage");
    }
}
