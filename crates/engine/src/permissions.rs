//! Who may do what on which channel: templates filled from claims, and the rules of the classes.
//! Nothing here keeps state; the callers keep the results.

use std::cell::OnceCell;
use std::ops::Range;

use drawbridge_protocol::template::{MAX_PLACEHOLDERS, Params, Template};
use drawbridge_protocol::{Publish, channel};
use hashbrown::HashSet;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::class::{Class, ClassId, Classes, KeyError, Presence};
use crate::expr::Expr;
use crate::io::{Claims, Notice};
use crate::settings::Settings;
use crate::view::{RuleScope, bind, bind_me};

/// Why something is `FORBIDDEN`; the text is shown to the client where the settings explain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denied(pub(crate) String);

/// What [`filled_channels`] returns for one token. Why: it costs a walk through the claims, which is done at most once for
/// all channels that are checked together.
pub(crate) type Filled = OnceCell<HashSet<String>>;

/// Whether this player may subscribe to this real channel by name.
pub(crate) fn may_subscribe(settings: &Settings, claims: &Claims, channel: &str) -> Result<(), Denied> {
    may_subscribe_filled(settings, claims, channel, &Filled::default())
}

/// As [`may_subscribe`], one of several channels that are checked for the same token.
pub(crate) fn may_subscribe_filled(
    settings: &Settings,
    claims: &Claims,
    channel: &str,
    filled: &Filled,
) -> Result<(), Denied> {
    if settings.reserved.holds(channel) {
        return Err(Denied("this name is the server's own".into()));
    }
    let denied = match settings.classes.of_channel(channel) {
        None => Denied(format!("no class matches `{channel}`")),
        Some((_, class, params)) => {
            if class.subscribe.matches(&RuleScope::new(claims, channel, &params)) {
                return Ok(());
            }
            Denied(format!("class `{}`: subscribe = `{}`", class.name, class.subscribe))
        }
    };
    // Most channels begin as no template does; then the claims need not be read.
    let could = settings.auto_subscribe.iter().any(|template| channel.starts_with(template.literal_prefix()));
    let is_filled = || filled.get_or_init(|| filled_channels(settings, claims)).contains(channel);
    if could && is_filled() { Ok(()) } else { Err(denied) }
}

/// What in the class's rule could not be true for this player, where the rule compares a text with a number.
pub(crate) fn subscribe_misfit(settings: &Settings, claims: &Claims, name: &str) -> Option<String> {
    let (_, class, params) = settings.classes.of_channel(name)?;
    let scope = RuleScope::new(claims, name, &params);
    if channel::is_pattern(name) || class.subscribe.matches(&scope) {
        return None;
    }
    class.subscribe.misfit(&scope)
}

/// As [`subscribe_misfit`], of the rule for publishing.
pub(crate) fn publish_misfit(settings: &Settings, claims: &Claims, publish: &Publish) -> Option<String> {
    let channel = &*publish.channel;
    let (_, class, params) = settings.classes.of_channel(channel)?;
    let data = Some(publish.data.get());
    let scope = RuleScope {
        event: Some(&publish.event),
        data,
        key: publish.key.as_deref(),
        ..RuleScope::new(claims, channel, &params)
    };
    if class.publish.matches(&scope) { None } else { class.publish.misfit(&scope) }
}

/// The class of a pattern, if clients may subscribe by it. Access to its channels is decided one by one.
pub(crate) fn may_subscribe_pattern(settings: &Settings, pattern: &str) -> Result<(), Denied> {
    match settings.classes.of_pattern(pattern) {
        Some((_, class)) if class.patterns => Ok(()),
        Some((_, class)) => Err(Denied(format!("class `{}`: patterns = false", class.name))),
        None => Err(Denied(format!("no class matches the fixed part of `{pattern}`"))),
    }
}

/// The key of a client's event: what its class finds, or else what the client names. The `publish` rule sees it before it is
/// checked ([`Class::required_key`]).
pub(crate) fn key_of(settings: &Settings, publish: &Publish) -> Result<Option<String>, KeyError> {
    match settings.classes.class_of(&publish.channel) {
        None => Ok(publish.key.clone()),
        Some((_, class)) => {
            let key = class.key_of(publish.data.get(), None, publish.key.as_deref())?;
            Ok(key.map(|key| key.into_owned()))
        }
    }
}

