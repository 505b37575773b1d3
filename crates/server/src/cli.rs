//! The command line: its arguments and help. The commands themselves are elsewhere.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::auth::DEFAULT_TTL;
use crate::config::listen_address;

/// The version, and of builds to ship the commit and its date.
pub const VERSION: &str = env!("BUILD_VERSION");

/// `drawbridge …`
#[derive(Debug, Parser)]
#[command(name = "drawbridge", version = VERSION, arg_required_else_help = true, disable_help_subcommand = true)]
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
    /// Run a node
    #[command(after_help = "Without --config the variables (DRAWBRIDGE_…) are the whole configuration.\n\
        Once the node is ready, one line on standard error says where it listens (port 0 in the\n\
        configuration takes a free port). SIGTERM and SIGINT drain it: readiness turns false, after `drain_delay`\n\
        clients are asked to reconnect elsewhere, and within `drain_window` they are disconnected and the process ends. A\n\
        second signal ends it at once. SIGHUP reads secrets, keys and certificates again; a file that is wrong changes\n\
        nothing.")]
    Serve {
        /// The configuration, TOML; docs/configuration.md lists every key
        #[arg(long, value_name = "FILE", env = "DRAWBRIDGE_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Run everything in one process, to try and to develop: no Redis and no file are needed
    #[command(
        after_help = "Prints a link to the playground, where two players are connected and events are flowing, and what to\n\
        paste into a page of your own: pages on any port of localhost may connect, with tokens from /dev/token.\n\
        The sample classes are player:{player}, room:{room}, game:{game}, world:{world}, team:{team} and chat:*, the\n\
        admin API key is `dev`, and errors name the class and the rule that refused. Not for production."
    )]
    Dev {
        /// Use this Redis instead of the broker within the process, so that other services can publish
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
    /// Mint a token (a JWT) that a player can connect with
    #[command(after_help = "Only the token is printed, so that it can be used in place:\n\
        \x20 TOKEN=$(drawbridge token --config drawbridge.toml --sub alice --claim room=42)\n\
        \n\
        The value of a --claim is a text, also where it looks like a number, because the parts of a channel's name are\n\
        texts: with room=42 the rule `params.room == me.room` holds for room:42. It is JSON where it is a list, an\n\
        object, a quoted string, true, false or null:\n\
        \x20 --claim rooms='[\"42\",\"43\"]'  --claim admin=true  --claim name='\"null\"'\n\
        For numbers there is --claim-json level=5. The claims exp, nbf and iat are numbers always.\n\
        \n\
        `aud` and `iss` are added where the configuration asks for them. The signature is HS256 by `auth.hmac_secret`\n\
        (or the first of `hmac_secrets`), or by --private-key-file: RS256 (PS256 with --pss), ES256, ES384 or EdDSA by the\n\
        kind of the key.")]
    Token(TokenArgs),
    /// Write a first configuration, with comments and new secrets
    #[command(after_help = "A file that is there is never overwritten.")]
    Init {
        /// Where to write it
        #[arg(value_name = "FILE", default_value = "drawbridge.toml")]
        file: PathBuf,
    },
    /// Say which class and rule decide about a token, a subscribe or a publish
    #[command(
        after_help = "The node's own code decides; each step is printed, with the values of the rule's variables and the\n\
        claims that the token lacks:\n\
        \x20 drawbridge explain --config drawbridge.toml --token \"$TOKEN\" --subscribe room:42\n\
        \x20 drawbridge explain --config drawbridge.toml --token \"$TOKEN\" --publish chat:lobby --event say --data '{\"text\":\"hi\"}'\n\
        The exit status is 0 where it is allowed, 1 where it is refused, and 2 where the file cannot be read. What services\n\
        have changed for the player while the node runs (views, subscriptions) is not known here."
    )]
    Explain(ExplainArgs),
    /// Print what happens on a channel or pattern, one line an event
    #[command(after_help = "As a player of a node, with what its rules and views let through:\n\
        \x20 drawbridge tail room:42 --url ws://127.0.0.1:8000/ws --token \"$TOKEN\"\n\
        Or all that services and nodes publish in a Redis:\n\
        \x20 drawbridge tail 'room:*' --redis redis://127.0.0.1:6379\n\
        \n\
        A line is the channel, a space, and the event as JSON; whatever else a node says about the channel has its type\n\
        between them. Connecting, errors and all that is no event are printed to standard error.")]
    Tail(TailArgs),
    /// Publish one event
    #[command(after_help = "As a player of a node, where the class's `publish` rule decides:\n\
        \x20 drawbridge publish room:42 --event hit --data '{\"damage\":12}' --token \"$TOKEN\"\n\
        As a service, by the admin API:\n\
        \x20 drawbridge publish room:42 --event hit --api-key \"$KEY\" --url http://127.0.0.1:8001\n\
        Into a Redis; with --config also into the channel's log or table, if its class has one:\n\
        \x20 drawbridge publish room:42 --event hit --redis redis://127.0.0.1:6379")]
    Publish(PublishArgs),
    /// Print a completion script for a shell
    #[command(after_help = "For bash: drawbridge completions bash > /etc/bash_completion.d/drawbridge")]
    Completions {
        /// Which shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one command
    #[command(after_help = "To read it at once: drawbridge man | man -l -")]
    Man {
        /// The command, such as serve
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
    /// Say what is wrong with a configuration
    #[command(
        after_help = "Every problem is printed to standard error with file, line, column and what would be right.\n\
        Variables that override keys (DRAWBRIDGE_…) are looked at too. The exit status is 0 where the configuration can\n\
        be served, 1 where it cannot, and 2 where the file cannot be read."
    )]
    CheckConfig {
        /// The configuration, TOML
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Look at the Redis of a configuration, and say what is missing
    #[command(
        after_help = "Connects as a node does and prints what it finds, each risk or lack with what follows from it and what\n\
        to do. Nothing that is stored is changed. The exit status is 0 where all is there, 1 where something is missing, and\n\
        2 where Redis cannot be reached or the configuration cannot be used."
    )]
    CheckRedis {
        /// The configuration, TOML
        #[arg(long, value_name = "FILE", env = "DRAWBRIDGE_CONFIG")]
        config: PathBuf,
    },
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
    /// A claim; may be given again and again
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    pub claims: Vec<String>,
    /// A claim whose value is JSON, so that 5 is a number; may be given again and again
    #[arg(long = "claim-json", value_name = "NAME=JSON")]
    pub json_claims: Vec<String>,
    /// How long it is good for, such as 90s, 10m, 1h or 30d; `never` leaves `exp` out
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
    /// The player's token (a JWT)
    #[arg(long, value_name = "TOKEN")]
    pub token: String,
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
    /// End after so many events
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
            "drawbridge init",
            "drawbridge explain --config F --token T",
            "drawbridge explain --config F --token T --subscribe C",
            "drawbridge explain --config F --token T --publish C --event E --data D",
            "drawbridge tail room:* --redis redis://h --count 2",
            "drawbridge tail room:42 --url ws://h/ws --token T",
            "drawbridge publish room:42 --event hit --data {} --api-key K",
            "drawbridge completions bash",
            "drawbridge man serve",
            "drawbridge check-redis --config FILE",
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
