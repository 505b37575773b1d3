//! What one connection may see of the real channels that reach it through its patterns: the rights and the server's view of
//! each, decided once a channel however many patterns match it. The claims are folded into the rules of each class once,
//! so that deciding about one more channel does not read them again.

use std::rc::Rc;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::class::{Class, ClassId};
use crate::expr::Expr;
use crate::io::{Claims, Epoch};
use crate::permissions;
use crate::recent::Recent;
use crate::settings::Settings;
use crate::view::{EffectiveView, EffectiveViews, RuleScope, bind, bind_me};

/// For how many channels one generation of a connection's decisions holds.
const CHANNELS: usize = 1_024;

/// What a connection may see of a channel.
#[derive(Debug)]
pub(crate) enum Access {
    /// Nothing.
    Denied,
    /// What the server's view shows; `None`: everything.
    Granted(Option<Rc<EffectiveView>>),
}

/// What is known of a channel.
#[derive(Debug)]
struct Known {
    access: Access,
    /// On a channel with history: the epoch of the last `POSITION` that the client was sent.
    announced: Option<Epoch>,
    /// The last of its logged events that was sent, as a number of publication.
    last_shown: u64,
}

/// See the module. Void when the claims change.
#[derive(Debug)]
pub(crate) struct AccessCache {
    channels: Recent<Known>,
    rules: HashMap<ClassId, PlayerRules>,
    /// The channels that the player's templates fill, once a rule has denied one.
    filled: Option<HashSet<String>>,
}

/// The rules of a class with the player folded in.
#[derive(Debug)]
struct PlayerRules {
    subscribe: Expr,
    view: Option<Expr>,
}

impl Default for AccessCache {
    fn default() -> Self {
        AccessCache { channels: Recent::new(CHANNELS), rules: HashMap::new(), filled: None }
    }
}

impl AccessCache {
    /// What the player of these claims may see. `view_override` returns the channel's view override; it is called if the channel
    /// is not cached.
    pub(crate) fn of<'n>(
        &mut self,
        settings: &Settings,
        claims: &Claims,
        view_override: impl FnOnce() -> Option<&'n Expr>,
        views: &mut EffectiveViews,
        channel: &Arc<str>,
    ) -> &Access {
        if self.channels.get(channel).is_none() {
            let access = self.decide(settings, claims, view_override(), views, channel);
            let known = Known { access, announced: None, last_shown: 0 };
            self.channels.insert(channel.clone(), known, 1);
        }
        self.channels.get(channel).map_or(&Access::Denied, |known| &known.access)
    }

    /// Records that a logged event is sent. Returns whether `POSITION` must precede it, because it is the first of its epoch,
    /// as far as is remembered.
    pub(crate) fn is_new_epoch(&mut self, channel: &str, epoch: Epoch, publication_seq: u64) -> bool {
        let Some(known) = self.channels.get(channel) else { return true };
        known.last_shown = publication_seq;
        known.announced.replace(epoch) != Some(epoch)
    }

    /// Whether a client that knows where it is in a channel was shown nothing since this event.
    pub(crate) fn has_missed(&mut self, channel: &str, publication_seq: u64) -> bool {
        let known = self.channels.get(channel);
        known.is_some_and(|known| known.announced.is_some() && known.last_shown < publication_seq)
    }

    /// What services narrowed of a channel has changed.
    pub(crate) fn forget(&mut self, channel: &str) {
        self.channels.remove(channel);
    }

    fn decide(
        &mut self,
        settings: &Settings,
        claims: &Claims,
        view_override: Option<&Expr>,
        views: &mut EffectiveViews,
        channel: &str,
    ) -> Access {
        if settings.reserved.holds(channel) {
            return Access::Denied;
        }
        let found = settings.classes.of_channel(channel);
        let params = found.as_ref().map(|(_, _, params)| *params).unwrap_or_default();
        let scope = RuleScope::new(claims, channel, &params);
        let rules = found
            .map(|(id, class, _)| &*self.rules.entry(id).or_insert_with(|| PlayerRules::new(class, &scope)));
        let is_allowed = rules.is_some_and(|rules| rules.subscribe.matches(&scope))
            || self
                .filled
                .get_or_insert_with(|| permissions::filled_channels(settings, claims))
                .contains(channel);
        if !is_allowed {
            return Access::Denied;
        }
        let view = rules.and_then(|rules| rules.view.as_ref()).map(|view| bind(view, &scope));
        let view_override = view_override.map(|view| bind(view, &scope));
        let server = match (view, view_override) {
            (Some(view), Some(view_override)) => Some(view.and(&view_override)),
            (view, view_override) => view.or(view_override),
        };
        Access::Granted(views.get(server, None))
    }
}

