//! How far one subscription of one session has come. It owns the rule that nothing is called subscribed before Redis has
//! confirmed it: `CHANNEL_SUBSCRIBED`, and what `WELCOME` lists as confirmed, are made from a [`Success`], and only this
//! file makes one.
//!
//! ```text
//!              preconditions: Confirmed (Redis has confirmed the subject), ViewsKnown (the view overrides are read),
//!              CaughtUp (on a channel with history: what was missed has been sent)
//!
//!   subscribe ──▶ Waiting { what is missing } ── the last one is met: Success ──▶ Live
//!                   ▲          │ ▲                                              │   ▲
//!                   │          │ └───── suspend: its views are stale ───────────┤   │ confirmed again: Success,
//!                   └──────────┘                                      link broke│   │ and RESYNC
//!            link broke: Confirmed is missing again                             ▼   │
//!                                                                            Interrupted
//!   any of them ──▶ ended: its entry is removed, and answers that wait for it are refused
//! ```
//!
//! An interrupted subscription is shown whatever still comes, but a new request about it is answered only when Redis has
//! confirmed it again. If its views are not known at that time either, it goes back to `Waiting`.
//!
//! A subscription that has to catch up only has succeeded: it is called subscribed, and shown no logged event until what it
//! missed has been sent.

use crate::io::InLog;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A precondition is missing: it is shown nothing.
    Waiting(Met),
    /// It is shown what comes.
    Live,
    /// It was live, and the link to Redis broke.
    Interrupted,
}

/// Which preconditions of a waiting subscription are met. Invariant: never all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    confirmed: bool,
    overrides_known: bool,
    caught_up: bool,
}

/// Redis has confirmed a subscription, and its session's views are known: the success may be sent to the client.
#[derive(Debug)]
pub(crate) struct Success(());

/// What Redis' confirmation means for one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnConfirmed {
    /// It is live.
    Live,
    /// It was live before the link broke, and is again: something may be missing.
    LiveAfterBreak,
    /// Its views are not known.
    StillWaiting,
    /// It was live before the link broke, and its views are not known: once they are, what it missed is sent from the channel's
    /// log, or the client is notified of the gap.
    Suspended,
}

impl Phase {
    /// A new subscription.
    pub(crate) fn start(confirmed: bool, overrides_known: bool) -> Phase {
        Phase::from_met(Met { confirmed, overrides_known, caught_up: true })
    }

    fn from_met(met: Met) -> Phase {
        let is_live = met.confirmed && met.overrides_known && met.caught_up;
        if is_live { Phase::Live } else { Phase::Waiting(met) }
    }

    /// Whether events that come are shown to it.
    #[inline]
    pub(crate) fn is_shown_events(self) -> bool {
        !matches!(self, Phase::Waiting(_))
    }

    /// Whether an event that comes is shown to it: what it missed of a log holds up logged events only.
    #[inline]
    pub(crate) fn shows(self, in_log: InLog) -> bool {
        self.is_shown_events() || (in_log == InLog::Volatile && self.has_to_catch_up_only())
    }

    /// The answer to a request about it, if it can be given now.
    pub(crate) fn success(self) -> Option<Success> {
        (self == Phase::Live || self.has_to_catch_up_only()).then_some(Success(()))
    }

    /// What can be said of it without having been asked: it was confirmed, even if its link has broken since. (`RESYNC`
    /// follows when the link is back.)
    pub(crate) fn success_so_far(self) -> Option<Success> {
        (self.is_shown_events() || self.has_to_catch_up_only()).then_some(Success(()))
    }

    /// Redis has confirmed its subject. `overrides_known`: its session's views are known now. `after_break`: the subject was
    /// confirmed before, and its link broke.
    pub(crate) fn confirm(&mut self, overrides_known: bool, after_break: bool) -> OnConfirmed {
        let was_shown = self.is_shown_events();
        *self = match *self {
            Phase::Waiting(met) => Phase::from_met(Met { confirmed: true, overrides_known, ..met }),
            // Its views are read again, but nothing is missing: it is shown what its old views say until then.
            _ if overrides_known || !after_break => Phase::Live,
            _ => Phase::start(true, false),
        };
        match (*self == Phase::Live, was_shown) {
            (true, true) if after_break => OnConfirmed::LiveAfterBreak,
            (true, _) => OnConfirmed::Live,
            (false, true) => OnConfirmed::Suspended,
            (false, false) => OnConfirmed::StillWaiting,
        }
    }

    /// The link that carries its subject has broken.
    pub(crate) fn interrupt(&mut self) {
        *self = match *self {
            Phase::Waiting(met) => Phase::Waiting(Met { confirmed: false, ..met }),
            Phase::Live | Phase::Interrupted => Phase::Interrupted,
        };
    }

