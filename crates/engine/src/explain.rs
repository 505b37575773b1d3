//! Why a request is granted or denied, step by step, for the operator who wrote the rules (`drawbridge explain`).
//! The verdict is that of [`crate::permissions`], the code that decides for players; the steps list what it evaluated.

use drawbridge_protocol::Publish;
use drawbridge_protocol::channel;
use drawbridge_protocol::template::Params;

use crate::class::Class;
use crate::expr::{Expr, Trace};
use crate::io::Claims;
use crate::permissions::{self, Denied};
use crate::session::ANONYMOUS_PREFIX;
use crate::settings::Settings;
use crate::view::RuleScope;

/// A verdict, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was evaluated, in order.
    pub steps: Vec<Step>,
    /// Whether access is granted; if not, the text of the `ERROR` that a player receives in `dev`.
    pub verdict: Result<(), String>,
}

/// One step of the evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The name begins as those of the server do: no player may use it.
    Reserved,
    /// The class of the channel, or of the fixed part of the pattern: the first of these that matches.
    Class {
        /// Those before it, which do not match.
        passed_over: Vec<String>,
        /// Its name and what it takes from the channel's name; `None`: no class matches.
        found: Option<(String, Vec<(String, String)>)>,
    },
    /// Whether the class lets clients subscribe by pattern. Its `subscribe` rule is evaluated for each real channel.
    Patterns {
        /// As configured.
        is_allowed: bool,
    },
    /// A rule of the class.
    Rule {
        /// The configuration key: `subscribe` or `publish`.
        key: &'static str,
        /// Its text.
        rule: String,
        /// Whether it is true.
        is_true: bool,
        /// How it came to that.
        trace: Trace,
        /// A comparison of a text with a number in it, and what would be right.
        misfit: Option<String>,
    },
    /// The channels that `auto_subscribe` fills in from the token's claims: each is a right to subscribe.
    AutoSubscribe {
        /// The first of them, at most [`MAX_NAMED`].
        channels: Vec<String>,
        /// How many there are.
        count: usize,
        /// Whether the channel is one.
        is_filled: bool,
    },
    /// The class shows its subscribers only events for which this is true, the player's claims folded in.
    View {
        /// As configured.
        view: String,
        /// For this player and channel.
        bound: String,
    },
    /// What is published is appended to a stream of this template, and not sent to subscribers.
    Forward(String),
    /// What an event of the class must have, behind the rule.
    Event(String),
}

/// Channels that are named.
pub const MAX_NAMED: usize = 16;

/// In place of the connection's public name, which ends the name of an anonymous player.
const SAMPLE_NAME: &str = "0123456789abcdef";

/// The claims of a player without a token, under a sample name: a node makes a new name for each. `None`: the configuration
/// requires a token.
pub fn anonymous_player(settings: &Settings) -> Option<Claims> {
    settings.allow_anonymous.then(|| Claims::anonymous(&format!("{ANONYMOUS_PREFIX}{SAMPLE_NAME}")))
}

/// Whether this player may subscribe to this channel or pattern.
pub fn subscribe(settings: &Settings, claims: &Claims, name: &str) -> Explanation {
    match channel::validate_subject(name) {
        Err(error) => denied(Vec::new(), error.to_string()),
        Ok(true) => subscribe_pattern(settings, name),
        Ok(false) => subscribe_channel(settings, claims, name),
    }
}

fn subscribe_pattern(settings: &Settings, pattern: &str) -> Explanation {
    let found = settings.classes.of_pattern(pattern).map(|(_, class)| class);
    let mut steps = vec![class_step(settings, found, Vec::new())];
    steps.extend(found.map(|class| Step::Patterns { is_allowed: class.patterns }));
    concluded(steps, permissions::may_subscribe_pattern(settings, pattern))
}

