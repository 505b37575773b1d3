//! What the server keeps, for how long, and how much it sends a slow reader: persistence, eviction, buffers, and the functions
//! that it has.

use std::collections::HashMap;

use drawbridge_engine::class::Classes;
use redis::Value;

use super::super::command_connection::text;
use super::super::connect::Broken;
use super::super::library::MARK;
use super::super::plain_connection::{PlainConnection, field};
use super::super::{RedisLocation, RedisSettings, code_of, is_unknown_command, without_arguments};
use super::Inspection;

pub(super) async fn look(
    connection: &mut PlainConnection,
    settings: &RedisSettings,
    classes: &Classes,
    inspection: &mut Inspection,
) -> Result<(), Broken> {
    if settings.is_cluster() {
        cluster(connection, inspection).await?;
    }
    functions(connection, settings, inspection).await?;
    // In a part each, because some Redis return one only.
    let mut info = HashMap::new();
    for part in ["persistence", "memory", "replication"] {
        match connection.ask(&["INFO", part]).await? {
            Ok(answer) => info.extend(lines(&text(&answer).unwrap_or_default())),
            Err(message) => {
                let advice = "Look at persistence and eviction yourself: what they should be is in docs/redis.md (Keys).";
                inspection.warn("INFO", format!("is refused: {}", without_arguments(&message)), advice);
                return buffers(connection, settings, inspection).await;
            }
        }
    }
    let stores = classes.iter().any(|(_, class)| class.entity.is_some() || class.history.is_some());
    if !matches!(settings.location, RedisLocation::Server(_)) {
        replicas(&info, inspection);
    }
    persistence(&info, stores, inspection);
    eviction(&info, inspection);
    buffers(connection, settings, inspection).await
}

/// `name:value` lines.
fn lines(info: &str) -> Vec<(String, String)> {
    let line = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    info.lines().filter_map(line).collect()
}

async fn cluster(connection: &mut PlainConnection, inspection: &mut Inspection) -> Result<(), Broken> {
    let Ok(answer) = connection.ask(&["CLUSTER", "INFO"]).await? else { return Ok(()) };
    let info: HashMap<_, _> = lines(&text(&answer).unwrap_or_default()).into_iter().collect();
    let said = |name: &str| info.get(name).map_or("?", |value| value.trim());
    let found = format!(
        "state {}, {} masters, {} of 16384 slots served",
        said("cluster_state"),
        said("cluster_size"),
        said("cluster_slots_ok")
    );
    match said("cluster_state") {
        "ok" => inspection.fine("Cluster", found),
        _ => inspection.missing(
            "Cluster",
            found,
            "Channels whose slots are not served cannot be used. See CLUSTER NODES.",
        ),
    }
    Ok(())
}

/// Whether nodes can use the functions that are there.
async fn functions(
    connection: &mut PlainConnection,
    settings: &RedisSettings,
    inspection: &mut Inspection,
) -> Result<(), Broken> {
    let answer = connection.ask(&["FCALL", "drawbridge_check", "0", settings.library.prefix()]).await?;
    match answer {
        Ok(Value::Array(parts)) if parts.first().and_then(text).as_deref() == Some(MARK) => {
            let version = match parts.get(1) {
                Some(Value::Int(version)) => version.to_string(),
                _ => "unknown".to_owned(),
            };
            inspection.fine("functions", format!("Drawbridge's library is loaded, version {version}"));
        }
        Ok(_) => inspection.missing(
            "functions",
            "a function `drawbridge_check` is there that is not Drawbridge's",
            "Nodes replace it when they start. If another program loads it again, that one must use other names.",
        ),
        // What is refused is reported with the rights.
        Err(message) if code_of(&message) == "NOPERM" || is_unknown_command(&message) => {}
        Err(_) => inspection.fine("functions", "not loaded yet; a node loads them when it starts"),
    }
    Ok(())
}

