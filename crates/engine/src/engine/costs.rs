//! What requests cost beside the message that carries them, and who pays: subscriptions, drawn from buckets that all
//! connections of a player share. The buckets themselves are in [`crate::rate_limit`], the limits of messages and
//! bytes in `requests`.

use drawbridge_protocol::ErrorCode;

use super::Engine;
use super::subscribe::Refusal;
use crate::connection::Phase;
use crate::io::ConnId;
use crate::rate_limit::{ABUSE_WINDOW_MS, Verdict};
use crate::settings::Rate;

impl Engine {
    /// Draws one subscription from the player's bucket, before anything is done for it.
    pub(super) fn take_subscribe(&mut self, id: ConnId) -> Result<(), Refusal> {
        let Some(account) = self.connections.get(id).and_then(|conn| conn.account()) else { return Ok(()) };
        let verdict = self.limits.take_subscribe(self.now.mono_ms, &account);
        let rate = self.settings.subscribes_per_player();
        let (retry_after_ms, is_abuse) = match verdict {
            Verdict::Allowed => return Ok(()),
            Verdict::Limited { retry_after_ms } => (retry_after_ms, false),
            Verdict::Abuse => (ABUSE_WINDOW_MS, true),
        };
        let refusal =
            rate_limited("subscriptions of a player", rate, retry_after_ms + self.turn_ms(id, rate));
        Err(Refusal { is_abuse, ..refusal })
    }

    /// How much later than the first one that `CONNECT` was refused this one is granted, so that not all of them are
    /// retried at the moment at which one would be granted.
    fn turn_ms(&mut self, id: ConnId, rate: Rate) -> u64 {
        match self.connections.get_mut(id).map(|conn| &mut conn.phase) {
            Some(Phase::Joining(joining)) => {
                joining.limited += 1;
                (joining.limited - 1).saturating_mul(1_000) / rate.per_second.max(1)
            }
            _ => 0,
        }
    }
}

/// The refusal of a request over a rate. `of`: what the rate limits.
fn rate_limited(of: &str, rate: Rate, retry_after_ms: u64) -> Refusal {
    let Rate { per_second, burst } = rate;
    let text =
        format!("rate limit exceeded ({of}: {per_second}/s, burst {burst}); retry in {retry_after_ms} ms");
    Refusal { retry_after_ms: Some(retry_after_ms), ..Refusal::new(ErrorCode::RateLimited, text) }
}
