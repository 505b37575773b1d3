//! `[[channel]]`: the classes of channels and their rules.

use std::sync::Arc;

use drawbridge_engine::class::{Class, Classes, Presence};
use drawbridge_engine::expr::{self, CompileError, Expr, Vars};
use drawbridge_engine::io::WhenDown;
use drawbridge_protocol::event::PayloadMode;
use drawbridge_protocol::template::{ClassName, Piece, Template};

use super::connection::template;
use super::history;
use super::later;
use super::reader::{Field, Section, excerpt};
use super::suggest;
use super::views;

const MAX_CLASSES: usize = 1000;

pub(super) fn read(sections: &[Section<'_>]) -> Arc<Classes> {
    if let Some(section) = sections.get(MAX_CLASSES) {
        section.error(
            format_args!("there are more than {MAX_CLASSES} classes"),
            "one class can hold many channels: \"room:{room}\"",
        );
    }
    let mut names = Names::default();
    let classes: Vec<Class> =
        sections.iter().take(MAX_CLASSES).filter_map(|section| class(section, &mut names)).collect();
    if let Some(section) = sections.first() {
        warn_of_shadowed(section, &classes);
    }
    Classes::new(classes)
}

/// Warns of classes that never apply, because each channel that they match belongs to an earlier one.
fn warn_of_shadowed(section: &Section<'_>, classes: &[Class]) {
    for (at, class) in classes.iter().enumerate() {
        let channel = any_channel(&class.name);
        if let Some(earlier) = classes[..at].iter().find(|earlier| earlier.name.matches(&channel).is_some()) {
            section.cx().warn(format!(
                "the class \"{}\" never applies: all its channels match \"{}\" before it; move it up",
                class.name, earlier.name
            ));
        }
    }
}

/// A channel of the class that shares only its fixed text with others.
fn any_channel(name: &ClassName) -> String {
    const VALUE: &str = "\u{1}";
    let mut channel: String = name
        .pieces()
        .map(|piece| match piece {
            Piece::Fixed(text) => text,
            Piece::Value { .. } => VALUE,
        })
        .collect();
    if name.is_open() {
        channel.extend([VALUE, ":", VALUE]);
    }
    channel
}

fn class(section: &Section<'_>, names: &mut Names) -> Option<Class> {
    let name = match section.field("name") {
        Some(field) => names.read(&field),
        None => {
            section.error(
                "a `[[channel]]` has no `name`",
                "say which channels it is for: name = \"room:{room}\"",
            );
            None
        }
    };
    let (has_history, has_forward) = (section.has("history"), section.has("forward"));
    later::refuse(section, "logic");
    // Of a name that cannot be read nothing is known.
    let params: Option<Vec<&str>> = name.as_ref().map(|name| name.placeholders().collect());
    let params = params.as_deref();
    let rule = |key: &str, vars: Vars| {
        section.field(key).map_or_else(|| constant("false"), |field| compile(&field, vars, params))
    };
    let subscribe = rule("subscribe", Vars::SUBSCRIBE_RULE);
    let publish = rule("publish", Vars::PUBLISH_RULE);
    let view = section.field("view").map(|field| compile(&field, Vars::VIEW_RULE, params));
    let sharded = section.boolean("sharded", false);
    let patterns = patterns(section, name.as_ref(), sharded);
    let payload = section.choice(
        "payload",
        PayloadMode::Auto,
        &[("auto", PayloadMode::Auto), ("envelope", PayloadMode::Envelope), ("raw", PayloadMode::Raw)],
    );
    let when_down_field = section.field("when_broker_down");
    let when_broker_down = when_down_field.as_ref().and_then(when_down).unwrap_or_default();
    let publishes = section.rate("publishes", None);
    let views = views::read(section, params);
    let (presence, presence_rule) = presence(section, params);
    let (forward_field, name_of) = (section.field("forward"), name.as_ref());
    let history = history::read(section, &views, forward_field.as_ref());
    let forward = forward_field.and_then(|field| forward(&field, name_of));
    if let Some(field) = when_down_field.filter(|_| when_broker_down == WhenDown::Local) {
        refuse_local(&field, has_history, views.entity.is_some(), has_forward);
    }
    section.close();
    let name = name?;
    Some(Class {
        subscribe: subscribe?,
        publish: publish?,
        view: match view {
            None => None,
            Some(view) => view.filter(|view| view.as_constant() != Some(true)),
        },
        patterns,
        payload,
        when_broker_down,
        publishes,
        forward,
        key: views.key,
        entity: views.entity,
        delivery: views.delivery,
        history: history.kept,
        ignores_plain_publish: history.ignores_plain_publish,
        sharded,
        presence,
        presence_rule: presence_rule?,
        ..Class::plain(name)
    })
}

/// Who is notified of who is there, and the rule for reading it; `None` for a rule that cannot be read.
fn presence(section: &Section<'_>, params: Option<&[&str]>) -> (Presence, Option<Option<Expr>>) {
    let words = [("off", Presence::Off), ("query", Presence::Query), ("notify", Presence::Notify)];
    let presence = section.choice("presence", Presence::Off, &words);
    let Some(field) = section.field("presence_rule") else { return (presence, Some(None)) };
    if presence == Presence::Off {
        field.error("needs `presence`", "say presence = \"query\" or presence = \"notify\"");
    }
    (presence, compile(&field, Vars::SUBSCRIBE_RULE, params).map(Some))
}

/// Whether clients may subscribe by pattern. Redis is subscribed to the patterns' literal beginning, which must not be empty.
fn patterns(section: &Section<'_>, name: Option<&ClassName>, sharded: bool) -> bool {
    let Some(field) = section.field("patterns") else { return false };
    let patterns = field.boolean().unwrap_or(false);
    if patterns && name.is_some_and(|name| name.literal_prefix().is_empty()) {
        field.error(
            "cannot be true for a class whose name begins with a placeholder or `*`: the node would have to receive every channel in Redis",
            "give the class a fixed beginning, like \"room:{room}\", or leave `patterns` out",
        );
    }
    if patterns && sharded {
        field.error(
            "cannot be true together with `sharded = true`: Redis has no patterns of sharded channels",
            "leave one of the two out; clients subscribe to sharded channels by name",
        );
    }
    patterns
}

/// The names so far, for what comes too late to ever match.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn read(&mut self, field: &Field<'_>) -> Option<ClassName> {
        let text = field.text()?;
        let name = match ClassName::parse(&text) {
            Ok(name) => name,
            Err(error) => {
                field.error(
                    format_args!("is not a class name: \"{}\": {error}", excerpt(&text)),
                    "it is written like \"room:{room}\" or \"chat:*\"",
                );
                return None;
            }
        };
        let shape = shape(&name);
        match self.0.iter().find(|(_, earlier)| *earlier == shape) {
            Some((earlier, _)) => {
                let problem = if *earlier == text {
                    "is given twice".to_owned()
                } else {
                    format!("matches the same channels as \"{earlier}\"")
                };
                field.error(
                    format_args!("{problem}: \"{}\"", excerpt(&text)),
                    "the first class whose name matches wins, so this one never would",
                );
            }
            None => self.0.push((text, shape)),
        }
        Some(name)
    }
}