    /// Its views are stale: it is shown nothing until they are known. Returns whether it was shown events until now.
    pub(crate) fn suspend(&mut self) -> bool {
        let was_shown = self.is_shown_events();
        *self = match *self {
            Phase::Waiting(met) => Phase::Waiting(Met { overrides_known: false, ..met }),
            Phase::Live => Phase::start(true, false),
            Phase::Interrupted => Phase::start(false, false),
        };
        was_shown
    }

    /// Whether nothing but what it missed is missing.
    fn has_to_catch_up_only(self) -> bool {
        matches!(self, Phase::Waiting(Met { confirmed: true, overrides_known: true, .. }))
    }

    /// Whether a request about it waits for Redis.
    pub(crate) fn is_pending(self) -> bool {
        !self.is_shown_events() && !self.has_to_catch_up_only()
    }

    /// Whether what it missed has been sent.
    pub(crate) fn is_caught_up(self) -> bool {
        !matches!(self, Phase::Waiting(Met { caught_up: false, .. }))
    }

    /// It is shown no logged event until what it missed has been sent.
    pub(crate) fn fall_behind(&mut self) {
        let met = match *self {
            Phase::Waiting(met) => met,
            Phase::Live => Met { confirmed: true, overrides_known: true, caught_up: false },
            Phase::Interrupted => Met { confirmed: false, overrides_known: true, caught_up: false },
        };
        *self = Phase::Waiting(Met { caught_up: false, ..met });
    }

    /// What it missed has been sent.
    pub(crate) fn caught_up(&mut self) {
        if let Phase::Waiting(met) = *self {
            *self = Phase::from_met(Met { caught_up: true, ..met });
        }
    }

    /// Its session's views are known.
    pub(crate) fn overrides_known(&mut self) {
        if let Phase::Waiting(met) = *self {
            *self = Phase::from_met(Met { overrides_known: true, ..met });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_succeeds_before_both_preconditions_are_met_in_whichever_order() {
        let mut phase = Phase::start(false, false);
        assert!(phase.success().is_none() && phase.success_so_far().is_none());
        assert_eq!(phase.confirm(false, false), OnConfirmed::StillWaiting);
        assert!(phase.success().is_none());
        phase.overrides_known();
        assert!(phase.success().is_some() && phase.success_so_far().is_some());

        let mut phase = Phase::start(false, false);
        phase.overrides_known();
        assert!(phase.success().is_none());
        assert_eq!(phase.confirm(true, false), OnConfirmed::Live);
        assert!(phase.success().is_some());
    }

    #[test]
    fn a_break_takes_the_confirmation_of_what_waits_and_of_what_is_live() {
        let mut phase = Phase::start(true, false);
        phase.interrupt();
        phase.overrides_known();
        assert!(phase.success().is_none());
        assert_eq!(phase.confirm(true, true), OnConfirmed::Live, "it was shown nothing before");

        phase.interrupt();
        assert!(phase.is_shown_events() && phase.success_so_far().is_some());
        assert!(phase.success().is_none(), "a new request waits");
        assert_eq!(phase.confirm(true, true), OnConfirmed::LiveAfterBreak);
    }

    #[test]
    fn what_has_to_catch_up_has_succeeded_and_is_shown_nothing() {
        let mut phase = Phase::start(false, false);
        phase.fall_behind();
        phase.overrides_known();
        assert!(phase.success().is_none() && phase.is_pending());
        assert_eq!(phase.confirm(true, false), OnConfirmed::StillWaiting);
        assert!(phase.success().is_some() && !phase.is_pending() && !phase.is_shown_events());
        assert!(phase.shows(InLog::Volatile) && !phase.shows(InLog::NoLog));
        phase.interrupt();
        assert!(phase.success().is_none() && !phase.is_caught_up(), "it is to be confirmed again");
        assert_eq!(phase.confirm(true, true), OnConfirmed::StillWaiting);
        phase.caught_up();
        assert_eq!(phase, Phase::Live);
    }

    #[test]
    fn stale_views_suspend() {
        let mut phase = Phase::Live;
        phase.interrupt();
        assert_eq!(phase.confirm(false, true), OnConfirmed::Suspended);
        assert!(!phase.is_shown_events());
        phase.overrides_known();
        assert_eq!(phase, Phase::Live);
        assert!(phase.suspend());
        assert!(!phase.suspend(), "it was suspended already");
        phase.interrupt();
        phase.overrides_known();
        assert!(phase.success().is_none());
        assert_eq!(phase.confirm(true, true), OnConfirmed::Live);
    }
}