/// Whether this player may publish this; returns the class.
pub(crate) fn may_publish<'s, 'c>(
    settings: &'s Settings,
    claims: &Claims,
    channel: &'c str,
    event: &str,
    data: &str,
    key: Option<&str>,
) -> Result<(ClassId, &'s Class, Params<'s, 'c>), Denied> {
    if settings.reserved.holds(channel) {
        return Err(Denied("this name is the server's own".into()));
    }
    let Some((id, class, params)) = settings.classes.of_channel(channel) else {
        return Err(Denied(format!("no class matches `{channel}`")));
    };
    let scope =
        RuleScope { event: Some(event), data: Some(data), key, ..RuleScope::new(claims, channel, &params) };
    if class.publish.matches(&scope) {
        return Ok((id, class, params));
    }
    Err(Denied(format!("class `{}`: publish = `{}`", class.name, class.publish)))
}

/// Who may know who is present on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayReadPresence {
    /// The class's rule grants it to this player.
    Yes,
    /// The class has no rule: its subscribers may.
    Subscribers,
    /// Nobody is counted there.
    NoPresence,
}

/// Whether this player may know who is present on a real channel.
pub(crate) fn may_read_presence(
    settings: &Settings,
    claims: &Claims,
    channel: &str,
) -> Result<MayReadPresence, Denied> {
    if settings.reserved.holds(channel) {
        return Err(Denied("this name is the server's own".into()));
    }
    let Some((_, class, params)) = settings.classes.of_channel(channel) else {
        return Err(Denied(format!("no class matches `{channel}`")));
    };
    match &class.presence_rule {
        _ if class.presence == Presence::Off => Ok(MayReadPresence::NoPresence),
        None => Ok(MayReadPresence::Subscribers),
        Some(rule) if rule.matches(&RuleScope::new(claims, channel, &params)) => Ok(MayReadPresence::Yes),
        Some(rule) => Err(Denied(format!("class `{}`: presence_rule = `{rule}`", class.name))),
    }
}

/// The server's view of a real channel, with the player's claims folded in: the class view, narrowed by the view override
/// that services have set for this player. `None`: everything.
pub(crate) fn server_view(
    settings: &Settings,
    claims: &Claims,
    channel: &str,
    view_override: Option<&Expr>,
) -> Option<Expr> {
    // Most channels are shown as they are, and then nothing is taken from their names.
    let has_view = settings.classes.class_of(channel).is_some_and(|(_, class)| class.view.is_some());
    if !has_view && view_override.is_none() {
        return None;
    }
    let class = settings.classes.of_channel(channel);
    let params = class.as_ref().map(|(_, _, params)| *params).unwrap_or_default();
    let scope = RuleScope::new(claims, channel, &params);
    let view = class.and_then(|(_, class, _)| class.view.as_ref()).map(|view| bind(view, &scope));
    let view_override = view_override.map(|view| bind(view, &scope));
    match (view, view_override) {
        (Some(view), Some(view_override)) => Some(view.and(&view_override)),
        (view, view_override) => view.or(view_override),
    }
}

/// The channels that a player's templates fill in.
#[derive(Debug, Default)]
pub(crate) struct Auto {
    /// The channels, in the order of the templates, each once; at most `limits.subscriptions`.
    pub(crate) channels: Vec<String>,
    /// The first of those that were too many, at most [`MAX_CUT`].
    pub(crate) cut: Vec<String>,
    /// Claims that are not fit for a channel name.
    pub(crate) skipped: Vec<Notice>,
}

/// Channels that were too many and are named.
pub(crate) const MAX_CUT: usize = 16;

/// The channels that this player's templates fill in, all of them together within the limit of subscriptions.
pub(crate) fn auto_channels(settings: &Settings, claims: &Claims) -> Auto {
    let mut auto = filled(settings, claims, settings.subscriptions + MAX_CUT);
    if auto.channels.len() > settings.subscriptions {
        auto.cut = auto.channels.split_off(settings.subscriptions);
        auto.skipped.push(Notice::ClaimSkipped {
            player: claims.player.clone(),
            template: "auto_subscribe".to_owned(),
            claim: auto.cut.first().cloned().unwrap_or_default(),
            reason: "more channels than a connection may subscribe to",
        });
    }
    auto
}

