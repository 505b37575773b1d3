//! Drives an engine by hand: the loop that every host of it writes, here with one player and a broker that confirms
//! everything at once. `cargo run -p drawbridge-engine --example by_hand` says nothing if it works.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{
    Answer, BrokerCommand, BrokerEvent, ChannelPosition, Claims, ConnId, Input, LocalOffset, MessageKind,
    Now, Opened, Output, Position, Publication, Query, QueryKind, Write, WriteKind,
};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_protocol::Encoding;
use drawbridge_protocol::event::{Event, Payload, PayloadMode};
use drawbridge_protocol::websocket::payload_of;
use drawbridge_testkit::classes::open;
use drawbridge_testkit::settings::settings;

fn main() {
    // One class, in which everybody may subscribe and publish.
    let settings = Arc::new(settings(vec![open("chat:{room}")]));
    let mut engine = Engine::new(settings.clone(), SharedLimits::new(&settings));
    let conn = ConnId { index: 0, generation: 1 };
    let claims = Claims { player: "ann".into(), expires_unix_ms: None, json: r#"{"sub":"ann"}"#.into() };
    engine.handle(
        now(0),
        Input::Opened(Opened {
            conn,
            connection: 1, // both random in a real host
            session: 2,
            encoding: Encoding::Json,
            deflate: None,
            address: [127, 0, 0, 1].into(),
            token: Some(Ok(claims)),
            wait_for_connect: false,
            must_resume: false,
        }),
    );
    assert!(turn(&mut engine, 0)[0].contains("WELCOME"));

    let mut say = |ms, payload: &str| {
        let payload = payload.as_bytes();
        engine.handle(now(ms), Input::Message { conn, kind: MessageKind::Text, payload, cost_bytes: 0 });
        turn(&mut engine, ms)
    };
    let read = say(1, r#"{"type":"CHANNEL_SUBSCRIBE","id":1,"channel":"chat:1"}"#);
    assert!(read[0].contains("CHANNEL_SUBSCRIBED"), "only behind Redis' confirmation");
    let read = say(2, r#"{"type":"PUBLISH_EVENT","id":2,"channel":"chat:1","event":"hi","data":{"n":7}}"#);
    assert!(read[0].contains(r#""n":7"#) && read[1].contains("EVENT_PUBLISHED"), "{read:?}");

    let at = engine.next_deadline_ms().unwrap() - 1_000;
    engine.handle(now(at), Input::Tick);
    turn(&mut engine, at); // a heartbeat
    engine.handle(now(at), Input::Closed { conn, code: 1000 });
    assert!(turn(&mut engine, at).is_empty());
    assert_eq!(engine.stats().connections, 0);
}

/// Ends a turn: does all that the engine wants done. Returns the messages that were written.
fn turn(engine: &mut Engine, ms: u64) -> Vec<String> {
    let mut written = Vec::new();
    while let Some(output) = engine.poll_output() {
        let event = match output {
            // A socket that takes only a part gives the rest back: `Input::Blocked`, and `Input::Writable` later.
            Output::Write { frames, .. } | Output::Close { frames, .. } => {
                let text = |frame| String::from_utf8_lossy(payload_of(frame)).into_owned();
                written.extend(frames.iter().map(|frame| text(frame)));
                continue;
            }
            Output::Broker(BrokerCommand::Want(subject)) => BrokerEvent::Confirmed {
                subject,
                position: ChannelPosition::Counted(Position::default()),
                after_break: false,
            },
            Output::Broker(BrokerCommand::Unwant(subject)) => BrokerEvent::Released(subject),
            Output::Broker(BrokerCommand::Query(Query {
                ticket,
                kind: QueryKind::ViewOverrides { .. },
                ..
            })) => BrokerEvent::Answer { ticket, answer: Ok(Answer::ViewOverrides([].into())) },
            Output::Broker(BrokerCommand::Write(Write {
                ticket: Some(ticket),
                kind: WriteKind::Publish { channel, payload },
                ..
            })) => {
                let payload = Payload::read(&payload, PayloadMode::Envelope).unwrap();
                let event = Event::new(&payload, &channel, Some(1));
                let publication = Publication::new(channel, event, LocalOffset(1));
                engine.handle(now(ms), Input::Broker(BrokerEvent::Publication(Arc::new(publication))));
                BrokerEvent::Outcome { ticket, outcome: Ok(None) }
            }
            // Tokens to be verified, other sessions to be closed, notices to be logged, and what else a broker does.
            Output::Authenticate { .. }
            | Output::Displace(_)
            | Output::EndDetached(_)
            | Output::Notice(_)
            | Output::Broker(_) => {
                continue;
            }
        };
        engine.handle(now(ms), Input::Broker(event));
    }
    written
}

fn now(ms: u64) -> Now {
    Now { mono_ms: 1_000 + ms, unix_ms: 1_790_000_000_000 + ms }
}
