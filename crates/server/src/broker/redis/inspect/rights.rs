//! Which commands, keys and channels Redis refuses to this user. Each command is tried in a form that changes nothing: on a
//! key that does not exist, or that exists for the trial alone.

use drawbridge_engine::class::{Class, Classes};
use drawbridge_protocol::template::ClassName;

use super::super::connect::Broken;
use super::super::plain_connection::{Answered, PlainConnection};
use super::super::{RedisSettings, code_of, is_unknown_command, without_arguments};
use super::Inspection;

/// No channel has such a name, because of the space.
const NO_CHANNEL: &str = "check redis";
/// How many classes' channels are tried.
const MAX_CLASSES: usize = 1_000;

/// A refusal: what was tried, and what Redis returned.
type Refusal = (String, String);

pub(super) async fn look(
    connection: &mut PlainConnection,
    settings: &RedisSettings,
    classes: &Classes,
    inspection: &mut Inspection,
) -> Result<(), Broken> {
    let before = inspection.findings.len();
    let commands = commands(settings, classes);
    let refused = try_all(connection, &commands.always).await?;
    report(
        inspection,
        "rights",
        &refused,
        "Nodes cannot do without these. Give the user the commands and the names of docs/redis.md (Rights).",
    );
    let refused = try_all(connection, &commands.of_cluster).await?;
    if let Some((_, first)) = refused.first() {
        let names: Vec<&str> = refused.iter().map(|(name, _)| &**name).collect();
        inspection.warn(
            "rights",
            format!("refused: {} ({first})", names.join(", ")),
            "Without CLUSTER SHARDS a master that has no slots yet gets the functions only when it has some; without CLUSTER \
             INFO nodes may believe a server that was cut off. Grant them.",
        );
    }
    if uses_streams(classes) {
        let refused = try_all(connection, &commands.streams).await?;
        report(
            inspection,
            "rights",
            &refused,
            "Classes with `forward` refuse what players publish, and the lifecycle stream stays empty. Grant +xadd, and the \
             streams' keys.",
        );
    }
    let refused = try_all(connection, &commands.functions).await?;
    report(
        inspection,
        "functions",
        &refused,
        "Without all of these, entity channels, channels with history, players' views, presence or resuming sessions on other \
         nodes do not work. Needs Redis 7.0 with FUNCTION and FCALL under their own names, and the commands of docs/redis.md \
         (Rights).",
    );
    let refused = channels(connection, settings, classes).await?;
    report(
        inspection,
        "channels",
        &refused,
        "Subscriptions there are refused to players (BROKER_REFUSED). Grant the channels to the user, and to each class with \
         patterns its prefix.",
    );
    if inspection.findings.len() == before {
        inspection.fine("rights", "no command, key or channel of this configuration is refused");
    }
    // Names help operators alone.
    let named = connection.ask(&["CLIENT", "SETNAME", "drawbridge:check-redis"]).await?;
    if let Some(refusal) = refusal(&named) {
        inspection.warn(
            "CLIENT",
            format!("SETNAME is refused: {refusal}"),
            "The nodes' connections have no names in CLIENT LIST; nothing else is missing.",
        );
    }
    Ok(())
}

fn report(inspection: &mut Inspection, about: &'static str, refused: &[Refusal], advice: &str) {
    if let Some((_, first)) = refused.first() {
        let names: Vec<&str> = refused.iter().map(|(name, _)| &**name).collect();
        inspection.missing(about, format!("refused: {} ({first})", names.join(", ")), advice);
    }
}

/// Why Redis refuses it, if that is for a lack of rights, or because it has no such command.
fn refusal(answer: &Answered) -> Option<String> {
    let message = answer.as_ref().err()?;
    let is_refused = is_unknown_command(message)
        || message.contains("unknown subcommand")
        || ["NOPERM", "NOAUTH"].contains(&code_of(message));
    is_refused.then(|| without_arguments(message).to_owned())
}

async fn try_all(connection: &mut PlainConnection, commands: &[Vec<String>]) -> Result<Vec<Refusal>, Broken> {
    let mut refused = Vec::new();
    for command in commands {
        let parts: Vec<&str> = command.iter().map(String::as_str).collect();
        if let Some(refusal) = refusal(&connection.ask(&parts).await?) {
            let name = match &parts[..] {
                [name @ ("FUNCTION" | "CLUSTER"), part, ..] => format!("{name} {part}"),
                [name, ..] => (*name).to_owned(),
                [] => String::new(),
            };
            refused.push((name, refusal));
        }
    }
    Ok(refused)
}

fn uses_streams(classes: &Classes) -> bool {
    classes.iter().any(|(_, class)| class.forward.is_some())
}

/// Forms that change nothing, by what needs them.
struct Commands {
    always: Vec<Vec<String>>,
    of_cluster: Vec<Vec<String>>,
    streams: Vec<Vec<String>>,
    functions: Vec<Vec<String>>,
}