impl PlayerRules {
    fn new(class: &Class, scope: &RuleScope<'_>) -> Self {
        let subscribe = bind_me(&class.subscribe, scope);
        PlayerRules { subscribe, view: class.view.as_ref().map(|view| bind_me(view, scope)) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_protocol::template::ClassName;

    use super::*;
    use crate::class::Classes;
    use crate::expr::{Vars, compile};
    use crate::settings::{Rate, Reserved};

    fn settings() -> Settings {
        let rule = |source| compile(source, Vars::SUBSCRIBE_RULE).unwrap();
        let class = |name, subscribe, view: Option<&str>| Class {
            subscribe: rule(subscribe),
            view: view.map(|view| compile(view, Vars::VIEW_RULE).unwrap()),
            patterns: true,
            ..Class::plain(ClassName::parse(name).unwrap())
        };
        let rate = Rate { per_second: 1, burst: 1 };
        Settings {
            node: "n".into(),
            instance: "n-1".into(),
            classes: Classes::new(vec![
                class("room:{room}", "params.room in me.rooms", None),
                class("team:{team}", "true", Some("data.team == me.team && data.at == params.team")),
            ]),
            auto_subscribe: vec![drawbridge_protocol::template::Template::parse("room:{home}").unwrap()],
            allow_anonymous: false,
            token_leeway_ms: 0,
            connect_timeout_ms: 1,
            heartbeat_ms: 1,
            resume_window_ms: 0,
            detached_per_player: 1,
            detached_bytes: 1,
            outbound_bytes: 1,
            message_bytes: 1,
            subscriptions: 8,
            patterns_per_player: 8,
            connecting: 1 << 20,
            messages: rate,
            subscribes: rate,
            work: rate,
            bytes: rate,
            messages_per_player: None,
            connections_per_player: None,
            connections_per_address: None,
            messages_per_address: None,
            lifecycle_stream: None,
            reserved: Reserved::new("own:"),
            external_bytes: 1,
            views_open_without_permission: false,
            snapshot_steps: crate::work::SNAPSHOT_STEPS,
            explain: false,
        }
    }

    fn claims() -> Claims {
        let json = r#"{"rooms":["1","2"],"team":"red","home":"9"}"#;
        Claims { player: "ann".into(), expires_unix_ms: None, json: json.into() }
    }

    /// The decision equals that of the unfolded rules, in any order and however often it is made.
    #[test]
    fn decides_as_a_subscription_by_name_would() {
        let (settings, claims, mut views) = (settings(), claims(), EffectiveViews::default());
        let mut cache = AccessCache::default();
        for channel in ["room:1", "room:3", "room:9", "team:a", "own:x", "else", "room:1"] {
            let by_name = permissions::may_subscribe(&settings, &claims, channel).is_ok();
            let access = cache.of(&settings, &claims, || None, &mut views, &channel.into());
            assert_eq!(matches!(access, Access::Granted(_)), by_name, "{channel}");
            let view = permissions::server_view(&settings, &claims, channel, None);
            if let Access::Granted(granted) = access {
                let granted = granted.as_ref().and_then(|view| view.server().map(Expr::to_string));
                assert_eq!(granted, view.map(|view| view.to_string()), "{channel}");
            }
        }
    }

    /// With other claims at hand nothing changes: the ones of before are folded in, and not read again.
    #[test]
    fn the_claims_are_read_once() {
        let (settings, claims, mut views) = (settings(), claims(), EffectiveViews::default());
        let mut cache = AccessCache::default();
        cache.of(&settings, &claims, || None, &mut views, &"room:1".into());
        cache.of(&settings, &claims, || None, &mut views, &"room:7".into());
        let none = Claims { json: "{}".into(), ..claims };
        for (channel, granted) in [("room:2", true), ("room:3", false), ("room:9", true)] {
            let access = cache.of(&settings, &none, || None, &mut views, &channel.into());
            assert_eq!(matches!(access, Access::Granted(_)), granted, "{channel}");
        }
    }

    #[test]
    fn what_services_narrow_counts_once_the_channel_is_forgotten() {
        let (settings, claims, mut views) = (settings(), claims(), EffectiveViews::default());
        let mut cache = AccessCache::default();
        let nothing = Expr::never();
        let channel: Arc<str> = "room:1".into();
        assert!(matches!(cache.of(&settings, &claims, || None, &mut views, &channel), Access::Granted(None)));
        let known = cache.of(&settings, &claims, || Some(&nothing), &mut views, &channel);
        assert!(matches!(known, Access::Granted(None)), "decided");
        cache.forget(&channel);
        let access = cache.of(&settings, &claims, || Some(&nothing), &mut views, &channel);
        assert!(matches!(access, Access::Granted(Some(_))));
    }
}
