//! Tests of [`super`]: the RESP3 decoder against hand-written bytes and arbitrary ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

/// Everything that a stream holds, fed in pieces of this size, as owned text.
fn read_all(stream: &[u8], piece: usize, max_payload: usize) -> Result<Vec<String>, Garbage> {
    let mut decoder = Decoder::new(max_payload);
    let mut held = Vec::new();
    let mut found = Vec::new();
    for chunk in stream.chunks(piece) {
        held.extend_from_slice(chunk);
        loop {
            let taken = match decoder.step(&held)? {
                Step::Reply(reply, taken) => {
                    found.push(describe(&reply));
                    taken
                }
                Step::Skip(taken) => {
                    assert!(taken > 0);
                    taken
                }
                Step::More(bytes) => {
                    assert!(bytes > held.len(), "asks for {bytes}, has {}", held.len());
                    break;
                }
            };
            held.drain(..taken);
        }
    }
    Ok(found)
}

fn describe(reply: &Reply<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match reply {
        Reply::Message { pattern, channel, payload } => {
            let payload = match payload {
                Payload::Whole(bytes) => text(bytes),
                Payload::Oversized(bytes) => format!("<{bytes}>"),
            };
            format!("{} {} {payload}", pattern.map_or("-".into(), text), text(channel))
        }
        Reply::Confirmed { begins, kind, name } => {
            let kind = match kind {
                SubscriptionKind::Channel => "",
                SubscriptionKind::Pattern => "p",
                SubscriptionKind::Sharded => "s",
            };
            format!("{}{kind} {}", if *begins { "+" } else { "-" }, text(name))
        }
        Reply::Error(error) => format!("error {}", text(error)),
        Reply::Answer(_) => "Answer".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn finds_the_members_of_a_map() {
    let hello = b"%3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*0\r\n";
    assert_eq!(member(hello, b"role"), Some(&b"master"[..]));
    assert_eq!(member(hello, b"proto"), None, "no string");
    assert_eq!(member(hello, b"mode"), None);
    assert_eq!(member(&hello[..20], b"role"), None, "cut");
    assert_eq!(member(b"+PONG\r\n", b"role"), None);
}

#[test]
fn reads_what_redis_sends_however_it_is_cut() {
    let stream: &[u8] = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nmodules\r\n*0\r\n+OK\r\n\
        >3\r\n$9\r\nsubscribe\r\n$4\r\nroom\r\n:1\r\n>3\r\n$10\r\npsubscribe\r\n$2\r\nr*\r\n:2\r\n\
        >3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n$5\r\nhe\r\no\r\n\
        >4\r\n$8\r\npmessage\r\n$2\r\nr*\r\n$4\r\nroom\r\n$0\r\n\r\n\
        +PONG\r\n-NOPERM no\r\n>2\r\n+invalidate\r\n_\r\n\
        >3\r\n$11\r\nunsubscribe\r\n$4\r\nroom\r\n:1\r\n>3\r\n$12\r\npunsubscribe\r\n$2\r\nr*\r\n:0\r\n";
    let expected = [
        "Answer",
        "Answer",
        "+ room",
        "+p r*",
        "- room he\r\no",
        "r* room ",
        "Answer",
        "error NOPERM no",
        "Push",
        "- room",
        "-p r*",
    ];
    for piece in [1, 2, 3, 7, 64, 4096] {
        assert_eq!(read_all(stream, piece, 100).unwrap(), expected, "in pieces of {piece}");
    }
}

#[test]
fn skips_payloads_and_names_over_their_bounds_as_they_stream() {
    let mut stream = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$11\r\nhello world\r\n".to_vec();
    stream.extend(format!(">3\r\n$7\r\nmessage\r\n$2000\r\n{}\r\n$2\r\nxx\r\n", "n".repeat(2000)).as_bytes());
    stream.extend(b">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\na\r\n$3\r\nend\r\n");
    for piece in [1, 5, 1000, 10_000] {
        assert_eq!(read_all(&stream, piece, 10).unwrap(), ["- a <11>", "Nameless", "* a end"]);
    }
}

#[test]
fn a_huge_announcement_holds_nothing() {
    let mut decoder = Decoder::new(1 << 20);
    let header = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$629145600\r\n";
    let Step::Reply(reply, taken) = decoder.step(header).unwrap() else { panic!("no reply") };
    assert_eq!(describe(&reply), "- a <629145600>");
    assert_eq!(taken, header.len());
    let flood = vec![b'x'; 65536];
    let mut left: u64 = 629_145_600;
    while left > 0 {
        let piece = &flood[..flood.len().min(left as usize)];
        assert_eq!(decoder.step(piece).unwrap(), Step::Skip(piece.len()));
        left -= piece.len() as u64;
    }
    assert_eq!(decoder.step(b"\r\n+PONG\r\n").unwrap(), Step::Skip(2));
    assert_eq!(decoder.step(b"+PONG\r\n").unwrap(), Step::Reply(Reply::Answer(b"+PONG\r\n"), 7));
}

#[test]
fn refuses_what_no_redis_sends() {
    let cases: &[&[u8]] = &[
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b">0\r\n",
        b">-1\r\n",
        b">3\r\n$7\r\nmessage\r\n:1\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nabc\r\n",
        b"$99999999999999999999\r\n",
        b"$9999999999999\r\n",
        b"$-5\r\n",
        b"$?\r\n",
        b"$70000\r\n",
        b"*5000\r\n:1\n",
        b":1\nxx",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
    ];
    for case in cases {
        assert!(read_all(case, 4096, 100).is_err(), "{:?}", String::from_utf8_lossy(case));
    }
    let many = [b"*9999\r\n".to_vec(), b":1\r\n".repeat(9999)].concat();
    assert_eq!(read_all(&many, many.len(), 100), Err(Garbage("too many elements")));
    let large = [
        b"*9\r\n".to_vec(),
        [b"$60000\r\n".to_vec(), vec![b'x'; 60_000], b"\r\n".to_vec()].concat().repeat(9),
    ];
    assert_eq!(read_all(&large.concat(), 4096, 100), Err(Garbage("a reply over the bound")));
    assert_eq!(read_all(&[b'+'; 40_000], 4096, 100), Err(Garbage("a line without end")));
}

#[test]
fn encodes_commands_as_arrays_of_strings() {
    let mut out = Vec::new();
    encode(&mut out, [b"SUBSCRIBE".as_slice(), b"room:1234567", b""].into_iter());
    assert_eq!(out, b"*3\r\n$9\r\nSUBSCRIBE\r\n$12\r\nroom:1234567\r\n$0\r\n\r\n");
}

proptest! {
    #[test]
    fn any_publication_comes_out_as_it_went_in(
        channel in proptest::collection::vec(any::<u8>(), 0..300),
        pattern in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
        payload in proptest::collection::vec(any::<u8>(), 0..500),
        piece in 1usize..600,
    ) {
        let mut stream = Vec::new();
        let kind: &[u8] = if pattern.is_some() { b"pmessage" } else { b"message" };
        let parts = [Some(kind), pattern.as_deref(), Some(&channel), Some(&payload)];
        let parts: Vec<&[u8]> = parts.into_iter().flatten().collect();
        encode(&mut stream, parts.iter().copied());
        stream[0] = b'>';
        stream.extend_from_slice(b"+PONG\r\n");
        let expected = describe(&Reply::Message {
            pattern: pattern.as_deref(),
            channel: &channel,
            payload: if payload.len() > 400 { Payload::Oversized(payload.len() as u64) } else { Payload::Whole(&payload) },
        });
        prop_assert_eq!(read_all(&stream, piece, 400).unwrap(), [expected, "Answer".to_owned()]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(prop_oneof![
            4 => proptest::sample::select(b">$*%+-:_\r\n0123456789message".to_vec()), 1 => any::<u8>()
        ], 0..400),
        piece in 1usize..64,
    ) {
        // Whole or in pieces: the same outcome.
        let whole = read_all(&bytes, bytes.len().max(1), 50);
        let pieces = read_all(&bytes, piece, 50);
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => prop_assert_eq!(whole, pieces),
            (whole, pieces) => prop_assert_eq!(whole.is_err(), pieces.is_err()),
        }
    }
}
