//! What a client makes of a text message from a node. Events, and entities that come into view and go, are told
//! apart by how they begin, so that the many cost no parsing here; everything else is rare and parsed in full.

use std::borrow::Cow;
use std::io;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

/// How a node's events begin.
const EVENT: &[u8] = br#"{"type":"EVENT","#;
const ENTER: &[u8] = br#"{"type":"VIEW_ENTER","#;
const LEAVE: &[u8] = br#"{"type":"VIEW_LEAVE","#;
/// How the elements of an array begin, from a node: no payload of a run has such a text in it.
const ELEMENT: &[u8] = br#"{"type":""#;
const NEXT_ELEMENT: &[u8] = br#"},{"type":""#;

/// One message object, as far as a client here acts on it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// An `EVENT`: its text.
    Event(&'a [u8]),
    /// A `VIEW_ENTER`: its text.
    Enter(&'a [u8]),
    /// A `VIEW_LEAVE`: its text.
    Leave(&'a [u8]),
    /// `WELCOME`: the channels that are live already.
    Welcome(Vec<Cow<'a, str>>),
    /// `CHANNEL_SUBSCRIBED`
    Subscribed(Cow<'a, str>),
    /// `RESYNC`: something may be missing.
    Resync,
    /// Something that no run should see: `ERROR`, `GOODBYE`, `CHANNEL_UNSUBSCRIBED`; its text.
    Problem(&'a [u8]),
    /// Nothing to act on.
    Other,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    subscriptions: Vec<Subscription<'a>>,
}

#[derive(Deserialize)]
struct Subscription<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(default)]
    pending: bool,
}

/// Hands each object of a text message to `each`: it holds one, or an array of them.
pub(super) fn for_each<'a>(
    text: &'a [u8],
    mut each: impl FnMut(Message<'a>) -> io::Result<()>,
) -> io::Result<()> {
    let Some(array) = text.strip_prefix(b"[") else { return each(parse(text)?) };
    if let Some(rest) = array.strip_suffix(b"]").filter(|array| array.starts_with(ELEMENT)) {
        // A node's array: cut, not parsed.
        let mut start = 0;
        for end in memmem::find_iter(rest, NEXT_ELEMENT) {
            each(parse(&rest[start..=end])?)?;
            start = end + 2;
        }
        return each(parse(&rest[start..])?);
    }
    let objects: Vec<&RawValue> = serde_json::from_slice(text)?;
    objects.into_iter().try_for_each(|object| each(parse(object.get().as_bytes())?))
}

fn parse(text: &[u8]) -> io::Result<Message<'_>> {
    if text.starts_with(EVENT) {
        return Ok(Message::Event(text));
    }
    if text.starts_with(ENTER) {
        return Ok(Message::Enter(text));
    }
    if text.starts_with(LEAVE) {
        return Ok(Message::Leave(text));
    }
    let object: Object<'_> = serde_json::from_slice(text)?;
    Ok(match (&*object.r#type, object.channel) {
        ("EVENT", _) => Message::Event(text),
        ("WELCOME", _) => {
            let live = object.subscriptions.into_iter().filter(|subscription| !subscription.pending);
            Message::Welcome(live.map(|subscription| subscription.channel).collect())
        }
        ("CHANNEL_SUBSCRIBED", Some(channel)) => Message::Subscribed(channel),
        ("RESYNC", _) => Message::Resync,
        ("ERROR" | "GOODBYE" | "CHANNEL_UNSUBSCRIBED", _) => Message::Problem(text),
        _ => Message::Other,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(text: &str, expected: &[Message<'_>]) {
        let mut found = Vec::new();
        for_each(text.as_bytes(), |message| {
            found.push(message);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn messages_are_told_apart() {
        let event = r#"{"type":"EVENT","channel":"room:1","event":"tick","data":1}"#;
        let turned = r#"{"channel":"room:1","type":"EVENT","data":1}"#;
        let error = r#"{"type":"ERROR","code":"FORBIDDEN"}"#;
        check(event, &[Message::Event(event.as_bytes())]);
        check(turned, &[Message::Event(turned.as_bytes())]);
        check(error, &[Message::Problem(error.as_bytes())]);
        check(r#"{"type":"STATUS","broker":"ok"}"#, &[Message::Other]);
        check(r#"{"type":"CHANNEL_SUBSCRIBED","channel":"room:1"}"#, &[Message::Subscribed("room:1".into())]);
        check(
            r#"{"type":"WELCOME","subscriptions":[{"channel":"a"},{"channel":"b","pending":true}]}"#,
            &[Message::Welcome(vec!["a".into()])],
        );
        check(
            &format!("[{event},{error}]"),
            &[Message::Event(event.as_bytes()), Message::Problem(error.as_bytes())],
        );
        check(
            &format!("[{turned},{event}]"),
            &[Message::Event(turned.as_bytes()), Message::Event(event.as_bytes())],
        );
        let enter = r#"{"type":"VIEW_ENTER","channel":"map:0","complete":true,"entities":[{"key":"e1"},{"key":"e2"}]}"#;
        let leave = r#"{"type":"VIEW_LEAVE","channel":"map:0","keys":["e1"],"reason":"view"}"#;
        check(enter, &[Message::Enter(enter.as_bytes())]);
        check(
            &format!("[{leave},{event},{enter}]"),
            &[
                Message::Leave(leave.as_bytes()),
                Message::Event(event.as_bytes()),
                Message::Enter(enter.as_bytes()),
            ],
        );
        check(&format!("[{enter}]"), &[Message::Enter(enter.as_bytes())]);
    }
}
