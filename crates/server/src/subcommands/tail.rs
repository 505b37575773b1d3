//! `drawbridge tail CHANNEL`: what happens on a channel or pattern, one line an event, until it is ended.

use std::io::{self, Write};

use drawbridge_protocol::{channel, glob};

use super::remote::{self, Message, PlayerSocket, Target, refusal};
use super::{DONE, ExitStatus, REFUSED, report_config};
use crate::broker::redis::direct::{self, Listened, Listening, Subscribing};
use crate::cli::TailArgs;
use crate::config::Config;
use crate::log::escaped;
use crate::serve;

/// Prints events to standard output, and what else happens to standard error.
///
/// # Errors
/// Where the output cannot be written.
pub fn run(args: &TailArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    if let Err(problem) = channel::validate_subject(&args.channel) {
        writeln!(err, "drawbridge tail: {}: {problem}", escaped(&args.channel))?;
        return Ok(REFUSED);
    }
    let target = match Target::of(&args.target) {
        Ok(target) => target,
        Err(errors) => return report_config(&errors, err),
    };
    let mut lines = Lines { out, left: args.count };
    let ended = match target {
        Target::Player { url, token, ca_file } => {
            let tailed =
                remote::block_on(player(args, &url, token.as_deref(), ca_file.as_ref(), &mut lines, err))?;
            tailed.map_err(|problem| remote::with_hint(&problem, token.as_deref()))
        }
        Target::Redis(config) => remote::block_on(redis(args, &config, &mut lines, err))?,
    };
    match ended {
        Ok(()) => Ok(DONE),
        Err(problem) => {
            writeln!(err, "drawbridge tail: {problem}")?;
            Ok(REFUSED)
        }
    }
}

/// Where events are printed, and how many more.
struct Lines<'o> {
    out: &'o mut dyn Write,
    /// `None`: without end.
    left: Option<u64>,
}

impl Lines<'_> {
    /// Prints one; whether more are to come.
    fn print(&mut self, line: &str) -> Result<bool, String> {
        let failed = |error: io::Error| format!("standard output: {error}");
        writeln!(self.out, "{}", escaped(line)).map_err(failed)?;
        self.out.flush().map_err(failed)?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left != Some(0))
    }
}

async fn player(
    args: &TailArgs,
    url: &str,
    token: Option<&str>,
    ca_file: Option<&std::path::PathBuf>,
    lines: &mut Lines<'_>,
    err: &mut dyn Write,
) -> Result<(), String> {
    let (mut player, welcome) = PlayerSocket::connect(url, token, &[&args.channel], ca_file).await?;
    let name = |name: &str| welcome.text(name).unwrap_or_default();
    let _ = writeln!(err, "connected to node {} as {}", escaped(&name("node")), escaped(&name("player")));
    loop {
        let message = player.next().await?;
        let is_ours = message.channel.as_deref().is_some_and(|name| is_of(&args.channel, name));
        match &*message.kind {
            "ERROR" if is_ours => return Err(refusal(&message)),
            "EVENT" | "VIEW_ENTER" | "VIEW_LEAVE" | "PRESENCE_CHANGED" | "RESYNC" if is_ours => {
                if !lines.print(&message.line())? {
                    return Ok(());
                }
            }
            _ => note(err, &message),
        }
    }
}

/// What is no event is for the person who watches.
fn note(err: &mut dyn Write, message: &Message) {
    let _ = writeln!(err, "{}", escaped(&message.line()));
}

/// Whether events of this channel come by this subscription: the same token may subscribe to others automatically.
fn is_of(subscribed: &str, name: &str) -> bool {
    subscribed == name || (channel::is_pattern(subscribed) && glob::glob_matches(subscribed, name))
}

async fn redis(
    args: &TailArgs,
    config: &Config,
    lines: &mut Lines<'_>,
    err: &mut dyn Write,
) -> Result<(), String> {
    let subscribing = subscribing(args, config);
    if subscribing == Subscribing::Sharded && channel::is_pattern(&args.channel) {
        return Err(format!(
            "the class of `{}` is sharded, and Redis has no patterns for sharded channels: name one channel",
            escaped(&args.channel)
        ));
    }
    let settings = serve::redis_settings(config).map_err(|error| error.to_string())?;
    let wanted = Listening {
        settings: &settings,
        name: &args.channel,
        subscribing,
        max_payload: config.broker.external_bytes,
    };
    direct::listen(&wanted, |listened| {
        let said = match listened {
            Listened::Message { channel, payload } => {
                return lines.print(&format!("{channel} {}", String::from_utf8_lossy(payload)));
            }
            Listened::Begun => format!("subscribed at Redis {}", settings.location),
            Listened::WithoutSharded(reason) => {
                format!("events published with SPUBLISH are not shown: Redis said: {reason}")
            }
            Listened::Moved => format!(
                "{} has another master in the Cluster and is subscribed there; events in between are not shown",
                args.channel
            ),
            Listened::Oversized { channel, bytes } => format!(
                "{channel}: a payload of {bytes} bytes is not shown, and nodes drop it: broker.external_bytes is {}",
                wanted.max_payload
            ),
        };
        let _ = writeln!(err, "{}", escaped(&said));
        Ok(true)
    })
    .await
}

/// Only a configuration says whether a channel is sharded.
fn subscribing(args: &TailArgs, config: &Config) -> Subscribing {
    let is_sharded =
        || config.engine.classes.of_channel(&args.channel).is_some_and(|(_, class, _)| class.sharded);
    match args.target.config {
        None => Subscribing::Both,
        Some(_) if is_sharded() => Subscribing::Sharded,
        Some(_) => Subscribing::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_argument_names_is_printed() {
        assert!(is_of("room:42", "room:42") && is_of("room:*", "room:42") && is_of("room:*", "room:*"));
        assert!(!is_of("room:42", "room:43") && !is_of("room:*", "player:alice"));
    }

    #[test]
    fn as_many_lines_as_asked_for_are_printed_each_as_one() {
        let mut out = Vec::new();
        let mut lines = Lines { out: &mut out, left: Some(2) };
        assert_eq!(lines.print("a {\n}"), Ok(true));
        assert_eq!(lines.print("b"), Ok(false));
        assert_eq!(String::from_utf8(out).ok().as_deref(), Some("a {\\n}\nb\n"));
    }
}
