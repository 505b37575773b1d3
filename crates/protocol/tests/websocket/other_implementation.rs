//! tokio-websockets at the other end, over memory: as a client that writes what we read and reads what we write, and
//! as a server that has to judge every stream as we do.

use bytes::Bytes;
use drawbridge_protocol::websocket::{OpCode, encode_close, encode_frame};
use futures_util::{FutureExt, SinkExt, StreamExt};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio_websockets::{ClientBuilder, CloseCode, Config, Error, Limits, Message, ServerBuilder};

use crate::client::{Event, ROOMY, read_in_pieces};
use crate::streams::{damage, script};

fn to_theirs(event: &Event) -> Message {
    match event {
        Event::Text(text) => Message::text(text.clone()),
        Event::Binary(bytes) => Message::binary(bytes.clone()),
        Event::Ping(payload) => Message::ping(payload.clone()),
        Event::Pong(payload) => Message::pong(payload.clone()),
        Event::Close(code, reason) => {
            Message::close(code.map(|code| CloseCode::try_from(code).unwrap()), reason)
        }
        Event::Oversized(_) => panic!("nobody sends this"),
    }
}

fn from_theirs(message: &Message) -> Event {
    let payload = message.as_payload().to_vec();
    if message.is_text() {
        Event::Text(String::from_utf8(payload).unwrap())
    } else if message.is_binary() {
        Event::Binary(payload)
    } else if message.is_ping() {
        Event::Ping(payload)
    } else if message.is_pong() {
        Event::Pong(payload)
    } else {
        let (code, reason) = message.as_close().unwrap();
        let code = (code != CloseCode::NO_STATUS_RECEIVED).then(|| code.into());
        Event::Close(code, reason.to_owned())
    }
}

/// The bytes that their client writes, in frames of at most `frame_size`.
fn written_by_their_client(events: &[Event], frame_size: usize) -> Vec<u8> {
    let mut client = ClientBuilder::new()
        .config(Config::default().frame_size(frame_size))
        .take_over(tokio::io::join(tokio::io::empty(), Vec::new()));
    for event in events {
        client.send(to_theirs(event)).now_or_never().expect("memory is always ready").unwrap();
    }
    client.into_inner().into_inner().1
}

/// What their client reads.
fn read_by_their_client(bytes: &[u8]) -> Vec<Event> {
    let mut client = ClientBuilder::new().take_over(tokio::io::join(bytes, Vec::new()));
    let mut events = Vec::new();
    while let Some(message) = client.next().now_or_never().expect("memory is always ready") {
        events.push(from_theirs(&message.unwrap()));
    }
    events
}

/// What their server reads, and whether it found fault with it.
fn read_by_their_server(bytes: &[u8]) -> (Vec<Event>, bool) {
    let mut server = ServerBuilder::new()
        .limits(Limits::default().max_payload_len(Some(ROOMY.max_message_bytes)))
        .serve(tokio::io::join(bytes, Vec::new()));
    let mut events = Vec::new();
    while let Some(message) = server.next().now_or_never().expect("memory is always ready") {
        match message {
            Ok(message) => events.push(from_theirs(&message)),
            Err(Error::Io(_)) => break,
            Err(_) => return (events, true),
        }
    }
    (events, false)
}

fn written_by_us(events: &[Event]) -> Vec<u8> {
    let frame = |event: &Event| -> Bytes {
        match event {
            Event::Text(text) => encode_frame(OpCode::Text, text.as_bytes()),
            Event::Binary(bytes) => encode_frame(OpCode::Binary, bytes),
            Event::Ping(payload) => encode_frame(OpCode::Ping, payload),
            Event::Pong(payload) => encode_frame(OpCode::Pong, payload),
            Event::Close(Some(code), reason) => encode_close(*code, reason),
            Event::Close(None, _) => encode_frame(OpCode::Close, b""),
            Event::Oversized(_) => panic!("nobody sends this"),
        }
    };
    events.iter().map(frame).collect::<Vec<_>>().concat()
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any::<String>().prop_map(Event::Text),
        3 => vec(any::<u8>(), 0..400).prop_map(Event::Binary),
        1 => (65_530usize..65_540, any::<u8>()).prop_map(|(n, byte)| Event::Binary(vec![byte; n])),
        1 => vec(any::<u8>(), 0..=125).prop_map(Event::Ping),
        1 => vec(any::<u8>(), 0..=125).prop_map(Event::Pong),
    ]
}

fn conversation() -> impl Strategy<Value = Vec<Event>> {
    let close = prop_oneof![
        Just(None),
        Just(Some(Event::Close(None, String::new()))),
        (prop_oneof![Just(1000u16), 1007u16..1012, 3000u16..5000], "[ -~é]{0,60}")
            .prop_map(|(code, reason)| Some(Event::Close(Some(code), reason))),
    ];
    (vec(event(), 0..8), close).prop_map(|(mut events, close)| {
        events.extend(close);
        events
    })
}

/// Texts and bytes that no single changed byte makes into more than one fault.
fn plain_data() -> impl Strategy<Value = Event> {
    prop_oneof!["[ -~]{0,200}".prop_map(Event::Text), vec(any::<u8>(), 0..200).prop_map(Event::Binary)]
}

proptest! {
    #[test]
    fn we_read_what_their_client_writes(
        events in conversation(),
        frame_size in prop_oneof![1usize..300, Just(1 << 20)],
        pieces in vec(1usize..70_000, 1..6),
    ) {
        // frames of a few bytes are for small messages
        let longest = events.iter().map(|event| written_by_us(std::slice::from_ref(event)).len()).max();
        let frame_size = frame_size.max(longest.unwrap_or(1) / 50).max(1);
        let bytes = written_by_their_client(&events, frame_size);
        let outcome = read_in_pieces(&ROOMY, &bytes, &pieces);
        prop_assert_eq!(outcome.violation, None);
        prop_assert_eq!(outcome.events, events);
    }

    #[test]
    fn their_client_reads_what_we_write(events in conversation()) {
        prop_assert_eq!(read_by_their_client(&written_by_us(&events)), events);
    }

    #[test]
    fn their_server_judges_a_damaged_stream_as_we_do(
        script in script(plain_data()),
        at in any::<Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = damage(script.bytes, at, byte, cut);
        // They judge a header by its first two bytes, we by the first, then by the whole: so give them all of it.
        // Where no payload is awaited, zeros are a fault in themselves.
        bytes.extend_from_slice(&[0; 16]);
        let ours = read_in_pieces(&ROOMY, &bytes, &[]);
        let theirs = read_by_their_server(&bytes);
        prop_assert_eq!((ours.events, ours.violation.is_some()), theirs);
    }
}
