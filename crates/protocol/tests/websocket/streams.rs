//! Laws over random streams: how the bytes are cut into reads changes nothing, and bytes of any kind cost at most an
//! error.

use drawbridge_protocol::websocket::{Limits, OpCode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::client::{Event, Frame, ROOMY, read_in_pieces};

/// A stream and what it says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

impl Script {
    fn push(&mut self, opcode: OpCode, fin: bool, key: [u8; 4], payload: &[u8]) {
        self.bytes.extend(Frame { fin, opcode: opcode as u8, key, payload }.to_bytes());
    }

    fn push_control(&mut self, control: &Control) {
        let payload = &control.payload;
        let (opcode, event) = match control.is_ping {
            true => (OpCode::Ping, Event::Ping(payload.clone())),
            false => (OpCode::Pong, Event::Pong(payload.clone())),
        };
        self.push(opcode, true, control.key, payload);
        self.events.push(event);
    }

    fn push_message(&mut self, message: &Message) {
        let (opcode, payload) = match &message.event {
            Event::Text(text) => (OpCode::Text, text.as_bytes()),
            Event::Binary(bytes) => (OpCode::Binary, &bytes[..]),
            other => panic!("{other:?} is no data message"),
        };
        let mut cuts: Vec<usize> = message.cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        let mut begin = 0;
        let mut opcode = opcode;
        for cut in cuts {
            self.push(opcode, false, message.key, &payload[begin..cut]);
            message.between.iter().for_each(|control| self.push_control(control));
            (begin, opcode) = (cut, OpCode::Continuation);
        }
        self.push(opcode, true, message.key, &payload[begin..]);
        self.events.push(message.event.clone());
    }
}

#[derive(Clone, Debug)]
struct Control {
    is_ping: bool,
    key: [u8; 4],
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Message {
    event: Event,
    key: [u8; 4],
    cuts: Vec<Index>,
    between: Vec<Control>,
}

fn control() -> impl Strategy<Value = Control> {
    (any::<bool>(), any::<[u8; 4]>(), vec(any::<u8>(), 0..=125)).prop_map(|(is_ping, key, payload)| Control {
        is_ping,
        key,
        payload,
    })
}

fn data() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<String>().prop_map(Event::Text),
        4 => vec(any::<u8>(), 0..300).prop_map(Event::Binary),
        1 => (120usize..135, any::<u8>()).prop_map(|(n, byte)| Event::Binary(vec![byte; n])),
        1 => (65_530usize..65_540).prop_map(|n| Event::Text("x".repeat(n))),
    ]
}

/// Messages that end, in any fragments, with control frames anywhere; perhaps a close at the end.
pub(crate) fn script(data: impl Strategy<Value = Event>) -> impl Strategy<Value = Script> {
    let message = (data, any::<[u8; 4]>(), vec(any::<Index>(), 0..4), vec(control(), 0..2))
        .prop_map(|(event, key, cuts, between)| Message { event, key, cuts, between });
    let close = proptest::option::of((3000u16..5000, "[a-zé]{0,40}", any::<[u8; 4]>()));
    (vec((message, proptest::option::of(control())), 0..6), close).prop_map(|(messages, close)| {
        let mut script = Script::default();
        for (message, control) in &messages {
            script.push_message(message);
            control.iter().for_each(|control| script.push_control(control));
        }
        if let Some((code, reason, key)) = close {
            let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
            script.push(OpCode::Close, true, key, &payload);
            script.events.push(Event::Close(Some(code), reason));
        }
        script
    })
}

/// The sizes of reads.
fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1usize..4, 1usize..40, 1usize..70_000], 1..8)
}

/// One byte of a stream changed, or its end cut off.
pub(crate) fn damage(mut bytes: Vec<u8>, at: Index, byte: u8, cut: bool) -> Vec<u8> {
    if !bytes.is_empty() {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
    }
    bytes
}

proptest! {
    #[test]
    fn any_cut_of_a_valid_stream_says_the_same(script in script(data()), pieces in pieces()) {
        let outcome = read_in_pieces(&ROOMY, &script.bytes, &pieces);
        prop_assert_eq!(outcome.violation, None);
        prop_assert_eq!(outcome.events, script.events);
        prop_assert_eq!(outcome.held_bytes, 0);
    }

    #[test]
    fn any_cut_of_a_damaged_stream_says_the_same(
        script in script(data()),
        at in any::<Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
        pieces in pieces(),
        message_bytes in 0usize..400,
    ) {
        let bytes = damage(script.bytes, at, byte, cut);
        let limits = Limits::new(message_bytes);
        let whole = read_in_pieces(&limits, &bytes, &[]);
        let cut = read_in_pieces(&limits, &bytes, &pieces);
        prop_assert_eq!((whole.events, whole.violation), (cut.events, cut.violation));
    }

    #[test]
    fn any_bytes_cost_at_most_an_error(bytes in vec(any::<u8>(), 0..600), pieces in pieces()) {
        read_in_pieces(&ROOMY, &bytes, &pieces);
    }
}
