//! The command line: its arguments and help. The commands themselves are elsewhere.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::listen_address;

/// `drawbridge …`
#[derive(Debug, Parser)]
#[command(name = "drawbridge", version, arg_required_else_help = true, disable_help_subcommand = true)]
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
    #[command(
        after_help = "Once the node is ready, one line on standard error says where it listens (port 0 in the\n\
        configuration takes a free port). SIGTERM and SIGINT drain it: readiness turns false, after `drain_delay`\n\
        clients are asked to reconnect elsewhere, and within `drain_window` they are disconnected and the process ends. A\n\
        second signal ends it at once. SIGHUP reads secrets, keys and certificates again; a file that is wrong changes\n\
        nothing."
    )]
    Serve {
        /// The configuration, TOML; docs/configuration.md lists every key
        #[arg(long, value_name = "FILE", env = "DRAWBRIDGE_CONFIG")]
        config: PathBuf,
    },
    /// Run everything in one process, to try and to develop: no Redis and no file are needed
    #[command(
        after_help = "Prints a link to the playground, where two players are connected and events are flowing.\n\
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
    #[arg(long, value_name = "DURATION", default_value = "1h")]
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
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap();
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
