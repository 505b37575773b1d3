//! What `drawbridge tail` and `publish` reach: a node as a player, a node by its admin API, or the Redis beside it. Owns which
//! of them the options name; what is done there is in the commands.

pub(super) mod admin;
mod message_line;
mod player_socket;

use std::path::PathBuf;

use crate::cli::TargetArgs;
use crate::config::{self, BrokerKind, Config, ConfigErrors};
use crate::log::escaped;
pub(super) use message_line::Message;
pub(super) use player_socket::{Ended, PlayerSocket, refusal};

/// A node on this machine with the default port.
const NODE_URL: &str = "ws://127.0.0.1:8000/ws";

/// Where to go.
pub(super) enum Target {
    /// A node's players' port.
    Player {
        /// `ws://` or `wss://`.
        url: String,
        /// `None`: as an anonymous player.
        token: Option<String>,
        /// The certificates to trust instead of the system's.
        ca_file: Option<PathBuf>,
    },
    /// The Redis of this configuration.
    Redis(Box<Config>),
}

impl Target {
    /// The one that these options name.
    ///
    /// # Errors
    /// A configuration that is wrong or has no Redis.
    pub(super) fn of(args: &TargetArgs) -> Result<Target, ConfigErrors> {
        let config = match (&args.redis, &args.config) {
            (Some(url), _) => config::of_redis(url)?,
            (None, Some(file)) => config::load(file)?,
            (None, None) => {
                return Ok(Target::Player {
                    url: args.url.clone().unwrap_or_else(|| NODE_URL.to_owned()),
                    token: args.token.clone(),
                    ca_file: args.ca_file.clone(),
                });
            }
        };
        match config.broker.kind {
            BrokerKind::Redis(_) => Ok(Target::Redis(Box::new(config))),
            BrokerKind::Memory => {
                let file = args.config.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
                let problem =
                    "has the memory broker, which nothing outside the node can reach; use --url and --token";
                Err(ConfigErrors::refused(&file, problem))
            }
        }
    }
}

/// Why there is no connection to a node, and what to look at.
fn unreachable_node(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            format!("{error}; is a node running there, and is this its port?")
        }
        _ => error.to_string(),
    }
}

/// What to do about a node's refusal.
pub(super) fn with_hint(problem: &str, token: Option<&str>) -> String {
    let problem = escaped(problem);
    let is_unauthenticated = problem.contains("UNAUTHENTICATED") || problem.contains("TOKEN_EXPIRED");
    match (is_unauthenticated, token) {
        (true, None) => format!(
            "{problem}\n  give --token; `drawbridge token` mints one, and `drawbridge dev` serves them:\n  \
             --token \"$(curl -s 'http://127.0.0.1:8000/dev/token?sub=alice&claim=room=42')\""
        ),
        (true, Some(_)) => format!("{problem}\n  `drawbridge explain --config FILE --token …` says more"),
        (false, _) if problem.contains("FORBIDDEN") => {
            format!(
                "{problem}\n  `drawbridge explain --config FILE --token …` says which rule and which claim"
            )
        }
        (false, _) => problem.into_owned(),
    }
}

/// Runs what a command does over the network.
///
/// # Errors
/// Where the system has no threads or sockets.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}
