//! `drawbridge tail CHANNEL`: what happens on a channel or pattern, one line an event, until it is ended. A connection that is lost
//! once it worked is made again.

mod outage;

use std::io::{self, Write};
use std::path::PathBuf;

use drawbridge_protocol::{channel, glob};
use tokio::time::sleep;

use super::remote::{self, Ended, PlayerSocket, Target, refusal};
use super::{DONE, ExitStatus, REFUSED, report_config};
use crate::broker::redis::direct::{self, Listened, Listening, Subscribing};
use crate::cli::TailArgs;
use crate::config::Config;
use crate::log::escaped;
use crate::serve;
use outage::Connection;

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
    let mut screen = Screen { out, err, left: args.count, failed: None };
    let mut ended = remote::block_on(tail(args, &target, &mut screen))?;
    if let Some(error) = screen.failed {
        ended = Err(format!("standard output: {error}"));
    }
    match ended {
        Ok(()) => Ok(DONE),
        Err(problem) => {
            writeln!(err, "drawbridge tail: {problem}")?;
            Ok(REFUSED)
        }
    }
}

/// Where events and notes are printed, and how many events more.
struct Screen<'o> {
    out: &'o mut dyn Write,
    err: &'o mut dyn Write,
    /// `None`: without end.
    left: Option<u64>,
    /// Why no more can be printed.
    failed: Option<io::Error>,
}

impl Screen<'_> {
    /// Prints an event; whether more are to come.
    fn print(&mut self, line: &str) -> bool {
        if let Err(error) = writeln!(self.out, "{}", escaped(line)).and_then(|()| self.out.flush()) {
            self.failed = Some(error);
            return false;
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.left != Some(0)
    }

    /// What is no event is for the person who watches.
    fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{}", escaped(text));
    }
}

/// Prints events until there are enough, however often the connection is lost.
async fn tail(args: &TailArgs, target: &Target, screen: &mut Screen<'_>) -> Result<(), String> {
    let mut connection = Connection::default();
    loop {
        let ended = match target {
            Target::Player { url, token, ca_file } => {
                player(args, url, token.as_deref(), ca_file.as_ref(), screen, &mut connection).await
            }
            Target::Redis(config) => redis(args, config, screen, &mut connection).await,
        };
        let reason = match ended {
            Ok(()) => return Ok(()),
            Err(Ended::Lost(reason)) if connection.has_worked() => reason,
            Err(ended) => return Err(hinted(target, &ended)),
        };
        let (note, wait) = connection.lost(&reason);
        if let Some(note) = note {
            screen.note(&note);
        }
        sleep(wait).await;
    }
}

fn hinted(target: &Target, ended: &Ended) -> String {
    match target {
        Target::Player { token, .. } => remote::with_hint(&ended.to_string(), token.as_deref()),
        Target::Redis(_) => escaped(&ended.to_string()).into_owned(),
    }
}

async fn player(
    args: &TailArgs,
    url: &str,
    token: Option<&str>,
    ca_file: Option<&PathBuf>,
    screen: &mut Screen<'_>,
    connection: &mut Connection,
) -> Result<(), Ended> {
    let (mut player, welcome) = PlayerSocket::connect(url, token, &[&args.channel], ca_file).await?;
    let name = |name: &str| welcome.text(name).unwrap_or_default();
    screen.note(&connection.works(&format!("connected to node {} as {}", name("node"), name("player"))));
    loop {
        let message = player.next().await?;
        let is_ours = message.channel.as_deref().is_some_and(|name| is_of(&args.channel, name));
        match &*message.kind {
            "ERROR" if is_ours => return Err(Ended::Refused(refusal(&message))),
            "EVENT" | "VIEW_ENTER" | "VIEW_LEAVE" | "PRESENCE_CHANGED" | "RESYNC" if is_ours => {
                if !screen.print(&message.line()) {
                    return Ok(());
                }
            }
            _ => screen.note(&message.line()),
        }
    }
}

/// Whether events of this channel come by this subscription: the same token may subscribe to others automatically.
fn is_of(subscribed: &str, name: &str) -> bool {
    subscribed == name || (channel::is_pattern(subscribed) && glob::glob_matches(subscribed, name))
}

async fn redis(
    args: &TailArgs,
    config: &Config,
    screen: &mut Screen<'_>,
    connection: &mut Connection,
) -> Result<(), Ended> {
    let subscribing = subscribing(args, config);
    if subscribing == Subscribing::Sharded && channel::is_pattern(&args.channel) {
        return Err(Ended::Refused(format!(
            "the class of `{}` is sharded, and Redis has no patterns for sharded channels: name one channel",
            args.channel
        )));
    }
    let settings = serve::redis_settings(config).map_err(|error| Ended::Refused(error.to_string()))?;
    let wanted = Listening {
        settings: &settings,
        name: &args.channel,
        subscribing,
        max_payload: config.broker.external_bytes,
    };
    let ended = direct::listen(&wanted, |listened| {
        let note = match listened {
            Listened::Message { channel, payload } => {
                return screen.print(&format!("{channel} {}", String::from_utf8_lossy(payload)));
            }
            Listened::Begun => connection.works(&format!("subscribed at Redis {}", settings.location)),
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
        screen.note(&note);
        true
    });
    ended.await.map_err(Ended::Lost)
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
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err, left: Some(2), failed: None };
        assert!(screen.print("a {\n}"));
        assert!(!screen.print("b"));
        screen.note("c\n");
        assert_eq!(String::from_utf8(out).ok().as_deref(), Some("a {\\n}\nb\n"));
        assert_eq!(String::from_utf8(err).ok().as_deref(), Some("c\\n\n"));
    }
}
