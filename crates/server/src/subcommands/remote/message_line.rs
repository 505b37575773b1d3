//! A node's messages as lines for a terminal: the channel, a space, and the message as JSON without what stands before it.
//! Values keep their bytes, so that large integers survive.

use drawbridge_protocol::json::{Reader, SyntaxError, Token, Value, quoted};

/// One message of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::subcommands) struct Message {
    /// `type`.
    pub(in crate::subcommands) kind: String,
    /// `channel`, if it is about one.
    pub(in crate::subcommands) channel: Option<String>,
    /// The other members, as a JSON object.
    pub(in crate::subcommands) rest: String,
}

impl Message {
    /// The messages of one WebSocket message: an object, or an array of objects.
    ///
    /// # Errors
    /// Where it is neither.
    pub(in crate::subcommands) fn all(text: &str) -> Result<Vec<Message>, SyntaxError> {
        let mut reader = Reader::new(text);
        let mut messages = Vec::new();
        loop {
            match reader.next()? {
                Token::BeginArray => {}
                Token::BeginObject => {
                    messages.push(Message::read(&mut reader)?);
                    if text.trim_start().starts_with('{') {
                        break;
                    }
                }
                _ => break,
            }
        }
        Ok(messages)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Message, SyntaxError> {
        let mut message = Message { rest: "{".to_owned(), ..Message::default() };
        while let Some((name, value)) = reader.member()? {
            match &*name.decode() {
                "type" => message.kind = text_of(&value),
                "channel" => message.channel = Some(text_of(&value)),
                name => {
                    let comma = if message.rest.len() > 1 { "," } else { "" };
                    message.rest += &format!("{comma}{}:{}", quoted(name), value.text);
                }
            }
        }
        message.rest.push('}');
        Ok(message)
    }

    /// A member of [`Message::rest`] that is a text.
    pub(in crate::subcommands) fn text(&self, name: &str) -> Option<String> {
        self.member(name)?.as_str().map(str::to_owned)
    }

    /// A member of [`Message::rest`] that is a number from 0.
    pub(in crate::subcommands) fn number(&self, name: &str) -> Option<u64> {
        self.member(name)?.as_u64()
    }

    fn member(&self, name: &str) -> Option<serde_json::Value> {
        serde_json::from_str::<serde_json::Value>(&self.rest).ok()?.get(name).cloned()
    }

    /// The line: events as services publish them, everything else with its type.
    pub(in crate::subcommands) fn line(&self) -> String {
        let channel = self.channel.as_deref().unwrap_or("-");
        match &*self.kind {
            "EVENT" => format!("{channel} {}", self.rest),
            kind => format!("{channel} {kind} {}", self.rest),
        }
    }
}

fn text_of(value: &Value<'_>) -> String {
    value.as_str().map(|text| text.decode().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        Message::all(text).unwrap().iter().map(Message::line).collect()
    }

    #[test]
    fn an_event_is_its_channel_and_what_was_published() {
        let text = r#"{"type":"EVENT","channel":"room:42","event":"hit","data":{"n":12345678901234567890123},"ts":1}"#;
        assert_eq!(lines(text), [r#"room:42 {"event":"hit","data":{"n":12345678901234567890123},"ts":1}"#]);
    }

    #[test]
    fn each_message_of_an_array_is_a_line() {
        let text = r#"[{"type":"EVENT","channel":"a","event":"x"}, {"type":"RESYNC","channel":"a"},{"type":"STATUS"}]"#;
        assert_eq!(lines(text), [r#"a {"event":"x"}"#, "a RESYNC {}", "- STATUS {}"]);
        assert!(Message::all("[{]").is_err());
        assert_eq!(lines("[]"), Vec::<String>::new());
    }

    #[test]
    fn members_are_found_by_name() {
        let message = &Message::all(r#"{"type":"ERROR","code":"FORBIDDEN","n":1}"#).unwrap()[0];
        assert_eq!((message.text("code").as_deref(), message.text("n")), (Some("FORBIDDEN"), None));
    }
}
