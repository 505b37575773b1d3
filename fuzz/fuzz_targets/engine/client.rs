//! What sockets say, from a dictionary of requests with changes, and what is read of the frames that they get.

use drawbridge_engine::io::{AuthFailure, Claims, ConnId};
use drawbridge_protocol::websocket::Window;
use drawbridge_protocol::{Encoding, ErrorCode, msgpack};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

use crate::world::MESSAGE_BYTES;

const CHANNELS: [&str; 22] = [
    "chat:1",
    "chat:2",
    "room:1",
    "room:2",
    "fast:1",
    "fast:2",
    "map:1",
    "world:1",
    "must:1",
    "act:1",
    "reject:1",
    "player:alice",
    "chat:*",
    "room:*",
    "fast:?",
    "map:*",
    "world:[12]",
    "cha*",
    "nobody:1",
    "drawbridge:nodes",
    "bad name",
    "",
];
const KINDS: [&str; 10] = [
    "CHANNEL_SUBSCRIBE",
    "CHANNEL_SUBSCRIBE",
    "CHANNEL_UNSUBSCRIBE",
    "PUBLISH_EVENT",
    "PUBLISH_EVENT",
    "FILTER_UPDATE",
    "FILTER_UPDATE",
    "TOKEN_REFRESH",
    "CONNECT",
    "PING",
];
const FILTERS: [&str; 9] = [
    "true",
    "false",
    "data.id == 'a'",
    "data.n > 2",
    "data.x >= 0 && data.x < 5",
    "data.text.contains('a')",
    "from == me.player",
    "data.team == me.team",
    "(",
];
const AREAS: [&str; 8] = [
    r#"{"x":0,"y":0,"radius":5}"#,
    r#"{"x":3,"y":-1,"radius":0}"#,
    r#"{"min":[-5,-5],"max":[5,5]}"#,
    r#"{"min":[5,5],"max":[-5,-5]}"#,
    r#"{"follow":"alice","radius":3}"#,
    r#"{"follow":"a","radius":3}"#,
    r#"{"x":0,"y":0,"radius":1e9}"#,
    "{}",
];
const EVENTS: [&str; 4] = ["hit", "moved", "remove", ""];
pub const KEYS: [&str; 5] = ["a", "b", "c", "alice", "bob"];
const PLAYERS: [&str; 4] = ["alice", "bob", "carol", "no good: *"];
const TEAMS: [&str; 2] = ["red", "blue"];

/// One socket, as long as the engine knows it.
#[derive(Debug)]
pub struct Socket {
    pub conn: ConnId,
    pub encoding: Encoding,
    pub deflate: Option<Window>,
    pub blocked: bool,
}

/// The outcome of a token.
pub fn token(u: &mut Unstructured<'_>, now_unix_ms: u64) -> Result<std::result::Result<Claims, AuthFailure>> {
    let failure = |code| AuthFailure::new(code, "no");
    Ok(match u.int_in_range(0..=9)? {
        0 => Err(failure(ErrorCode::Unauthenticated)),
        1 => Err(failure(ErrorCode::TokenExpired)),
        2 => Err(failure(ErrorCode::Internal)),
        _ => {
            let player = *u.choose(&PLAYERS)?;
            let rooms: Vec<&str> =
                ["1", "2", "x:y"].into_iter().filter(|_| u.arbitrary().unwrap_or(false)).collect();
            let mut claims = json!({ "sub": player, "team": u.choose(&TEAMS)?, "rooms": rooms });
            let expires_unix_ms = match u.int_in_range(0..=4)? {
                0 => Some(now_unix_ms + u64::from(u.arbitrary::<u16>()?)),
                _ => None,
            };
            if u.ratio(1, 8)? {
                claims["more"] = u.arbitrary::<&str>()?.into();
            }
            Ok(Claims { player: player.into(), expires_unix_ms, json: claims.to_string().into() })
        }
    })
}

