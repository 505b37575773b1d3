//! A TCP proxy before a Redis, which can keep its answers back: what was sent is executed, and no one learns of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Shared {
    keeps_answers: AtomicBool,
    /// A connection that sends this is cut before it comes through.
    refused: Mutex<Option<&'static str>>,
    /// Both ends of each connection since the last cut.
    ends: Mutex<Vec<TcpStream>>,
}

/// See the module. Its threads end with their connections, and with the test.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Before this port of the same machine.
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                join(&theirs, &client, &server);
            }
        });
        Proxy { port, shared }
    }

    /// From now on no answer comes through.
    pub fn keep_answers(&self) {
        self.shared.keeps_answers.store(true, Ordering::SeqCst);
    }

    /// From now on a connection that sends this word is cut before it comes through.
    pub fn refuse(&self, word: &'static str) {
        *self.shared.refused.lock().unwrap() = Some(word);
    }

    /// Cuts all connections. What connects again is answered.
    pub fn cut(&self) {
        for end in self.shared.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
        self.shared.keeps_answers.store(false, Ordering::SeqCst);
    }
}

fn join(shared: &Arc<Shared>, client: &TcpStream, server: &TcpStream) {
    let both = [client, server].map(|end| end.try_clone().unwrap());
    shared.ends.lock().unwrap().extend(both);
    let theirs = shared.clone();
    carry(client, server, move |sent| match *theirs.refused.lock().unwrap() {
        Some(word) if contains(sent, word) => Passage::Cut,
        _ => Passage::Open,
    });
    let theirs = shared.clone();
    carry(server, client, move |_| match theirs.keeps_answers.load(Ordering::SeqCst) {
        true => Passage::Closed,
        false => Passage::Open,
    });
}

fn contains(sent: &[u8], word: &str) -> bool {
    sent.windows(word.len()).any(|part| part == word.as_bytes())
}

/// What becomes of what one end has sent.
enum Passage {
    Open,
    /// It is dropped.
    Closed,
    /// It is dropped, and the connection ends.
    Cut,
}

/// Carries what one end sends to the other one.
fn carry(from: &TcpStream, to: &TcpStream, passage: impl Fn(&[u8]) -> Passage + Send + 'static) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            match passage(&buffer[..read]) {
                Passage::Closed => {}
                Passage::Open if to.write_all(&buffer[..read]).is_ok() => {}
                Passage::Open | Passage::Cut => break,
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}
