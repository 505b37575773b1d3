//! The command line: its arguments and help. The commands themselves are elsewhere.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::auth::DEFAULT_TTL;
use crate::config::listen_address;

/// The version, and of builds to ship the commit and its date.
pub const VERSION: &str = env!("BUILD_VERSION");

/// `drawbridge …`
#[derive(Debug, Parser)]
#[command(name = "drawbridge", version = VERSION, arg_required_else_help = true)]
#[command(about = "Players' WebSockets joined to Redis Pub/Sub, for real-time multiplayer games.")]
#[command(after_help = "Try it without Redis and without a file: drawbridge dev\n\
    Every key of the configuration can be overridden by a variable: DRAWBRIDGE_BROKER__URL=redis://db:6379\n\
    What is logged is set by DRAWBRIDGE_LOG: error, warn, info (the default), debug, or a filter like drawbridge=debug")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Run a node for development, with a playground; needs neither Redis nor a configuration
    #[command(
        after_help = "Prints a link to the playground, where two players are connected and events arrive, and what to paste\n\
        into a page of your own: pages on any port of localhost may connect, with tokens from /dev/token.\n\
        The sample classes are player:{player}, room:{room}, game:{game}, world:{world}, team:{team} and chat:*, the\n\
        admin API key is `dev`, and errors name the class and the rule that refused. Not for production."
    )]
    Dev {
        /// Use this Redis, so that other services can publish [default: a broker within the process]
        #[arg(long, value_name = "URL")]
        redis: Option<String>,
        /// Where to listen for players, as HOST:PORT; port 0 takes a free one [default: 127.0.0.1:8000]
        #[arg(long, value_name = "ADDRESS", value_parser = listen_address)]
        listen: Option<String>,
        /// Where the admin API listens, as HOST:PORT [default: 127.0.0.1:8001, or
        /// any port where that one is taken]
        #[arg(long, value_name = "ADDRESS", value_parser = listen_address)]
        admin_listen: Option<String>,
    },
    /// Write a first configuration, with comments and new secrets
    #[command(after_help = "An existing file is never overwritten.")]
    Init {
        /// Where to write it
        #[arg(value_name = "FILE", default_value = "drawbridge.toml")]
        file: PathBuf,
    },
    /// Check a configuration, and print every problem
    #[command(
        after_help = "Every problem is printed to standard error with file, line, column and what would be right.\n\
        Variables that override keys (DRAWBRIDGE_…) are checked too. The exit status is 0 if a node can run with the\n\
        configuration, 1 if it cannot, and 2 if the file cannot be read."
    )]
    CheckConfig(ConfigFile),
    /// Check the Redis of a configuration, and print what is missing
    #[command(
        after_help = "Connects as a node does and prints what it finds: for each risk and each missing feature, the consequence\n\
        and the remedy. It changes no data. The exit status is 0 if nothing is missing, 1 if something is, and 2 if Redis\n\
        cannot be reached or the configuration cannot be used."
    )]
    CheckRedis(ConfigFile),
    /// Run a node
    #[command(after_help = "Without a file, the variables (DRAWBRIDGE_…) are the whole configuration.\n\
        When the node is ready, it prints one line to standard error with the addresses that it listens on (port 0 in\n\
        the configuration takes a free port).\n\
        SIGTERM and SIGINT drain the node: it reports that it is not ready, after `drain_delay` asks clients to\n\
        reconnect elsewhere, disconnects them within `drain_window`, and ends. A second signal ends it at once.\n\
        SIGHUP reads secrets, keys and certificates again; if the file is wrong, nothing changes.")]
    Serve(ServeArgs),
    /// Mint a token (a JWT) that a player can connect with
    #[command(after_help = "Only the token is printed, so that it can be used in place:\n\
        \x20 TOKEN=$(drawbridge token --config drawbridge.toml --sub alice --claim room=42)\n\
        \n\
        The value of a --claim is a text, even if it looks like a number, because the parts of a channel's name are\n\
        texts: with room=42 the rule `params.room == me.room` is true for room:42. A list, an object, a quoted string,\n\
        true, false and null are read as JSON:\n\
        \x20 --claim rooms='[\"42\",\"43\"]'  --claim admin=true  --claim name='\"null\"'\n\
        For numbers there is --claim-json level=5. The claims exp, nbf and iat are always numbers.\n\
        \n\
        `aud` and `iss` are added if the configuration requires them. The signature is HS256 by `auth.hmac_secret`\n\
        (or the first of `hmac_secrets`), or by --private-key-file: RS256 (PS256 with --pss), ES256, ES384 or EdDSA by the\n\
        kind of the key.")]
    Token(TokenArgs),
    /// Say which class and rule decide about a token, a subscribe or a publish
    #[command(
        after_help = "The node's own code decides; each step is printed, with the values of the rule's variables and the\n\
        claims that the token lacks:\n\
        \x20 drawbridge explain --config drawbridge.toml --token \"$TOKEN\" --subscribe room:42\n\
        \x20 drawbridge explain --config drawbridge.toml --token \"$TOKEN\" --publish chat:lobby --event say --data '{\"text\":\"hi\"}'\n\
        Without --token it answers for a player who connects without one (`auth.allow_anonymous`).\n\
        The exit status is 0 if it is allowed, 1 if it is refused, and 2 if the file cannot be read. Views and\n\
        subscriptions that services have set for the player on a running node are not known here."
    )]
    Explain(ExplainArgs),
    /// Print the events of a channel or pattern, one per line
    #[command(after_help = "As a player of a node, with what its rules and views let through:\n\
        \x20 drawbridge tail room:42 --url ws://127.0.0.1:8000/ws --token \"$TOKEN\"\n\
        Or all that services and nodes publish in a Redis, on sharded channels too (not by a pattern):\n\
        \x20 drawbridge tail 'room:*' --redis redis://127.0.0.1:6379\n\
        \n\
        Each line is the channel, a space, and the event as JSON. Other messages of a node about the channel have their\n\
        type in between. Everything else, such as errors, is printed to standard error. A connection that is lost after it\n\
        worked is made again, and for how long nothing was shown is printed; Ctrl-C ends it.")]
    Tail(TailArgs),
    /// Publish one event
    #[command(after_help = "As a player of a node, where the class's `publish` rule decides:\n\
        \x20 drawbridge publish room:42 --event hit --data '{\"damage\":12}' --token \"$TOKEN\"\n\
        As a service, by the admin API:\n\
        \x20 drawbridge publish room:42 --event hit --api-key \"$KEY\" --url http://127.0.0.1:8001\n\
        Into a Redis; with --config in the way of the channel's class, into its log or table or by SPUBLISH:\n\
        \x20 drawbridge publish room:42 --event hit --redis redis://127.0.0.1:6379")]
    Publish(PublishArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "For bash: drawbridge completions bash > ~/.local/share/bash-completion/completions/drawbridge"
    )]
    Completions {
        /// Which shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one command
    #[command(after_help = "To read it: drawbridge man | man -l -")]
    Man {
        /// The command, such as serve
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

/// `drawbridge serve …`
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The configuration, TOML; docs/configuration.md lists every key
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as FILE, which takes precedence
    #[arg(long, value_name = "FILE", env = "DRAWBRIDGE_CONFIG")]
    config: Option<PathBuf>,
}

impl ServeArgs {
    /// The file's path; `None`: the variables are the whole configuration.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_deref().or(self.config.as_deref())
    }
}

