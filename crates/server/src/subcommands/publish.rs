//! `drawbridge publish CHANNEL`: one event, as a player, as a service by the admin API, or into Redis.

use std::io::{self, Write};

use drawbridge_protocol::channel;
use serde_json::Value;
use serde_json::value::RawValue;

use super::remote::{self, PlayerSocket, Target, admin, refusal};
use super::{DONE, ExitStatus, REFUSED, event_members, parse_data, report_config};
use crate::broker::redis::direct::{self, How, Published};
use crate::cli::PublishArgs;
use crate::config::Config;
use crate::log::escaped;
use crate::serve;

/// The admin listener of a node on this machine with the default port.
const ADMIN_URL: &str = "http://127.0.0.1:8001";

/// Publishes, and says on standard output what became of it.
///
/// # Errors
/// Where the output cannot be written.
pub fn run(args: &PublishArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    let problem = match checked(args) {
        Err(problem) => problem,
        Ok(data) => match publish(args, &data)? {
            Ok(done) => {
                writeln!(out, "{}: {}", escaped(&args.channel), escaped(&done))?;
                return Ok(DONE);
            }
            Err(Failure::Config(errors)) => return report_config(&errors, err),
            Err(Failure::Refused(problem)) => problem,
        },
    };
    writeln!(err, "drawbridge publish: {problem}")?;
    Ok(REFUSED)
}

enum Failure {
    Config(crate::config::ConfigErrors),
    Refused(String),
}

/// The payload's `data`, if the arguments can be published at all.
fn checked(args: &PublishArgs) -> Result<Box<RawValue>, String> {
    channel::validate(&args.channel).map_err(|error| format!("{}: {error}", escaped(&args.channel)))?;
    parse_data(&args.data)
}

fn publish(args: &PublishArgs, data: &RawValue) -> io::Result<Result<String, Failure>> {
    if let Some(api_key) = &args.api_key {
        let url = args.target.url.as_deref().unwrap_or(ADMIN_URL);
        let ca_file = args.target.ca_file.as_deref();
        let body = object_of(args, data, Some(&args.channel));
        return Ok(admin::publish(url, api_key, ca_file, &body)
            .map(|answer| accepted(answer.get("offset").and_then(Value::as_u64)))
            .map_err(Failure::Refused));
    }
    match Target::of(&args.target) {
        Err(errors) => Ok(Err(Failure::Config(errors))),
        Ok(Target::Player { url, token, ca_file }) => {
            let published =
                remote::block_on(as_player(args, data, &url, token.as_deref(), ca_file.as_ref()))?;
            Ok(published.map_err(|problem| Failure::Refused(remote::with_hint(&problem, token.as_deref()))))
        }
        Ok(Target::Redis(config)) => {
            let payload = object_of(args, data, None);
            Ok(remote::block_on(into_redis(args, &config, &payload))?.map_err(Failure::Refused))
        }
    }
}

/// The event as services write it, with its channel for the admin API.
fn object_of(args: &PublishArgs, data: &RawValue, channel: Option<&str>) -> String {
    format!("{{{}}}", members(args, data, channel))
}

fn members(args: &PublishArgs, data: &RawValue, channel: Option<&str>) -> String {
    event_members(channel, &args.event, data, args.key.as_deref())
}

async fn as_player(
    args: &PublishArgs,
    data: &RawValue,
    url: &str,
    token: Option<&str>,
    ca_file: Option<&std::path::PathBuf>,
) -> Result<String, String> {
    let (mut player, _) = PlayerSocket::connect(url, token, &[], ca_file).await?;
    let members = members(args, data, Some(&args.channel));
    let request = format!("{{\"type\":\"PUBLISH_EVENT\",\"id\":2,{members}}}");
    player.send(request).await?;
    let mut is_degraded = false;
    loop {
        let message = player.next_within("EVENT_PUBLISHED").await.map_err(|problem| match is_degraded {
            true => format!(
                "{problem}: the node has lost its Redis, and may still publish the event when Redis is back"
            ),
            false => problem.into(),
        })?;
        match (&*message.kind, message.number("id")) {
            ("STATUS", _) => is_degraded = message.text("broker").as_deref() == Some("degraded"),
            ("EVENT_PUBLISHED", Some(2)) => return Ok(accepted(message.number("offset"))),
            ("ERROR", Some(2)) => return Err(refusal(&message)),
            _ => {}
        }
    }
}

fn accepted(offset: Option<u64>) -> String {
    match offset {
        Some(offset) => format!("published, offset {offset}"),
        None => "published".to_owned(),
    }
}

async fn into_redis(args: &PublishArgs, config: &Config, payload: &str) -> Result<String, String> {
    let settings = serve::redis_settings(config).map_err(|error| error.to_string())?;
    // Only a configuration says what is kept of a channel's events, and whether it is sharded.
    let class = config.engine.classes.of_channel(&args.channel).map(|(_, class, _)| class);
    let how = match class {
        Some(class) if class.history.is_some() || class.entity.is_some() => How::Stored,
        Some(class) if class.sharded => How::Sharded,
        _ => How::Plain,
    };
    match direct::publish(settings, &args.channel, payload, how).await? {
        Published::Plain { subscribers } => Ok(format!(
            "published; {subscribers} connections of this Redis are subscribed (a node is one for all its players)"
        )),
        Published::Stored { offset } => Ok(format!("published with drawbridge_publish, offset {offset}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json as object;

    use super::*;

    use crate::cli::TargetArgs;

    fn args(channel: &str, data: &str) -> PublishArgs {
        PublishArgs {
            channel: channel.to_owned(),
            event: "hi\"t".to_owned(),
            data: data.to_owned(),
            key: Some("e7".to_owned()),
            api_key: None,
            target: TargetArgs::default(),
        }
    }

    #[test]
    fn the_event_is_json_whatever_it_holds_and_numbers_keep_their_digits() {
        let args = args("room:42", "{\"n\":12345678901234567890123}");
        let data = checked(&args).unwrap();
        let payload = object_of(&args, &data, None);
        assert_eq!(payload, r#"{"event":"hi\"t","data":{"n":12345678901234567890123},"key":"e7"}"#);
        let body: Value = serde_json::from_str(&object_of(&args, &data, Some("room:42"))).unwrap();
        assert_eq!((&body["channel"], &body["event"]), (&object!("room:42"), &object!("hi\"t")));
    }

    #[test]
    fn what_cannot_be_published_is_said_before_anything_is_reached() {
        let mut out = (Vec::new(), Vec::new());
        for (channel, data, problem) in
            [("room:*", "1", "no `*`"), ("room:1", "hello", "--data is JSON"), ("", "1", "at least one byte")]
        {
            out.1.clear();
            assert_eq!(run(&args(channel, data), &mut out.0, &mut out.1).unwrap(), REFUSED);
            assert!(String::from_utf8_lossy(&out.1).contains(problem), "{channel}");
        }
        assert!(out.0.is_empty());
    }
}
