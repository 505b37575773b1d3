//! Overrides from the environment: `DRAWBRIDGE_BROKER__URL` is `broker.url`, `DRAWBRIDGE_CHANNEL__0__PUBLISH` is
//! `publish` of the first `[[channel]]`. They are laid over the raw tree before anything is validated, so that one set
//! of rules and messages serves both.

use std::sync::Arc;

use super::error::{ConfigError, Location};
use super::tree::{Entry, Node, Raw, Table, ValueSource, parse_value, text_or_quoted};

pub(super) const PREFIX: &str = "DRAWBRIDGE_";

/// Read elsewhere: the log's filter, and the configuration file's path.
const NOT_KEYS: [&str; 2] = ["DRAWBRIDGE_LOG", "DRAWBRIDGE_CONFIG"];

/// No key is deeper, and raw trees are walked by recursion.
const MAX_DEPTH: usize = 8;

/// One variable.
struct Override {
    name: Arc<str>,
    path: Vec<String>,
    value: String,
}

/// Whether the variable is for the configuration.
pub(super) fn is_ours(name: &str, value: &str) -> bool {
    name.starts_with(PREFIX) && !NOT_KEYS.contains(&name) && !is_service_link(name, value)
}

/// Whether Kubernetes sets this variable, as it does in every pod for each service in the namespace: a service called
/// `drawbridge-redis` sets `DRAWBRIDGE_REDIS_SERVICE_HOST`, `DRAWBRIDGE_REDIS_PORT_6379_TCP_ADDR` and others. The names of
/// services and their ports may hold two hyphens in a row, which become `__`. No key of the configuration has such a name.
fn is_service_link(name: &str, value: &str) -> bool {
    // From the underscore on that ends the prefix, so that a part of the name is found at its start, too.
    let rest = &name[PREFIX.len() - 1..];
    rest == "_PORT"
        || rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && is_endpoint(value))
        || rest.match_indices("_PORT_").any(|(at, part)| is_port(&rest[at + part.len()..]))
}

/// `tcp://10.0.0.1:8000`
fn is_endpoint(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

/// `6379_TCP`, or one of the three that begin with it.
fn is_port(rest: &str) -> bool {
    let (number, rest) = rest.split_once('_').unwrap_or((rest, ""));
    let (protocol, detail) = rest.split_once('_').unwrap_or((rest, ""));
    number.parse::<u16>().is_ok()
        && ["TCP", "UDP", "SCTP"].contains(&protocol)
        && ["", "PROTO", "PORT", "ADDR"].contains(&detail)
}

/// The variable that overrides this path.
pub(super) fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_uppercase())
}

/// The path that this variable overrides.
pub(super) fn path(variable: &str) -> Vec<String> {
    variable.strip_prefix(PREFIX).unwrap_or(variable).to_lowercase().split("__").map(str::to_owned).collect()
}

/// Lays the variables over the file's values; what cannot be laid is an error.
pub(super) fn overlay(
    root: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Vec<ConfigError> {
    let mut overrides: Vec<Override> = variables
        .filter(|(name, value)| is_ours(name, value))
        .map(|(name, value)| Override { path: path(&name), name: name.into(), value })
        .collect();
    // Shorter paths first, so that a part overrides its whole; and list places in the order of their numbers.
    let place = |part: &String| (part.parse::<u32>().unwrap_or(u32::MAX), part.clone());
    overrides.sort_by_cached_key(|o| (o.path.len(), o.path.iter().map(place).collect::<Vec<_>>()));
    let mut whole = Node { place: ValueSource::File(0), raw: Raw::Table(std::mem::take(root)) };
    let errors = overrides.into_iter().filter_map(|o| lay(&mut whole, &o).err()).collect();
    if let Raw::Table(table) = whole.raw {
        *root = table;
    }
    errors
}

fn lay(root: &mut Node, o: &Override) -> Result<(), ConfigError> {
    if o.path.len() > MAX_DEPTH {
        return Err(too_deep(o));
    }
    let place = ValueSource::Named(o.name.clone());
    let mut node = root;
    for (depth, part) in o.path.iter().enumerate() {
        normalize(node);
        let is_list = !matches!(node.raw, Raw::Table(_));
        node = match part.parse::<usize>() {
            Ok(index) if is_list && depth > 0 => {
                element(node, index, &place).map_err(|count| past_the_end(o, &o.path[depth - 1], count))?
            }
            _ => member(node, part, &place, depth + 1 == o.path.len()),
        };
    }
    *node = text_or_quoted(&o.value, &place);
    Ok(())
}

/// Something that is still to become what the next part of the path makes it.
fn blank(place: &ValueSource) -> Node {
    Node { place: place.clone(), raw: Raw::Text(String::new()) }
}

/// The value of this key; what is not a table is replaced by one. The key itself is the variable's where its value is.
fn member<'n>(node: &'n mut Node, key: &str, place: &ValueSource, is_last: bool) -> &'n mut Node {
    if !matches!(node.raw, Raw::Table(_)) {
        let empty = Node { place: place.clone(), raw: Raw::Table(Table::default()) };
        let whole = std::mem::replace(node, empty);
        keep_rate(node, whole, key);
    }
    let Raw::Table(table) = &mut node.raw else { unreachable!("made a table just above") };
    let entry = table.entry(key, || Entry { key: key.to_owned(), place: place.clone(), node: blank(place) });
    if is_last {
        entry.place = place.clone();
    }
    &mut entry.node
}

/// A rate may be written as a number alone; it stays when a variable sets only its burst.
fn keep_rate(table: &mut Node, whole: Node, key: &str) {
    if let (Raw::Table(table), Raw::Integer(_), "burst") = (&mut table.raw, &whole.raw, key) {
        table.0.push(Entry { key: "per_second".to_owned(), place: whole.place.clone(), node: whole });
    }
}

/// The element at this place of a list, which may be the next one after its end; else how many there are.
fn element<'n>(node: &'n mut Node, index: usize, place: &ValueSource) -> Result<&'n mut Node, usize> {
    if !matches!(node.raw, Raw::Array(_)) {
        *node = Node { place: place.clone(), raw: Raw::Array(Vec::new()) };
    }
    let Raw::Array(list) = &mut node.raw else { unreachable!("made a list just above") };
    if index == list.len() {
        list.push(blank(place));
    }
    let count = list.len();
    list.get_mut(index).ok_or(count)
}

/// A whole table or list in one variable, before a part of it is overridden by another.
fn normalize(node: &mut Node) {
    if let Raw::Text(text) = &node.raw
        && let Some(parsed) = parse_value(text, &node.place)
    {
        *node = parsed;
    }
}

fn past_the_end(o: &Override, list: &str, count: usize) -> ConfigError {
    ConfigError {
        location: Location::Named(o.name.to_string()),
        problem: format!("`{list}` has only {count} elements"),
        hint: Some(format!("they are numbered from 0, and {count} adds one")),
        offset: usize::MAX,
    }
}

fn too_deep(o: &Override) -> ConfigError {
    ConfigError {
        location: Location::Named(o.name.chars().take(100).collect()),
        problem: "no such key in the configuration".to_owned(),
        hint: None,
        offset: usize::MAX,
    }
}
