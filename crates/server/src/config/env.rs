//! Overrides from the environment: `DRAWBRIDGE_BROKER__URL` is `broker.url`, `DRAWBRIDGE_CHANNEL__0__PUBLISH` is
//! `publish` of the first `[[channel]]`. They are laid over the raw tree before anything is judged, so that one set
//! of rules and messages serves both.

use std::sync::Arc;

use super::error::{ConfigError, Location};
use super::tree::{Entry, Node, Place, Raw, Table, parse_value};

pub(super) const PREFIX: &str = "DRAWBRIDGE_";

/// Read elsewhere: the log's filter, and the configuration file's path.
const NOT_KEYS: [&str; 2] = ["DRAWBRIDGE_LOG", "DRAWBRIDGE_CONFIG"];

/// One variable.
struct Override {
    name: Arc<str>,
    path: Vec<String>,
    value: String,
}

/// Whether the variable is for the configuration.
fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) && !NOT_KEYS.contains(&name) && !is_service_link(name)
}

/// Kubernetes tells every pod about a service called `drawbridge` with such variables.
fn is_service_link(name: &str) -> bool {
    let rest = &name[PREFIX.len()..];
    rest == "PORT"
        || rest == "SERVICE_HOST"
        || rest.starts_with("SERVICE_PORT")
        || rest.strip_prefix("PORT_").is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

/// The variable that overrides this path.
pub(super) fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_uppercase())
}

/// The path that this variable overrides.
pub(super) fn path(variable: &str) -> Vec<String> {
    variable.strip_prefix(PREFIX).unwrap_or(variable).to_lowercase().split("__").map(str::to_owned).collect()
}

/// Lays the variables over what the file says; what cannot be laid is an error.
pub(super) fn overlay(
    root: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Vec<ConfigError> {
    let mut overrides: Vec<Override> = variables
        .filter(|(name, _)| is_ours(name))
        .map(|(name, value)| Override { path: path(&name), name: name.into(), value })
        .collect();
    // Shorter paths first, so that a part overrides its whole; and list places in the order of their numbers.
    let place = |part: &String| (part.parse::<u32>().unwrap_or(u32::MAX), part.clone());
    overrides.sort_by_cached_key(|o| (o.path.len(), o.path.iter().map(place).collect::<Vec<_>>()));
    overrides.into_iter().filter_map(|o| lay(root, &o).err()).collect()
}

fn lay(root: &mut Table, o: &Override) -> Result<(), ConfigError> {
    let Some((last, parents)) = o.path.split_last() else { return Ok(()) };
    let place = Place::Named(o.name.clone());
    let mut table = root;
    let mut parents = parents.iter().peekable();
    while let Some(part) = parents.next() {
        let node = &mut table.entry(part, || empty(part, &place)).node;
        let index = match parents.peek().map(|next| next.parse::<usize>()) {
            Some(Ok(index)) => parents.next().map(|_| index),
            _ => None,
        };
        table = match index {
            None => as_table(node, &place),
            Some(index) => element(node, index, &place).map_err(|count| past_the_end(o, part, count))?,
        };
    }
    let node = Node { place: place.clone(), raw: Raw::Text(o.value.clone()) };
    let entry = table.entry(last, || empty(last, &place));
    (entry.place, entry.node) = (place, node);
    Ok(())
}

fn empty(key: &str, place: &Place) -> Entry {
    let node = Node { place: place.clone(), raw: Raw::Table(Table::default()) };
    Entry { key: key.to_owned(), place: place.clone(), node }
}

/// The node as a table; whatever else it was gives way.
fn as_table<'n>(node: &'n mut Node, place: &Place) -> &'n mut Table {
    settle(node);
    if !matches!(node.raw, Raw::Table(_)) {
        *node = Node { place: place.clone(), raw: Raw::Table(Table::default()) };
    }
    match &mut node.raw {
        Raw::Table(table) => table,
        _ => unreachable!("made a table just above"),
    }
}

/// The table at this place of a list, which may be the next one after its end; else how many there are.
fn element<'n>(node: &'n mut Node, index: usize, place: &Place) -> Result<&'n mut Table, usize> {
    settle(node);
    if !matches!(node.raw, Raw::Array(_)) {
        *node = Node { place: place.clone(), raw: Raw::Array(Vec::new()) };
    }
    let Raw::Array(list) = &mut node.raw else { unreachable!("made a list just above") };
    if index > list.len() {
        return Err(list.len());
    }
    if index == list.len() {
        list.push(Node { place: place.clone(), raw: Raw::Table(Table::default()) });
    }
    Ok(as_table(&mut list[index], place))
}

/// A whole table or list in one variable, before a part of it is overridden by another.
fn settle(node: &mut Node) {
    if let Raw::Text(text) = &node.raw
        && let Some(parsed) = parse_value(text, &node.place)
    {
        *node = parsed;
    }
}

fn past_the_end(o: &Override, list: &str, count: usize) -> ConfigError {
    ConfigError {
        location: Location::Named(o.name.to_string()),
        problem: format!("there are only {count} `[[{list}]]` tables"),
        hint: Some(format!("they are numbered from 0, and {count} adds one")),
        offset: usize::MAX,
    }
}