/// A configuration to check, by its name or as the option that other commands have.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// The configuration, TOML
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The same as FILE, which takes precedence
    #[arg(long, value_name = "FILE", env = "DRAWBRIDGE_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.as_deref().or(self.config.as_deref()).unwrap_or(Path::new(""))
    }
}

/// `drawbridge token …`
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// The configuration whose `[auth]` the token is for
    #[arg(long, value_name = "FILE", env = "DRAWBRIDGE_CONFIG")]
    pub config: PathBuf,
    /// The player's id: the claim `sub`, or the one that `auth.user_claim` names
    #[arg(long, value_name = "PLAYER")]
    pub sub: String,
    /// A claim; may be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    pub claims: Vec<String>,
    /// A claim whose value is JSON, so that 5 is a number; may be repeated
    #[arg(long = "claim-json", value_name = "NAME=JSON")]
    pub json_claims: Vec<String>,
    /// How long the token is valid, such as 90s, 10m, 1h or 30d; `never` leaves `exp` out
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_TTL)]
    pub ttl: String,
    /// Sign with this key (PEM, PKCS#8) instead of `auth.hmac_secret`
    #[arg(long, value_name = "FILE")]
    pub private_key_file: Option<PathBuf>,
    /// With an RSA key: PS256 instead of RS256
    #[arg(long, requires = "private_key_file")]
    pub pss: bool,
    /// Name the key in the token's header, as the key set does
    #[arg(long, value_name = "KID")]
    pub kid: Option<String>,
}