fn subscribe_channel(settings: &Settings, claims: &Claims, name: &str) -> Explanation {
    let verdict = permissions::may_subscribe(settings, claims, name);
    if settings.reserved.holds(name) {
        return concluded(vec![Step::Reserved], verdict);
    }
    let found = settings.classes.of_channel(name);
    let mut steps = vec![channel_class(settings, name)];
    if let Some((_, class, params)) = &found {
        let misfit = permissions::subscribe_misfit(settings, claims, name);
        steps.push(rule("subscribe", &class.subscribe, &RuleScope::new(claims, name, params), misfit));
    }
    if !settings.auto_subscribe.is_empty() {
        steps.push(auto_subscribe(settings, claims, name));
    }
    let view = found.and_then(|(_, class, _)| class.view.as_ref());
    if let (Some(view), Some(bound), Ok(())) =
        (view, permissions::server_view(settings, claims, name, None), &verdict)
    {
        steps.push(Step::View { view: view.to_string(), bound: bound.to_string() });
    }
    concluded(steps, verdict)
}

/// Whether this player may publish this.
pub fn publish(settings: &Settings, claims: &Claims, publish: &Publish) -> Explanation {
    let name = &*publish.channel;
    if let Err(error) = channel::validate(name) {
        return denied(Vec::new(), error.to_string());
    }
    if settings.reserved.holds(name) {
        return denied(vec![Step::Reserved], "this name is the server's own".to_owned());
    }
    let key = permissions::key_of(settings, publish);
    let shown_key = key.as_ref().ok().and_then(|key| key.as_deref());
    let (event, data) = (&*publish.event, publish.data.get());
    let verdict = permissions::may_publish(settings, claims, name, event, data, shown_key);
    let mut steps = vec![channel_class(settings, name)];
    if let Some((_, class, params)) = settings.classes.of_channel(name) {
        let scope = RuleScope {
            event: Some(event),
            data: Some(data),
            key: shown_key,
            ..RuleScope::new(claims, name, &params)
        };
        let misfit = permissions::publish_misfit(settings, claims, publish);
        steps.push(rule("publish", &class.publish, &scope, misfit));
        if verdict.is_ok() {
            steps.extend(class.forward.as_ref().map(|forward| Step::Forward(forward.to_string())));
            if let Err(problem) = class.required_key(event, data, key.clone()) {
                steps.push(Step::Event(problem.clone()));
                return denied(steps, problem);
            }
        }
    }
    concluded(steps, verdict.map(drop))
}

fn denied(steps: Vec<Step>, why: String) -> Explanation {
    Explanation { steps, verdict: Err(why) }
}

fn concluded(steps: Vec<Step>, verdict: Result<(), Denied>) -> Explanation {
    Explanation { steps, verdict: verdict.map_err(|Denied(why)| why) }
}

fn channel_class(settings: &Settings, name: &str) -> Step {
    let found = settings.classes.of_channel(name);
    let class = found.as_ref().map(|(_, class, _)| *class);
    class_step(settings, class, found.as_ref().map(|(_, _, params)| taken(params)).unwrap_or_default())
}

fn taken(params: &Params<'_, '_>) -> Vec<(String, String)> {
    params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn class_step(settings: &Settings, found: Option<&Class>, params: Vec<(String, String)>) -> Step {
    let all = settings.classes.iter().map(|(_, class)| class);
    let passed_over = all.take_while(|class| found.is_none_or(|found| !std::ptr::eq(*class, found)));
    Step::Class {
        passed_over: passed_over.map(|class| class.name.to_string()).collect(),
        found: found.map(|class| (class.name.to_string(), params)),
    }
}

fn rule(key: &'static str, rule: &Expr, scope: &RuleScope<'_>, misfit: Option<String>) -> Step {
    Step::Rule { key, rule: rule.to_string(), is_true: rule.matches(scope), trace: rule.trace(scope), misfit }
}

fn auto_subscribe(settings: &Settings, claims: &Claims, name: &str) -> Step {
    let filled = permissions::filled_channels(settings, claims);
    let mut channels: Vec<String> = filled.iter().cloned().collect();
    channels.sort_unstable();
    channels.truncate(MAX_NAMED);
    Step::AutoSubscribe { channels, count: filled.len(), is_filled: filled.contains(name) }
}
