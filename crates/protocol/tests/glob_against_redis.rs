//! Our patterns match what Redis' own `PSUBSCRIBE` matches. Needs `redis-server` on the path, or
//! `DRAWBRIDGE_REDIS_SERVER`, and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use drawbridge_protocol::glob::{glob_matches_bytes, literal_prefix};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Patterns and names from few letters, so that they often match, with every oddity of the grammar.
const PATTERN: &str = r"(a|[ab\-\]é\\]|\*|\*|\?|\[\^?[ab\-\\\]\^]{0,4}\]?|\\[ab*?\[\]\\]){1,7}";
const NAME: &str = r"(a|b|[ab\-\]\[\\\^*é]){1,5}";
const CASES: u32 = 1000;

/// A Redis of our own on a socket in its own directory: a free port might be taken before it listens.
struct Redis {
    process: Child,
    directory: PathBuf,
}

impl Redis {
    fn start() -> Redis {
        let directory = std::env::temp_dir().join(format!("drawbridge-glob-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let program = std::env::var_os("DRAWBRIDGE_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let process = Command::new(program)
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(directory.join("redis.sock"))
            .stdout(Stdio::null())
            .spawn()
            .expect("this test compares with the real thing: install redis-server (7.0 or later)");
        Redis { process, directory }
    }

    fn connect(&mut self) -> Link {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(stream) = UnixStream::connect(self.directory.join("redis.sock")) {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                return Link { reader: BufReader::new(stream.try_clone().unwrap()), stream };
            }
            assert!(self.process.try_wait().unwrap().is_none(), "redis-server ended");
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::yield_now();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

struct Link {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Link {
    fn send(&mut self, words: &[&[u8]]) {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend_from_slice(word);
            request.extend(b"\r\n");
        }
        self.stream.write_all(&request).unwrap();
    }

    /// Reads up to an integer: the last word of a subscription's confirmation, and all of the answer to
    /// `PUBLISH`. What is delivered between has none.
    fn integer(&mut self) -> u64 {
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            let (kind, number) = line.trim_end().split_at_checked(1).expect("Redis hung up");
            match kind {
                ":" => return number.parse().unwrap(),
                "$" => {
                    let mut word = vec![0; number.parse::<usize>().unwrap() + 2];
                    self.reader.read_exact(&mut word).unwrap();
                }
                "*" => {}
                _ => panic!("Redis says {line:?}"),
            }
        }
    }
}

#[test]
fn patterns_match_what_redis_psubscribe_matches() {
    let mut redis = Redis::start();
    let (mut subscriber, mut publisher) = (redis.connect(), redis.connect());
    let mut redis_matches = |pattern: &[u8], name: &[u8]| {
        subscriber.send(&[b"PSUBSCRIBE", pattern]);
        subscriber.integer();
        // The reply counts the subscriptions that matched, before anything is delivered.
        publisher.send(&[b"PUBLISH", name, b""]);
        let matched = publisher.integer() == 1;
        subscriber.send(&[b"PUNSUBSCRIBE", pattern]);
        subscriber.integer();
        matched
    };
    let oddities: [(&[u8], &[u8]); 16] = [
        (b"*", b""),
        (b"", b""),
        (b"[^", b"x"),
        (b"[", b"["),
        (b"[a-", b"a"),
        (b"[a-", b"-"),
        (b"[a-]", b"]"),
        (b"[a-]x", b"bx"),
        (b"[]a]", b"a]"),
        (b"[z-a]", b"m"),
        (b"[\\", b"\\"),
        (b"a\\", b"a\\"),
        (b"**a**", b"a"),
        (b"[\x80-\xff]", b"\xc3"),
        (b"[\x01-\xff]", b"a"),
        (b"[a-\xff]", b"M"),
    ];
    for (pattern, name) in oddities {
        let (pattern_text, name_text) = (pattern.escape_ascii(), name.escape_ascii());
        assert_eq!(
            glob_matches_bytes(pattern, name),
            redis_matches(pattern, name),
            "{pattern_text} on {name_text}"
        );
    }
    let matched = std::cell::Cell::new(0);
    let redis_matches = std::cell::RefCell::new(redis_matches);
    let run = |(pattern, name): (String, String)| {
        let ours = glob_matches_bytes(pattern.as_bytes(), name.as_bytes());
        let theirs = redis_matches.borrow_mut()(pattern.as_bytes(), name.as_bytes());
        prop_assert_eq!(ours, theirs, "{:?} on {:?}", pattern, name);
        if ours {
            prop_assert!(name.starts_with(&*literal_prefix(&pattern)), "{:?} on {:?}", pattern, name);
            matched.set(matched.get() + 1);
        }
        Ok(())
    };
    TestRunner::new(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })
        .run(&(PATTERN, NAME), run)
        .unwrap();
    let matched = matched.get();
    assert!(matched > CASES / 50, "only {matched} of {CASES} cases matched: the test has lost its teeth");
}
