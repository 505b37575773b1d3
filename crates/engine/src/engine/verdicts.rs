//! What the log of a channel says of the position with which a session came back: reported once, in `WELCOME`, or after it by
//! `CHANNEL_SUBSCRIBED`. What follows from it is sent in [`super::catch_up`].

use drawbridge_protocol::{ServerMessage, SubscriptionInfo};

use super::Engine;
use super::catch_up::{Recovery, Resuming};
use crate::io::{ChannelPosition, LogPosition, SessionId};
use crate::phase::Success;
use crate::session::Origin;
use crate::targets::TargetId;

impl Engine {
    /// Reports once what the log says of a session's position: in `WELCOME`, or after it.
    pub(super) fn report_verdict(&mut self, one: &mut Resuming, recovery: Recovery) {
        if one.verdict.is_some() {
            return;
        }
        one.verdict = Some(recovery);
        self.recovered(one.session, one.target, recovery);
        let slot = self.sessions[one.session].slot_of(one.target);
        let success = self.targets[one.target].subscriber_at(slot).phase.success();
        if let Some(success) = success.filter(|_| std::mem::take(&mut one.is_pending)) {
            self.notify_recovered(one.session, one.target, one.cursor, recovery, &success);
        }
    }

    /// `WELCOME` has listed channels as pending that Redis has not confirmed, or whose logs have not said what this session's
    /// positions mean. They are confirmed when both are known.
    pub(super) fn await_verdicts(&mut self, id: SessionId) {
        let Some(behind) = &self.sessions[id].catching_up else { return };
        for channel in &behind.channels {
            let own = self.targets.find_channel(channel);
            let Some(log) = self.logs.get_mut(channel) else { continue };
            let theirs = |one: &&mut Resuming| one.session == id && Some(one.target) == own;
            let Some(one) = log.resuming.iter_mut().find(theirs) else { continue };
            let slot = self.sessions[id].slot_of(one.target);
            let phase = self.targets[one.target].subscriber_at(slot).phase;
            one.is_pending = one.verdict.is_none() || phase.success_so_far().is_none();
        }
    }

    /// Redis has confirmed a subscription. If it waits for its log's verdict, too, this sends `CHANNEL_SUBSCRIBED` once that is
    /// known, and returns true: the caller sends nothing.
    pub(super) fn confirm_with_verdict(
        &mut self,
        id: SessionId,
        target: TargetId,
        success: &Success,
    ) -> bool {
        let channel = self.targets[target].subject.name.clone();
        let Some(log) = self.logs.get_mut(&channel) else { return false };
        let theirs = |one: &&mut Resuming| one.session == id && one.target == target && one.is_pending;
        let Some(one) = log.resuming.iter_mut().find(theirs) else { return false };
        let (cursor, verdict) = (one.cursor, one.verdict);
        if let Some(verdict) = verdict {
            one.is_pending = false;
            self.notify_recovered(id, target, cursor, verdict, success);
        }
        true
    }

    /// `CHANNEL_SUBSCRIBED` of a channel that was pending in the `WELCOME` of a resume.
    fn notify_recovered(
        &mut self,
        id: SessionId,
        target: TargetId,
        cursor: LogPosition,
        recovery: Recovery,
        success: &Success,
    ) {
        let session = &mut self.sessions[id];
        let auto = session.subscription(target).is_some_and(|held| held.origin == Origin::Auto);
        let position = Some(ChannelPosition::Logged(cursor));
        let subscription = SubscriptionInfo {
            auto,
            recovered: Some(recovery == Recovery::Recovered),
            ..self.targets[target].info(Some(success), &position)
        };
        let message = ServerMessage::Subscribed { id: None, subscription, by_server: false };
        self.out.send(session, &message);
    }
}