/// A message of a client, in its encoding; of text always UTF-8, and never over the limit.
pub fn message(u: &mut Unstructured<'_>, encoding: Encoding) -> Result<Vec<u8>> {
    let count = if u.ratio(1, 6)? { u.int_in_range(0..=70)? } else { 1 };
    let mut text = match (count, u.ratio(1, 16)?) {
        (_, true) => u.arbitrary::<&str>()?.to_owned(),
        (1, _) => request(u)?.to_string(),
        (count, _) => {
            let few: Vec<Value> = (0..count.min(4)).map(|_| request(u)).collect::<Result<_>>()?;
            Value::from((0..count).map(|at| few[at % few.len().max(1)].clone()).collect::<Vec<_>>())
                .to_string()
        }
    };
    if u.ratio(1, 8)? && !text.is_empty() {
        let at = u.choose_index(text.len())?;
        let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        match u.int_in_range(0..=2)? {
            0 => text.truncate(at),
            1 => text.insert_str(at, u.choose(&["{", "]", ",", "\"", "\\u0000", "1e999", "null"])?),
            _ => text.insert_str(at, u.arbitrary::<&str>()?),
        }
    }
    let mut bytes = match encoding {
        Encoding::Json => text.into_bytes(),
        Encoding::MsgPack => {
            let mut bytes = Vec::new();
            if msgpack::from_json(&text, &mut bytes).is_err() {
                bytes = text.into_bytes();
            }
            if u.ratio(1, 8)? && !bytes.is_empty() {
                let at = u.choose_index(bytes.len())?;
                bytes[at] = u.arbitrary()?;
            }
            bytes
        }
    };
    let is_whole = |at: &usize| encoding == Encoding::MsgPack || std::str::from_utf8(&bytes[..*at]).is_ok();
    let end = (0..=MESSAGE_BYTES.min(bytes.len())).rev().find(is_whole).unwrap_or(0);
    bytes.truncate(end);
    Ok(bytes)
}

fn request(u: &mut Unstructured<'_>) -> Result<Value> {
    let kind = *u.choose(&KINDS)?;
    let mut fields = Map::from_iter([("type".to_owned(), Value::from(kind))]);
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    if u.ratio(7, 8)? {
        set("id", u.arbitrary::<u8>()?.into());
    }
    set("channel", (*u.choose(&CHANNELS)?).into());
    match kind {
        "CHANNEL_SUBSCRIBE" | "FILTER_UPDATE" => view(u, &mut set)?,
        "PUBLISH_EVENT" => {
            set("event", (*u.choose(&EVENTS)?).into());
            set("data", data(u)?);
            if u.ratio(1, 4)? {
                set("key", (*u.choose(&KEYS)?).into());
            }
        }
        "TOKEN_REFRESH" => set("token", "t".into()),
        "CONNECT" => {
            if u.arbitrary()? {
                set("token", "t".into());
            }
            let mut wanted = Vec::new();
            for _ in 0..u.int_in_range(0..=14)? {
                let mut one = Map::from_iter([("channel".to_owned(), Value::from(*u.choose(&CHANNELS)?))]);
                view(u, &mut |name, value| drop(one.insert(name.to_owned(), value)))?;
                wanted.push(Value::from(one));
            }
            set("subscribe", wanted.into());
        }
        _ => set("t", data(u)?),
    }
    Ok(fields.into())
}

fn view(u: &mut Unstructured<'_>, set: &mut dyn FnMut(&str, Value)) -> Result<()> {
    match u.int_in_range(0..=7)? {
        0..3 => {}
        3 => set("filter", Value::Null),
        4 => set("filter", u.arbitrary::<&str>()?.into()),
        _ => set("filter", (*u.choose(&FILTERS)?).into()),
    }
    match u.int_in_range(0..=7)? {
        0..4 => {}
        4 => set("area", Value::Null),
        _ => set("area", serde_json::from_str(u.choose(&AREAS)?).unwrap_or_default()),
    }
    Ok(())
}

/// The data of an event: mostly something that the classes have a use for.
pub fn data(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=9)? {
        0 => Value::Null,
        1 => u.arbitrary::<&str>()?.into(),
        2 => {
            json!({ "id": u.choose(&KEYS)?, "text": "x".repeat(usize::from(u.arbitrary::<u16>()? % 3_000)) })
        }
        3 => json!({ "id": u.arbitrary::<u16>()?, "x": u.arbitrary::<f64>()?, "y": u.arbitrary::<f64>()? }),
        _ => json!({
            "id": u.choose(&KEYS)?,
            "x": u.arbitrary::<i8>()? / 10,
            "y": u.arbitrary::<i8>()? / 10,
            "n": u.arbitrary::<i8>()?,
            "team": u.choose(&TEAMS)?,
            "public": u.arbitrary::<bool>()?,
            "ok": true,
        }),
    })
}

pub fn channel(u: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(*u.choose(&CHANNELS[..12])?)
}

pub fn subject(u: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(*u.choose(&CHANNELS)?)
}

pub fn filter(u: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(*u.choose(&FILTERS)?)
}

pub fn player(u: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(*u.choose(&PLAYERS)?)
}