/// The name with nameless placeholders.
fn shape(name: &ClassName) -> String {
    name.placeholders()
        .fold(name.to_string(), |shape, placeholder| shape.replacen(&format!("{{{placeholder}}}"), "{}", 1))
}

fn constant(source: &str) -> Option<Expr> {
    expr::compile(source, Vars::NONE).ok()
}

/// `params` are the placeholders of the class's name, where that is known.
pub(super) fn compile(field: &Field<'_>, allowed: Vars, params: Option<&[&str]>) -> Option<Expr> {
    let source = field.string()?;
    let compiled = match params {
        Some(params) => expr::compile_for_class(&source, allowed, params),
        None => expr::compile(&source, allowed),
    };
    compiled.map_err(|error| bad_expression(field, &source, error)).ok()
}

/// Shows the expression with a mark under the place, for expressions of one line.
fn bad_expression(field: &Field<'_>, source: &str, error: CompileError) {
    let before = source.get(..error.position).unwrap_or(source);
    let shown = source.chars().count() <= 120 && !source.contains(char::is_control);
    let picture = if shown {
        format!("\n    {source}\n    {}^", " ".repeat(before.chars().count()))
    } else {
        String::new()
    };
    let hint = error.hint.unwrap_or_default();
    let separator = if hint.is_empty() { "" } else { "; " };
    let problem = format!("{} (at byte {}){separator}{hint}{picture}", error.message, error.position);
    field.error_at(error.position, problem, None);
}

fn when_down(field: &Field<'_>) -> Option<WhenDown> {
    field.choice(&[("queue", WhenDown::Queue), ("local", WhenDown::Local), ("reject", WhenDown::Reject)])
}

/// What is delivered on one node alone is in no log, table or stream of Redis.
fn refuse_local(field: &Field<'_>, has_history: bool, is_entity: bool, has_forward: bool) {
    let reasons = [
        (
            has_history,
            "`history`: an event that is not in the log has no offset, and who resumes never gets it",
        ),
        (
            is_entity,
            "`kind = \"entity\"`: a state that is not in the table is on one node alone, and gone when Redis is back",
        ),
        (has_forward, "`forward`: an action that is not in the stream reaches no service"),
    ];
    for (_, with) in reasons.into_iter().filter(|(is_set, _)| *is_set) {
        field.error(
            format_args!("cannot be \"local\" together with {with}"),
            "it may be \"queue\" or \"reject\"",
        );
    }
}

/// A stream's name, filled from what the class's name takes from the channel.
fn forward(field: &Field<'_>, name: Option<&ClassName>) -> Option<Template> {
    let template = template(field)?;
    let name = name?;
    for placeholder in template.placeholders() {
        if name.placeholders().any(|known| known == placeholder) {
            continue;
        }
        let hint = match suggest::nearest(placeholder, name.placeholders()) {
            Some(near) => format!("did you mean `{{{near}}}`?"),
            None if name.placeholders().next().is_none() => {
                format!("the class name `{name}` has no placeholders")
            }
            None => format!(
                "the class name `{name}` has {}",
                name.placeholders().map(|p| format!("`{{{p}}}`")).collect::<Vec<_>>().join(", ")
            ),
        };
        field.error(format_args!("names `{{{placeholder}}}`, which the class name does not"), hint);
    }
    Some(template)
}