fn commands(settings: &RedisSettings, classes: &Classes) -> Commands {
    let key = &settings.names.table_key(NO_CHANNEL);
    let channel =
        &settings.names.outward(&format!("{}{NO_CHANNEL}", settings.names.key_prefix())).into_owned();
    let line = |line: &str| -> Vec<String> {
        let part = |part: &str| match part {
            "KEY" => key.clone(),
            "CHANNEL" => channel.clone(),
            "PREFIX" => settings.library.prefix().to_owned(),
            other => other.to_owned(),
        };
        line.split(' ').map(part).collect()
    };
    let lines = |text: &str| text.lines().map(line).collect();
    let mut always: Vec<Vec<String>> = lines(
        "PING\nSUBSCRIBE CHANNEL\nUNSUBSCRIBE CHANNEL\nPUNSUBSCRIBE CHANNEL\nPUBLISH CHANNEL x\n\
         HLEN KEY\nHKEYS KEY\nHSTRLEN KEY f\nHGET KEY f",
    );
    if settings.is_cluster() {
        always.extend::<Vec<Vec<String>>>(lines("CLUSTER SLOTS\nASKING\nEXISTS KEY"));
    }
    if classes.iter().any(|(_, class)| class.sharded) {
        always.extend::<Vec<Vec<String>>>(lines("SUNSUBSCRIBE CHANNEL\nSPUBLISH CHANNEL x"));
    }
    let of_cluster = if settings.is_cluster() { lines("CLUSTER SHARDS\nCLUSTER INFO") } else { Vec::new() };
    Commands {
        always,
        of_cluster,
        streams: lines("XADD KEY NOMKSTREAM * f v"),
        // HSET and SADD write; UNLINK removes what they wrote.
        functions: lines(
            "FUNCTION LIST LIBRARYNAME drawbridge\nFUNCTION LOAD x\nFCALL drawbridge_check 0 PREFIX\nTIME\n\
             INFO replication\nHMGET KEY f\nHSCAN KEY 0\nHSET KEY f v\nHEXISTS KEY f\nHDEL KEY f\nZADD KEY XX 1 m\n\
             ZREM KEY m\nZCARD KEY\nZSCORE KEY m\nZRANGEBYSCORE KEY 0 1 LIMIT 0 1\nZRANGEBYLEX KEY [a [b LIMIT 0 1\n\
             SET KEY v XX\nGETRANGE KEY 0 1\nXADD KEY NOMKSTREAM * f v\nXRANGE KEY - + COUNT 1\nXREVRANGE KEY + - COUNT 1\n\
             XLEN KEY\nXTRIM KEY MAXLEN 1\nSADD KEY m\nSRANDMEMBER KEY\nSREM KEY m\nPERSIST KEY\nPEXPIRE KEY 1000\nUNLINK KEY",
        ),
    }
}

/// The channels and patterns of the classes that this user may not subscribe to.
async fn channels(
    connection: &mut PlainConnection,
    settings: &RedisSettings,
    classes: &Classes,
) -> Result<Vec<Refusal>, Broken> {
    let mut refused = Vec::new();
    for (_, class) in classes.iter().take(MAX_CLASSES) {
        let name = sample(&class.name);
        let channel = settings.names.outward(&name).into_owned();
        let command = if class.sharded { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        refused.extend(try_subscribe(connection, command, &channel).await?);
        if let Some(pattern) = pattern(class) {
            let pattern = settings.names.outward(&pattern).into_owned();
            refused.extend(try_subscribe(connection, "PSUBSCRIBE", &pattern).await?);
        }
    }
    Ok(refused)
}

async fn try_subscribe(
    connection: &mut PlainConnection,
    command: &str,
    name: &str,
) -> Result<Option<Refusal>, Broken> {
    let answer = connection.ask(&[command, name]).await?;
    Ok(refusal(&answer).map(|refusal| (format!("{command} {name}"), refusal)))
}

/// A channel of this class.
fn sample(class: &ClassName) -> String {
    let mut name = String::new();
    let mut is_placeholder = false;
    for c in class.to_string().chars() {
        match c {
            '{' => is_placeholder = true,
            '}' => {
                is_placeholder = false;
                name.push('1');
            }
            '*' => name.push('1'),
            c if !is_placeholder => name.push(c),
            _ => {}
        }
    }
    name
}

/// The pattern that covers all patterns of this class; `None`: it allows none.
fn pattern(class: &Class) -> Option<String> {
    class.patterns.then(|| format!("{}*", class.name.literal_prefix()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sample_is_a_channel_of_its_class() {
        for class in ["room:{room}", "a:{x}:b:{y}", "news:*", "fixed"] {
            let class = ClassName::parse(class).unwrap();
            assert!(class.matches(&sample(&class)).is_some(), "{class}");
        }
    }

    #[test]
    fn a_lack_of_rights_is_told_from_other_errors() {
        for (message, is_refused) in [
            ("NOPERM User x has no permissions to run the 'xadd' command", true),
            ("ERR unknown command 'FUNCTION', with args beginning with: 'LIST' ", true),
            ("ERR Missing library metadata", false),
            ("MOVED 3999 127.0.0.1:6381", false),
        ] {
            assert_eq!(refusal(&Err(message.to_owned())).is_some(), is_refused, "{message}");
        }
    }
}
