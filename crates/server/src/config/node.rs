//! The keys above the first table: the node itself, its listeners, and whom it trusts about addresses.

use std::time::Duration;

use ipnet::IpNet;

use super::reader::{Field, Section};
use super::{Rotating, Tls, files};

/// The admin listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Offered as `Authorization: Bearer`.
    pub api_key: Rotating,
}

/// The keys above the first table.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) admin: Option<Admin>,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) proxy_protocol: bool,
    pub(super) drain_delay: Duration,
    pub(super) drain_window: Duration,
    pub(super) ready_grace: Duration,
    pub(super) control_channel: bool,
    pub(super) shards: usize,
    pub(super) tls: Option<Tls>,
}

const HOUR: Duration = Duration::from_secs(3600);
const MAX_SHARDS: usize = 32;

pub(super) fn read(root: &Section<'_>) -> Node {
    let half_a_minute = Duration::from_secs(30);
    let listen =
        root.field("listen").and_then(|field| listen(&field)).unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    Node {
        name: root.field("node").and_then(|field| node_name(&field)).unwrap_or_else(random_name),
        admin: admin(
            &root.table_of_form("admin", "{ listen = \"127.0.0.1:8001\", api_key = \"…\" }"),
            &listen,
        ),
        listen,
        trusted_proxies: root
            .strings("trusted_proxies")
            .unwrap_or_default()
            .iter()
            .filter_map(network)
            .collect(),
        proxy_protocol: root.boolean("proxy_protocol", false),
        drain_delay: root.duration("drain_delay", Duration::from_secs(5), Duration::ZERO..=HOUR),
        drain_window: root.duration("drain_window", half_a_minute, Duration::ZERO..=HOUR),
        ready_grace: root.duration("ready_grace", half_a_minute, Duration::ZERO..=HOUR),
        control_channel: root.boolean("control_channel", false),
        shards: root.number("shards", default_shards(), 1..=MAX_SHARDS as u64) as usize,
        tls: files::tls(&root.table("tls")),
    }
}

/// One core is the broker's.
fn default_shards() -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.saturating_sub(1).clamp(1, MAX_SHARDS) as u64
}

fn random_name() -> String {
    let mut bytes = [0u8; 4];
    // Without randomness the name is only less telling.
    let _ = getrandom::fill(&mut bytes);
    format!("node-{:08x}", u32::from_be_bytes(bytes))
}

/// Names one start of a node: names may repeat, by mistake or after a restart.
pub(super) fn instance(name: &str) -> String {
    let mut bytes = [0u8; 8];
    // Without randomness two starts of one name are told apart by the process alone.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = u64::from(std::process::id()).to_be_bytes();
    }
    format!("{name}-{:016x}", u64::from_be_bytes(bytes))
}

fn node_name(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    if name.len() > 64 || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        field.error("is not fit for a name", "at most 64 bytes, without white space");
        return None;
    }
    Some(name)
}

fn admin(section: &Section<'_>, players: &str) -> Option<Admin> {
    let address = section.field("listen");
    let api_key = section.field("api_key");
    section.close();
    if !section.is_present() {
        return None;
    }
    let (Some(address), Some(api_key)) = (address, api_key) else {
        section.error(
            "`admin` needs `listen` and `api_key`",
            "admin = { listen = \"127.0.0.1:8001\", api_key = \"…\" }",
        );
        return None;
    };
    let (address, api_key) = (listen(&address), admin_key(&api_key));
    if address.as_deref() == Some(players) && !players.ends_with(":0") {
        section.error("`admin.listen` is where players connect", "give it another port");
    }
    Some(Admin { listen: address?, api_key: api_key? })
}

fn admin_key(field: &Field<'_>) -> Option<Rotating> {
    let key = field.text()?;
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        field.error(
            "does not fit into an `Authorization` header",
            "use ASCII letters, digits and signs, without spaces",
        );
        return None;
    }
    Some(Rotating::new(key))
}

/// `host:port`.
fn listen(field: &Field<'_>) -> Option<String> {
    let address = field.text()?;
    if !is_address(&address) {
        let hint = match address.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok()) {
            Some(port) => format!("to listen on all addresses write \"0.0.0.0:{port}\""),
            None => "it is written like \"127.0.0.1:8000\", \"[::1]:8000\" or \"0.0.0.0:0\" (port 0 takes a free one)".to_owned(),
        };
        field.error(
            format_args!("is not an address and port: \"{}\"", super::reader::excerpt(&address)),
            hint,
        );
        return None;
    }
    Some(address)
}

/// Whether this is a host and a port to listen on.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_v6 = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => is_v6(host),
        None => super::is_host(host),
    };
    host_fits && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// A network, or one address.
fn network(field: &Field<'_>) -> Option<IpNet> {
    let text = field.string()?;
    let network =
        text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    if network.is_none() {
        field.error(
            format_args!("contains an invalid network: \"{}\"", super::reader::excerpt(&text)),
            "a network is written like \"10.0.0.0/8\" or \"fd00::/8\", a single address as it is",
        );
    }
    network
}
