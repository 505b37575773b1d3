//! The subcommands as they are run: real processes, against a made-up Redis and a made-up node in this one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// No read in these tests takes longer, or it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A subcommand that is driven by its pipes.
struct Loadgen {
    child: Child,
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
}

impl Loadgen {
    fn start(args: &[&str]) -> Loadgen {
        let mut child = Command::new(env!("CARGO_BIN_EXE_drawbridge-loadgen"))
            .args(args)
            .env("LOADGEN_SECRET", "a secret")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asks, says) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Loadgen { child, asks, says }
    }

    fn says(&mut self, at: &str) -> Value {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["at"], at, "{value}");
        value
    }

    fn report(&mut self) -> Value {
        self.asks.as_mut().unwrap().write_all(b"\n").unwrap();
        self.says("report")
    }

    /// Asks for reports until together they count so many events; answers the sums.
    fn events(&mut self, wanted: u64, fields: &[&str]) -> Vec<u64> {
        let mut sums = vec![0; fields.len()];
        let mut events = 0;
        while events < wanted {
            let report = self.report();
            events += report["events"].as_u64().unwrap();
            for (sum, field) in sums.iter_mut().zip(fields) {
                *sum += report[*field].as_u64().unwrap();
            }
        }
        assert_eq!(events, wanted);
        sums
    }

    /// Ends its standard input, and expects it to end well.
    fn stop(mut self) {
        drop(self.asks.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Loadgen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 126];
    frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn event(number: u64, offset: u64) -> String {
    format!(
        r#"{{"type":"EVENT","channel":"room:0","event":"tick","data":{{"t":1,"n":{number},"pad":""}},"offset":{offset}}}"#
    )
}

#[test]
fn a_floor_brings_every_message_to_every_subscriber() {
    let redis = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = redis.local_addr().unwrap().to_string();
    let mut floor = Loadgen::start(&["floor", "--redis", &address, "--channels", "2"]);
    let mut link = accept(&redis);
    read_until(&mut link, "room:1\r\n");
    let listen = floor.says("ready")["listen"].as_str().unwrap().to_owned();

    let flags = ["--join", "path", "--channels", "2", "--connections", "6"];
    let mut load = Loadgen::start(&[&["subscribe", "--target", &listen][..], &flags].concat());
    load.says("joined");
    // A client knows that its handshake is done before the floor's next turn; its report comes after that turn.
    assert_eq!(floor.report()["sockets"], 6);
    for number in 0..5 {
        let payload = format!(r#"{{"event":"tick","data":{{"t":1,"n":{number},"pad":""}}}}"#);
        let message = format!("*3\r\n$7\r\nmessage\r\n$6\r\nroom:1\r\n${}\r\n{payload}\r\n", payload.len());
        link.write_all(message.as_bytes()).unwrap();
    }
    assert_eq!(load.events(15, &["gaps", "disorders", "offset_breaks", "foreign", "closed"]), [0; 5]);
    load.stop();
    assert_eq!(floor.report()["writes"], 15);
    floor.stop();
}

/// Welcomes a connection without a subscription, and reads the message that it sends then.
fn welcome_and_read(stream: &mut TcpStream) -> Value {
    stream.write_all(&text_frame(r#"{"type":"WELCOME","subscriptions":[]}"#)).unwrap();
    read_message(stream)
}

/// Reads a masked message of less than 64 KiB.
fn read_message(stream: &mut TcpStream) -> Value {
    let mut header = [0; 2];
    stream.read_exact(&mut header).unwrap();
    let mut length = usize::from(header[1] & 0x7F);
    assert!(length < 127);
    if length == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long).unwrap();
        length = u16::from_be_bytes(long).into();
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).unwrap();
    let mut request = vec![0; length];
    stream.read_exact(&mut request).unwrap();
    request.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    serde_json::from_slice(&request).unwrap()
}

fn open(listener: &TcpListener) -> (TcpStream, String) {
    let mut stream = accept(listener);
    let head = read_until(&mut stream, "\r\n\r\n");
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: CAUmtKmq1tQdsDHNLXk6mTeih7E=\r\n\r\n";
    stream.write_all(answer.as_bytes()).unwrap();
    (stream, head)
}

/// Holds a connection until the client goes.
fn hold(mut stream: TcpStream) {
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
}

/// A node for one connection: welcomes it with its room pending, confirms that, pings, and shows three events of
/// which the last leaves one out.
fn node(listener: &TcpListener, first_reply: impl FnOnce(&mut TcpStream, &str)) {
    let (mut stream, head) = open(listener);
    first_reply(&mut stream, &head);
    stream.write_all(&text_frame(r#"{"type":"CHANNEL_SUBSCRIBED","channel":"room:0"}"#)).unwrap();

    stream.write_all(b"\x89\x02hi").unwrap();
    let mut pong = [0; 8];
    stream.read_exact(&mut pong).unwrap();
    assert_eq!(pong[..2], [0x8A, 0x82]);
    assert_eq!([pong[6] ^ pong[2], pong[7] ^ pong[3]], *b"hi");

    stream.write_all(&text_frame(&event(0, 7))).unwrap();
    stream.write_all(&text_frame(&format!("[{},{}]", event(1, 8), event(3, 9)))).unwrap();
    hold(stream);
}

fn subscribe_to(address: SocketAddr, join: &str) -> Loadgen {
    Loadgen::start(&["subscribe", "--target", &address.to_string(), "--connections", "1", "--join", join])
}

#[test]
fn a_subscriber_joins_by_claims_answers_pings_and_notices_loss() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let node = thread::spawn(move || {
        node(&listener, |stream, head| {
            assert!(head.contains("\r\nAuthorization: Bearer ey"), "{head}");
            let welcome = r#"{"type":"WELCOME","subscriptions":[{"channel":"room:0","pending":true}]}"#;
            stream.write_all(&text_frame(welcome)).unwrap();
        });
    });
    let mut load = subscribe_to(address, "claims");
    load.says("joined");
    assert_eq!(load.events(3, &["gaps", "disorders", "offset_breaks", "pongs"]), [1, 0, 0, 1]);
    load.stop();
    node.join().unwrap();
}

#[test]
fn a_subscriber_joins_by_message() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let node = thread::spawn(move || {
        node(&listener, |stream, _| {
            let request = welcome_and_read(stream);
            assert_eq!(request, json!({"type": "CHANNEL_SUBSCRIBE", "id": 0, "channel": "room:0"}));
        });
    });
    let mut load = subscribe_to(address, "message");
    load.says("joined");
    assert_eq!(load.events(3, &["gaps"]), [1]);
    load.stop();
    node.join().unwrap();
}

#[test]
fn a_filtered_subscriber_expects_what_is_for_its_group() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = thread::spawn(move || {
        let (mut stream, _) = open(&listener);
        let request = welcome_and_read(&mut stream);
        assert_eq!(request["filter"], "data.id in ['p30', 'g0']");
        stream.write_all(&text_frame(r#"{"type":"CHANNEL_SUBSCRIBED","channel":"room:0"}"#)).unwrap();
        // One is another group's, and one of its own is left out.
        for (number, offset) in [(0, 1), (3, 4), (4, 5), (9, 10)] {
            stream.write_all(&text_frame(&event(number, offset))).unwrap();
        }
        hold(stream);
    });
    let flags =
        ["--connections", "1", "--join", "message", "--first", "30", "--filter", "set", "--groups", "3"];
    let mut load = Loadgen::start(&[&["subscribe", "--target", &address][..], &flags].concat());
    load.says("joined");
    assert_eq!(load.events(3, &["gaps", "disorders", "offset_breaks", "foreign"]), [1, 0, 1, 1]);
    load.stop();
    node.join().unwrap();
}

/// An entity's state in a world, at the tick that is also its time.
fn state(entity: u32, tick: u64, x: &str) -> String {
    format!(r#"{{"t":{tick},"n":{tick},"id":"e{entity}","x":{x},"y":0.00,"team":"red"}}"#)
}

#[test]
fn a_watcher_keeps_the_table_that_it_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = thread::spawn(move || {
        let (mut stream, _) = open(&listener);
        let request = welcome_and_read(&mut stream);
        assert_eq!((&request["channel"], &request["area"]["radius"]), (&json!("map:0"), &json!(2000.0)));
        assert!(request["area"]["x"].is_number() && request["area"]["y"].is_number(), "{request}");
        stream.write_all(&text_frame(r#"{"type":"CHANNEL_SUBSCRIBED","channel":"map:0"}"#)).unwrap();
        let entity =
            |key: u32, x| format!(r#"{{"key":"e{key}","event":"move","data":{}}}"#, state(key, 1, x));
        let reset = r#""reset":true,"complete":true"#;
        let enter = |reset: &str, entities: &str| {
            format!(r#"{{"type":"VIEW_ENTER","channel":"map:0",{reset},"entities":[{entities}]}}"#)
        };
        let update = |key: u32| {
            let data = state(key, 2, "7.50");
            let head = r#"{"type":"EVENT","channel":"map:0","event":"move""#;
            format!(r#"{head},"data":{data},"key":"e{key}","offset":9,"ts":5}}"#)
        };
        let leave = r#"{"type":"VIEW_LEAVE","channel":"map:0","keys":["e2"],"reason":"view"}"#;
        for text in [
            enter(reset, &entity(0, "1.00")),
            format!(
                "[{},{},{},{leave}]",
                enter(r#""complete":true"#, &entity(2, "2.00")),
                update(0),
                update(2)
            ),
            // It has left.
            update(2),
        ] {
            stream.write_all(&text_frame(&text)).unwrap();
        }
        hold(stream);
    });
    let flags = ["--connections", "1", "--entities", "3", "--side", "1000", "--radius", "2000"];
    let mut load = Loadgen::start(&[&["watch", "--target", &address][..], &flags].concat());
    load.says("joined");
    let fields = ["enters", "leaves", "resets", "strangers", "elsewhere", "foreign", "resyncs"];
    assert_eq!(load.events(3, &fields), [2, 1, 1, 1, 0, 0, 0]);
    // It has one of three, as it was last.
    let report = load.report();
    let tables = ["tick", "seen", "missing", "ghosts", "stale"].map(|field| report[field].as_u64().unwrap());
    assert_eq!(tables, [2, 1, 2, 0, 0]);
    load.stop();
    node.join().unwrap();
}

#[test]
fn a_player_that_loses_its_connection_resumes_where_it_was() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let welcome = |resumed: bool| {
        let subscriptions = r#"[{"channel":"room:0","auto":true,"epoch":"e1","offset":6}]"#;
        let head = format!(r#"{{"type":"WELCOME","session":"s1","resumed":{resumed}"#);
        text_frame(&format!(r#"{head},"subscriptions":{subscriptions}}}"#))
    };
    let node = thread::spawn(move || {
        let (mut stream, head) = open(&listener);
        assert!(!head.contains("Authorization"), "{head}");
        let connect = read_message(&mut stream);
        assert!(connect["token"].is_string() && connect["resume"].is_null(), "{connect}");
        stream.write_all(&welcome(false)).unwrap();
        stream.write_all(&text_frame(&event(0, 7))).unwrap();
        drop(stream);

        let (mut stream, _) = open(&listener);
        let expected = json!({"session": "s1", "positions": {"room:0": {"epoch": "e1", "offset": 7}}});
        assert_eq!(read_message(&mut stream)["resume"], expected);
        stream.write_all(&welcome(true)).unwrap();
        // One again, and one left out. All were published long ago, so they are its replay.
        stream
            .write_all(&text_frame(&format!("[{},{},{}]", event(1, 8), event(1, 8), event(3, 10))))
            .unwrap();
        hold(stream);
    });
    let mut load = Loadgen::start(&["resume", "--target", &address, "--connections", "1"]);
    load.says("joined");
    let fields = ["lost", "doubled", "broken", "resumed", "not_resumed", "resyncs", "problems"];
    assert_eq!(load.events(4, &fields), [1, 1, 1, 1, 0, 0, 0]);
    load.stop();
    node.join().unwrap();
}

#[test]
fn a_refusal_ends_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut load = subscribe_to(listener.local_addr().unwrap(), "claims");
    let mut stream = accept(&listener);
    read_until(&mut stream, "\r\n\r\n");
    stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
    assert!(!load.child.wait().unwrap().success());
}

#[test]
fn a_publisher_writes_what_it_says_it_wrote() {
    let redis = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = redis.local_addr().unwrap().to_string();
    let flags = ["--channels", "2", "--rate", "100", "--burst", "5", "--seconds", "0.2"];
    let mut publisher = Loadgen::start(&[&["publish", "--redis", &address][..], &flags].concat());
    let mut link = accept(&redis);
    for channel in ["room:0", "room:1"].repeat(4) {
        for _ in 0..5 {
            let command = read_until(&mut link, "\"}}\r\n");
            let begins = format!("*3\r\n$7\r\nPUBLISH\r\n$6\r\n{channel}\r\n$200\r\n");
            assert!(command.starts_with(&begins), "{command}");
            assert_eq!(command.len(), begins.len() + 202);
            link.write_all(b":2\r\n").unwrap();
        }
    }
    let done = publisher.says("done");
    assert_eq!((done["messages"].as_u64(), done["receivers"].as_u64()), (Some(40), Some(80)));
    publisher.stop();
}

#[test]
fn a_publisher_calls_the_function_where_it_is_asked_to() {
    let redis = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = redis.local_addr().unwrap().to_string();
    let flags = ["--function", "--rate", "1000", "--seconds", "0.001"];
    let mut publisher = Loadgen::start(&[&["publish", "--redis", &address][..], &flags].concat());
    let mut link = accept(&redis);
    let command = read_command(&mut link);
    assert_eq!(command[..4], ["FCALL", "drawbridge_publish", "1", "room:0"]);
    link.write_all(b":1\r\n").unwrap();
    assert_eq!(publisher.says("done")["messages"], 1);
    publisher.stop();
}

/// The parts of the next command, as its sender pipelined it.
fn read_command(link: &mut TcpStream) -> Vec<String> {
    let count = read_until(link, "\r\n");
    let count = count.trim_start_matches('*').trim_end().parse().unwrap();
    let part = |_| {
        let length = read_until(link, "\r\n");
        let mut part = vec![0; length.trim_start_matches('$').trim_end().parse::<usize>().unwrap() + 2];
        link.read_exact(&mut part).unwrap();
        String::from_utf8(part).unwrap().trim_end().to_owned()
    };
    (0..count).map(part).collect()
}

#[test]
fn a_publisher_speaks_to_all_channels_at_once_and_to_groups_in_turn() {
    let redis = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = redis.local_addr().unwrap().to_string();
    let flags =
        ["--channels", "2", "--rate", "40", "--burst", "4", "--seconds", "0.2", "--at-once", "--groups", "3"];
    let mut publisher = Loadgen::start(&[&["publish", "--redis", &address][..], &flags].concat());
    let mut link = accept(&redis);
    let mut heard = Vec::new();
    for _ in 0..16 {
        let command = read_command(&mut link);
        let payload: Value = serde_json::from_str(&command[2]).unwrap();
        heard.push((command[1].clone(), payload["data"]["id"].as_str().unwrap().to_owned()));
        link.write_all(b":1\r\n").unwrap();
    }
    for channel in ["room:0", "room:1"] {
        let groups: Vec<_> = heard.iter().filter(|(name, _)| name == channel).map(|(_, id)| id).collect();
        assert_eq!(groups, ["g0", "g1", "g2", "g0", "g1", "g2", "g0", "g1"]);
    }
    let done = publisher.says("done");
    assert_eq!((done["messages"].as_u64(), done["bursts"].as_u64()), (Some(16), Some(2)));
    publisher.stop();
}

#[test]
fn a_world_moves_every_entity_once_a_tick() {
    let redis = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = redis.local_addr().unwrap().to_string();
    let flags = ["--entities", "3", "--rate", "50", "--seconds", "0.08", "--first-tick", "7", "--parts", "2"];
    let mut world = Loadgen::start(&[&["world", "--redis", &address][..], &flags].concat());
    let mut link = accept(&redis);
    for tick in 7..11 {
        for entity in 0..3 {
            let command = read_command(&mut link);
            assert_eq!(command[..2], ["PUBLISH", "map:0"]);
            let payload: Value = serde_json::from_str(&command[2]).unwrap();
            let data = &payload["data"];
            assert_eq!((&data["n"], &data["id"]), (&json!(tick), &json!(format!("e{entity}"))));
            assert!(data["x"].is_number() && data["y"].is_number() && data["t"].is_u64(), "{data}");
            link.write_all(b":1\r\n").unwrap();
        }
    }
    let done = world.says("done");
    assert_eq!((done["messages"].as_u64(), done["bursts"].as_u64()), (Some(12), Some(4)));
    world.stop();
}
