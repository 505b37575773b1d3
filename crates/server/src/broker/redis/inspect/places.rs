//! Which servers are to be checked: the one that the settings name, the master that the sentinels name, or all masters of the
//! Cluster.

use std::sync::Arc;

use super::super::cluster_watch::read_map;
use super::super::connect::Broken;
use super::super::sentinel::find_master;
use super::super::{RedisAddress, RedisLocation, RedisSettings};
use super::Inspection;

/// So many sentinels outvote one that fails.
const SENTINELS: usize = 3;

/// The servers to check; `None` stands for the one that the settings name.
///
/// # Errors
/// Where none is found, what the last one that was tried said.
pub(super) async fn servers(
    settings: &RedisSettings,
    inspection: &mut Inspection,
) -> Result<Vec<Option<RedisAddress>>, Broken> {
    match &settings.location {
        RedisLocation::Server(address) => {
            inspection.fine("topology", format!("one server, {address}"));
            Ok(vec![None])
        }
        RedisLocation::Sentinels { addresses, service } => {
            let master = master(settings, addresses, service, inspection).await?;
            Ok(vec![Some(master)])
        }
        RedisLocation::Cluster { addresses } => {
            let masters = masters(settings, addresses, inspection).await?;
            Ok(masters.into_iter().map(Some).collect())
        }
    }
}

async fn master(
    settings: &RedisSettings,
    addresses: &[RedisAddress],
    service: &str,
    inspection: &mut Inspection,
) -> Result<RedisAddress, Broken> {
    let (master, problems) = find_master(&settings.sentinel, addresses, service).await;
    let answering = addresses.len() - problems.len();
    for (sentinel, problem) in &problems {
        inspection.warn(
            "sentinel",
            format!("{sentinel}: {problem}"),
            "A node does without it as long as another one answers.",
        );
    }
    let none = || std::io::Error::other(format!("none of the sentinels names the master `{service}`"));
    let master = master.ok_or_else(none)?;
    let found = format!(
        "the master of {service}, by {answering} of {} configured sentinels: {master}",
        addresses.len()
    );
    inspection.fine("topology", found);
    if addresses.len() < SENTINELS {
        inspection.warn(
            "sentinels",
            format!("{} in `broker.url`", addresses.len()),
            "A node that starts while these are down does not find the master. Name three or more.",
        );
    }
    Ok(master)
}

async fn masters(
    settings: &RedisSettings,
    addresses: &[RedisAddress],
    inspection: &mut Inspection,
) -> Result<Vec<RedisAddress>, Broken> {
    let settings = Arc::new(settings.clone());
    let (mut first, mut last) = (None, Broken::Silent);
    for address in addresses {
        match read_map(&settings, address).await {
            Ok(map) => {
                first.get_or_insert((address, map));
            }
            Err(broken) => {
                inspection.warn(
                    "server",
                    format!("{address}: {broken}"),
                    "A node does without it as long as another one of `broker.url` answers when it starts.",
                );
                last = broken;
            }
        }
    }
    let Some((address, map)) = first else { return Err(last) };
    let masters: Vec<RedisAddress> = map.masters().iter().map(|master| master.address.clone()).collect();
    let names: Vec<String> = masters.iter().map(RedisAddress::to_string).collect();
    inspection.fine(
        "topology",
        format!("a Cluster of {} masters, as {address} says: {}", names.len(), names.join(", ")),
    );
    Ok(masters)
}