/// Whether what may be seen of channels by patterns is the same for two tokens of one player.
pub(crate) fn are_patterns_seen_alike(settings: &Settings, one: &Claims, other: &Claims) -> bool {
    let bound = |expr: &Expr, claims: &Claims| bind_me(expr, &RuleScope::new(claims, "", &[]));
    let is_same = |expr: &Expr| bound(expr, one) == bound(expr, other);
    one.json == other.json
        || (settings
            .classes
            .iter()
            .all(|(_, class)| is_same(&class.subscribe) && class.view.iter().all(is_same))
            && filled_channels(settings, one) == filled_channels(settings, other))
}

/// At most `limit` channels.
fn filled(settings: &Settings, claims: &Claims, limit: usize) -> Auto {
    let mut all: Map<String, Value> = serde_json::from_str(&claims.json).unwrap_or_default();
    // Whichever claim it comes from.
    all.insert("sub".to_owned(), Value::from(&*claims.player));
    let (mut auto, mut seen) = (Auto::default(), HashSet::new());
    for template in &settings.auto_subscribe {
        let mut filler = Filler {
            template,
            classes: &settings.classes,
            player: &claims.player,
            claims: &all,
            skipped: &mut auto.skipped,
            channels: Vec::new(),
            tried: 0,
        };
        // Channels that an earlier template has filled in do not count twice.
        filler.fill(&mut Vec::new(), limit);
        for channel in filler.channels {
            if settings.reserved.holds(&channel) {
                filler.skipped.push(Notice::ClaimSkipped {
                    player: claims.player.clone(),
                    template: template.to_string(),
                    claim: channel,
                    reason: "the channel's name is the server's own",
                });
            } else if auto.channels.len() < limit && seen.insert(channel.clone()) {
                auto.channels.push(channel);
            }
        }
    }
    auto
}

/// The channels that this player's templates fill in, also those beyond what is subscribed automatically: a right to subscribe by
/// name.
pub(crate) fn filled_channels(settings: &Settings, claims: &Claims) -> HashSet<String> {
    if settings.auto_subscribe.is_empty() {
        return HashSet::new();
    }
    let limit = settings.subscriptions.saturating_mul(Filler::TRIES);
    filled(settings, claims, limit).channels.into_iter().collect()
}

/// Fills one template with every combination of its claims' values.
struct Filler<'a> {
    template: &'a Template,
    classes: &'a Classes,
    player: &'a std::sync::Arc<str>,
    claims: &'a Map<String, Value>,
    skipped: &'a mut Vec<Notice>,
    channels: Vec<String>,
    /// Values tried, fit or not: lists multiply.
    tried: usize,
}

impl Filler<'_> {
    /// Values tried for each channel that may come out.
    const TRIES: usize = 4;
    /// Notices of one token; more would add nothing.
    const MAX_NOTICES: usize = 16;

    /// Goes through the placeholders; `chosen` holds the values of those before. At most `limit` channels come out.
    fn fill(&mut self, chosen: &mut Vec<(String, String)>, limit: usize) {
        let template = self.template;
        let Some(name) = template.placeholders().nth(chosen.len()) else {
            match self.channel(chosen) {
                Ok(channel) => self.channels.push(channel),
                Err(reason) => self.skip(chosen.last().map_or("", |(name, _)| name.as_str()), reason),
            }
            return;
        };
        let values = match self.claims.get(name) {
            None | Some(Value::Null) => return,
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        for value in values {
            self.tried += 1;
            if self.channels.len() >= limit || self.tried > limit.saturating_mul(Self::TRIES) {
                self.skip(name, "more channels than a connection may subscribe to");
                return;
            }
            match claim_text(value, template, name) {
                Ok(text) => {
                    chosen.push((name.to_owned(), text));
                    self.fill(chosen, limit);
                    chosen.pop();
                }
                Err(reason) => self.skip(name, reason),
            }
        }
    }

    /// The channel that these values make.
    ///
    /// Invariant: its class reads each value whole. Why: with `user-{id}-*`, the value `alice-x` of another player would make
    /// a channel of alice's.
    fn channel(&self, chosen: &[(String, String)]) -> Result<String, &'static str> {
        let lookup = |name: &str| chosen.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str().into());
        let mut values = SmallVec::<[Range<usize>; MAX_PLACEHOLDERS]>::new();
        let channel = self.template.fill_noting(lookup, |value| values.push(value));
        let channel = channel.filter(|channel| channel::validate(channel).is_ok());
        let channel = channel.ok_or("the channel's name is too long")?;
        let splits = match self.classes.of_channel(&channel) {
            Some((_, _, params)) => values.iter().any(|value| params.splits(&channel, value)),
            None => false,
        };
        match splits {
            true => Err("a placeholder of the channel's class would take a part of it only"),
            false => Ok(channel),
        }
    }

    fn skip(&mut self, claim: &str, reason: &'static str) {
        if self.skipped.len() >= Self::MAX_NOTICES {
            return;
        }
        let claim = claim.to_owned();
        self.skipped.push(Notice::ClaimSkipped {
            player: self.player.clone(),
            template: self.template.to_string(),
            claim,
            reason,
        });
    }
}