/// `drawbridge explain …`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The configuration whose rules decide
    #[arg(long, value_name = "FILE", env = "DRAWBRIDGE_CONFIG")]
    pub config: PathBuf,
    /// The player's token (a JWT); without one, an anonymous player
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// May the player subscribe to this channel or pattern?
    #[arg(long, value_name = "CHANNEL", conflicts_with = "publish")]
    pub subscribe: Option<String>,
    /// May the player publish on this channel?
    #[arg(long, value_name = "CHANNEL")]
    pub publish: Option<String>,
    /// The event's name
    #[arg(
        long,
        value_name = "EVENT",
        default_value = "message",
        requires = "publish",
        conflicts_with = "subscribe"
    )]
    pub event: String,
    /// The event's data
    #[arg(
        long,
        value_name = "JSON",
        default_value = "null",
        requires = "publish",
        conflicts_with = "subscribe"
    )]
    pub data: String,
    /// The key of the entity
    #[arg(long, value_name = "KEY", requires = "publish", conflicts_with = "subscribe")]
    pub key: Option<String>,
}

/// What a command reaches: a node, or a Redis.
#[derive(Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// The node [default: ws://127.0.0.1:8000/ws]
    #[arg(long, value_name = "URL", conflicts_with_all = ["redis", "config"])]
    pub url: Option<String>,
    /// The player's token (a JWT); without one, an anonymous player
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["redis", "config"])]
    pub token: Option<String>,
    /// The certificates to trust instead of the system's, PEM
    #[arg(long, value_name = "FILE", conflicts_with_all = ["redis", "config"])]
    pub ca_file: Option<PathBuf>,
    /// This Redis, instead of a node
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub redis: Option<String>,
    /// The Redis of this configuration, with its prefixes, instead of a node
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `drawbridge tail …`
#[derive(Args, Debug)]
pub struct TailArgs {
    /// The channel, or a pattern such as 'room:*'
    #[arg(value_name = "CHANNEL")]
    pub channel: String,
    /// End after this many events
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The node or Redis to reach
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `drawbridge publish …`
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// The channel
    #[arg(value_name = "CHANNEL")]
    pub channel: String,
    /// The event's name
    #[arg(long, value_name = "EVENT", default_value = "message")]
    pub event: String,
    /// The event's data
    #[arg(long, value_name = "JSON", default_value = "null")]
    pub data: String,
    /// The key of the entity, where the class does not find it in the data
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// As a service, by a node's admin API; --url is then http://127.0.0.1:8001 by default
    #[arg(long, value_name = "KEY", conflicts_with_all = ["token", "redis", "config"])]
    pub api_key: Option<String>,
    /// The node or Redis to reach
    #[command(flatten)]
    pub target: TargetArgs,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contracts_lines_are_understood() {
        for line in [
            "drawbridge serve --config FILE",
            "drawbridge dev",
            "drawbridge dev --redis redis://127.0.0.1:6379",
            "drawbridge token --config FILE --sub alice --claim room=42 --claim rooms=[\"42\",\"43\"]",
            "drawbridge check-config FILE",
            "drawbridge serve",
            "drawbridge serve FILE",
            "drawbridge init",
            "drawbridge explain --config F --token T",
            "drawbridge explain --config F --subscribe C",
            "drawbridge explain --config F --token T --subscribe C",
            "drawbridge explain --config F --token T --publish C --event E --data D",
            "drawbridge tail room:* --redis redis://h --count 2",
            "drawbridge tail room:42 --url ws://h/ws --token T",
            "drawbridge publish room:42 --event hit --data {} --api-key K",
            "drawbridge completions bash",
            "drawbridge man serve",
            "drawbridge check-redis --config FILE",
            "drawbridge check-redis FILE",
            "drawbridge check-config --config FILE",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for line in [
            "drawbridge explain --config F --token T --subscribe C --publish C",
            "drawbridge explain --config F --token T --subscribe C --event E",
            "drawbridge tail C --redis redis://h --token T",
            "drawbridge tail C --redis redis://h --config F",
            "drawbridge tail C --count 0",
            "drawbridge publish C --api-key K --token T",
            "drawbridge publish room:*x --api-key K --redis redis://h",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn the_help_of_dev_names_every_sample_class() {
        let help = Cli::command().find_subcommand("dev").unwrap().get_after_help().unwrap().to_string();
        let sample: toml::Table = include_str!("config/dev.toml").parse().unwrap();
        for class in sample["channel"].as_array().unwrap() {
            let name = class["name"].as_str().unwrap();
            assert!(help.contains(name), "{name} is missing in: {help}");
        }
    }

    #[test]
    fn every_command_and_option_is_explained() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