fn replicas(info: &HashMap<String, String>, inspection: &mut Inspection) {
    let said = |name: &str| info.get(name).map_or("0", |value| value.trim());
    let found = format!("{} connected", said("connected_slaves"));
    match said("connected_slaves") {
        "0" => inspection.warn(
            "replicas",
            found,
            "If this master fails, no server can take its place, and what it has is away until it is back. Add a replica.",
        ),
        _ => inspection.fine("replicas", found),
    }
}

fn persistence(info: &HashMap<String, String>, stores: bool, inspection: &mut Inspection) {
    let said = |name: &str| info.get(name).map_or("", |value| value.trim());
    let has_log = said("aof_enabled") == "1";
    match (has_log, stores) {
        (true, _) => inspection.fine("persistence", "appendonly yes"),
        (false, true) => inspection.warn(
            "persistence",
            "appendonly no",
            "After a restart tables, logs of channels with history, and players' views are as old as the last snapshot, or \
             gone; logs begin a new epoch (RESYNC). Set appendonly yes if they are to survive.",
        ),
        (false, false) => inspection.fine("persistence", "appendonly no; no class of this configuration stores anything"),
    }
}

fn eviction(info: &HashMap<String, String>, inspection: &mut Inspection) {
    let said = |name: &str| info.get(name).map_or("", |value| value.trim());
    let (policy, most) = (said("maxmemory_policy"), said("maxmemory"));
    let found = format!("maxmemory-policy {policy}, maxmemory {most} bytes (0: no limit)");
    match policy.starts_with("allkeys") && most != "0" {
        true => inspection.warn(
            "eviction",
            found,
            "Redis may drop players' views, so that what the game hid is shown again, and tables and logs. Set \
             maxmemory-policy noeviction or volatile-ttl.",
        ),
        false => inspection.fine("eviction", found),
    }
}

async fn buffers(
    connection: &mut PlainConnection,
    settings: &RedisSettings,
    inspection: &mut Inspection,
) -> Result<(), Broken> {
    const NAME: &str = "client-output-buffer-limit";
    let limit = match connection.ask(&["CONFIG", "GET", NAME]).await? {
        Ok(answer) => field(&answer, NAME).as_deref().and_then(pubsub_limit),
        Err(_) => None,
    };
    let Some((hard, soft, seconds)) = limit else {
        inspection
            .fine("pubsub buffer", "client-output-buffer-limit cannot be read; the default does for most");
        return Ok(());
    };
    let found = format!("client-output-buffer-limit pubsub {hard} {soft} {seconds}");
    let external_bytes = settings.library.external_bytes() as u64;
    match [hard, soft].iter().any(|limit| (1..external_bytes).contains(limit)) {
        true => inspection.warn(
            "pubsub buffer",
            found,
            format!(
                "It is below `external_bytes` ({external_bytes}): one event of that size makes Redis close the nodes' links, and \
                 every player gets RESYNC. Set it above, 32mb 8mb 60 for example."
            ),
        ),
        false => inspection.fine("pubsub buffer", found),
    }
    Ok(())
}

/// The hard limit, the soft limit, and the seconds for which the soft one may be exceeded.
fn pubsub_limit(value: &str) -> Option<(u64, u64, u64)> {
    let mut words = value.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let mut number = || words.next()?.parse().ok();
    Some((number()?, number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_subscribers_is_read_among_others() {
        let value = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(pubsub_limit(value), Some((33_554_432, 8_388_608, 60)));
        assert_eq!(pubsub_limit("normal 0 0 0"), None);
    }

    #[test]
    fn eviction_of_all_keys_is_a_risk_only_with_a_limit() {
        for (policy, most, is_fine) in
            [("allkeys-lru", "1000", false), ("allkeys-lru", "0", true), ("volatile-ttl", "1000", true)]
        {
            let info =
                lines(&format!("maxmemory:{most}\r\nmaxmemory_policy:{policy}\r\n")).into_iter().collect();
            let mut inspection = Inspection::default();
            eviction(&info, &mut inspection);
            assert_eq!(inspection.findings[0].advice.is_none(), is_fine, "{policy} {most}");
        }
    }
}