/// A claim's value as a part of a channel name: it must not be able to widen the template.
fn claim_text(value: &Value, template: &Template, name: &str) -> Result<String, &'static str> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err("neither a string nor a number"),
    };
    let widens = |c: char| {
        matches!(c, ':' | '*' | '?' | '[' | ']' | '\\' | '{' | '}') || c.is_whitespace() || c.is_control()
    };
    if text.is_empty() {
        return Err("empty");
    }
    if text.chars().any(widens) {
        return Err("holds a colon, glob character, brace, white space or control character");
    }
    if template.ends_within(name, &text) {
        return Err("holds a character that ends its placeholder in the template");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use drawbridge_protocol::template::ClassName;

    use super::*;
    use crate::settings::{Rate, Reserved};

    const SUBSCRIPTIONS: usize = 256;

    fn settings(templates: &[&str]) -> Settings {
        let plenty = Rate { per_second: 1_000_000, burst: 1_000_000 };
        Settings {
            node: "n".into(),
            instance: "n-1".into(),
            classes: Arc::new(Classes::default()),
            auto_subscribe: templates.iter().map(|text| Template::parse(text).unwrap()).collect(),
            allow_anonymous: false,
            connect_timeout_ms: 1_000,
            token_leeway_ms: 0,
            heartbeat_ms: 1_000,
            resume_window_ms: 0,
            detached_per_player: 1,
            detached_bytes: 1,
            outbound_bytes: 1 << 20,
            message_bytes: 65_536,
            subscriptions: SUBSCRIPTIONS,
            patterns_per_player: 32,
            connecting: 1 << 20,
            messages: plenty,
            subscribes: plenty,
            work: plenty,
            bytes: plenty,
            connections_per_player: None,
            messages_per_player: None,
            connections_per_address: None,
            messages_per_address: None,
            lifecycle_stream: None,
            reserved: Reserved::new("drawbridge:"),
            external_bytes: 1 << 20,
            views_open_without_permission: false,
            snapshot_steps: crate::work::SNAPSHOT_STEPS,
            explain: false,
        }
    }

    fn claims(claims: &Value) -> Claims {
        Claims { player: "alice".into(), expires_unix_ms: None, json: claims.to_string().into() }
    }

    #[test]
    fn many_claims_give_each_channel_once_and_no_more_than_the_bounds() {
        let settings = settings(&["guild:{guilds}", "guild:{more}", "pair:{guilds}:{more}"]);
        let guilds: Vec<String> = (0..4_000).map(|n| format!("g{}", n % 300)).collect();
        let claims = claims(&serde_json::json!({ "guilds": guilds, "more": guilds }));
        let auto = auto_channels(&settings, &claims);
        let first: Vec<String> = (0..SUBSCRIPTIONS).map(|n| format!("guild:g{n}")).collect();
        assert_eq!(auto.channels, first);
        assert_eq!(auto.cut.len(), MAX_CUT);
        assert!(auto.skipped.len() <= 3 * Filler::MAX_NOTICES + 1, "{}", auto.skipped.len());
        let all = filled_channels(&settings, &claims);
        assert!(all.len() <= SUBSCRIPTIONS * Filler::TRIES, "{}", all.len());
        assert!((0..300).all(|n| all.contains(&format!("guild:g{n}"))));
    }

    fn filled(classes: &[&str], template: &str, value: &str) -> (HashSet<String>, Vec<Notice>) {
        let classes = classes.iter().map(|name| Class::plain(ClassName::parse(name).unwrap())).collect();
        let settings = Settings { classes: Classes::new(classes), ..settings(&[template]) };
        let claims = claims(&serde_json::json!({ "v": value, "w": "w" }));
        let auto = auto_channels(&settings, &claims);
        assert_eq!(
            auto.channels.iter().cloned().collect::<HashSet<_>>(),
            filled_channels(&settings, &claims)
        );
        (auto.channels.into_iter().collect(), auto.skipped)
    }

    /// No claim grants another player's channel.
    #[test]
    fn a_claims_value_cannot_widen_its_template() {
        let refused: &[(&[&str], &str, &str)] = &[
            (&["user-{id}-*"], "user-{v}-inbox", "alice-x"),
            (&["guild-{g}-chat"], "guild-{v}-chat", "a-b"),
            (&[], "guild-{v}-chat", "a-b"),
            (&["user-{id}-*"], "user-{v}", "alice-inbox"),
            (&["user-{id}-{rest}"], "user-{v}", "alice-x"),
            (&["user-al{id}"], "user-{v}", "alice"),
            (&["{a}/{b}"], "{v}", "x/y"),
            (&["user.{id}.*"], "user.{v}", "alice.x"),
            (&["pair_{p}-{q}"], "pair_{v}_{w}", "a-b"),
            (&["team{id}red"], "team{v}red", "x-red"),
        ];
        for (classes, template, value) in refused {
            let (channels, skipped) = filled(classes, template, value);
            assert!(channels.is_empty(), "{template} with {value}: {channels:?}");
            assert!(matches!(&skipped[..], [Notice::ClaimSkipped { .. }]), "{template} with {value}");
        }
    }

    #[test]
    fn a_value_that_its_class_reads_whole_is_taken() {
        let taken: &[(&[&str], &str, &str, &str)] = &[
            (&["user-{id}-*"], "user-{v}-inbox", "alice", "user-alice-inbox"),
            (&["user-{id}"], "user-{v}", "9f3e-11.x", "user-9f3e-11.x"),
            (&["user-{id}"], "user-{v}_inbox", "alice-x", "user-alice-x_inbox"),
            (&["player:{id}"], "player:{v}", "alice-x.y", "player:alice-x.y"),
            (&["player:*"], "player:{v}", "alice-x", "player:alice-x"),
            (&["player:alice"], "player:{v}", "alice", "player:alice"),
            (&["other:{id}"], "player:{v}-{w}", "alice", "player:alice-w"),
            (&["pair:{p}"], "pair:{v}-{w}", "a", "pair:a-w"),
        ];
        for (classes, template, value, channel) in taken {
            let (channels, skipped) = filled(classes, template, value);
            assert_eq!(channels, HashSet::from([(*channel).to_owned()]), "{template} with {value}");
            assert!(skipped.is_empty(), "{template} with {value}: {skipped:?}");
        }
    }

    #[test]
    fn templates_are_filled_once_for_all_channels_that_are_checked_together() {
        let settings = settings(&["guild:{guilds}"]);
        let claims = claims(&serde_json::json!({ "guilds": ["a", "b"] }));
        let filled = Filled::default();
        assert!(may_subscribe_filled(&settings, &claims, "room:1", &filled).is_err());
        assert!(filled.get().is_none(), "no template begins so");
        assert!(may_subscribe_filled(&settings, &claims, "guild:c", &filled).is_err());
        // What is there is used: it would be filled with nothing by other claims.
        let other = self::claims(&serde_json::json!({}));
        assert_eq!(may_subscribe_filled(&settings, &other, "guild:b", &filled), Ok(()));
        assert!(may_subscribe(&settings, &other, "guild:b").is_err());
    }
}
