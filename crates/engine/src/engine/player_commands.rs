//! What services command about a player, on whichever node the player is (contract §9).

use super::Engine;
use super::refusal::Refusal;
use super::subscribe::Ended;
use crate::io::{PlayerAction, PlayerCommand, SessionId, Subject};
use crate::permissions;
use crate::session::{Origin, Phase};
use crate::targets::{Reply, TargetId};
use drawbridge_protocol::{CloseCode, ErrorCode};

impl Engine {
    pub(super) fn command(&mut self, command: &PlayerCommand) {
        let Some(ids) = self.players.get(&command.player).cloned() else { return };
        for id in ids {
            match &command.action {
                PlayerAction::Subscribe { channel } => self.subscribe_by_server(id, channel),
                PlayerAction::Unsubscribe { channel } => self.unsubscribe_by_server(id, channel),
                PlayerAction::View { channel, view } => self.override_view(id, channel, view.as_deref()),
                PlayerAction::TakenOver { session, generation, node } => {
                    self.taken_over(id, *session, *generation, node);
                }
                PlayerAction::Disconnect { reason } => {
                    let word = reason.as_deref().unwrap_or("kicked");
                    self.close_with_word(id, CloseCode::Kicked, word.to_owned(), word);
                }
            }
        }
    }

    /// The service's word is the right; the class's view still applies.
    pub(super) fn subscribe_by_server(&mut self, id: SessionId, channel: &str) {
        let Ok(subject) = Subject::parse(channel) else { return };
        let session = &self.sessions[id];
        let full = session.subscriptions.len() >= self.settings.subscriptions;
        let reply = match session.phase {
            Phase::Open => Reply::Server,
            Phase::Detached => Reply::Silent,
            _ => Reply::Welcome,
        };
        let pattern_allowed = || permissions::may_subscribe_pattern(&self.settings, channel).is_ok();
        if self.settings.reserved.holds(channel) || (subject.is_pattern() && !pattern_allowed()) {
            return;
        }
        if let Some(target) = self.subscribed_target(id, &subject) {
            return self.take_over(id, target);
        }
        let is_taken = match full {
            true => Err(Refusal::new(ErrorCode::LimitExceeded, self.too_many_subscriptions())),
            false => self.take_pattern(id, &subject),
        };
        match is_taken {
            Ok(()) => self.add_subscription(id, &subject, Origin::Server, None, None, reply),
            Err(refusal) if matches!(reply, Reply::Server) => {
                self.refuse_subscription(id, None, channel, &refusal, false);
            }
            Err(_) => {}
        }
    }

    /// The subscription is there already; from now on it is the service's, and no claim ends it.
    fn take_over(&mut self, id: SessionId, target: TargetId) {
        let session = &mut self.sessions[id];
        let open = session.is_open();
        let theirs = session.subscriptions.iter_mut().find(|subscription| subscription.target == target);
        let before = theirs.map(|subscription| std::mem::replace(&mut subscription.origin, Origin::Server));
        let subscriber = self.targets[target].subscriber(session, target);
        let success = subscriber.and_then(|theirs| theirs.phase.success_so_far());
        if let Some(success) = success
            && open
            && before.is_some_and(|origin| origin != Origin::Server)
        {
            self.notify_subscribed(id, target, &Reply::Server, &success);
        }
    }

    fn unsubscribe_by_server(&mut self, id: SessionId, channel: &str) {
        let target = Subject::parse(channel).ok().and_then(|subject| self.subscribed_target(id, &subject));
        if let Some(target) = target {
            self.end_subscription(id, target, Ended::ByServer);
        }
    }
}
