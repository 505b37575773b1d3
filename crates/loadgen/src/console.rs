//! How a process is controlled: a line on standard input requests a report, the end of standard input
//! stops it, and every answer is one JSON object on a line of standard output. So a script drives it by
//! pipes, a person by Enter and Ctrl-D, and it never outlives who started it.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use mio::Waker;
use serde::Serialize;

/// What was requested.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Print what happened since the last report.
    Report,
    /// Print a last report and end.
    Stop,
}

/// The end of standard input's thread that an event loop holds.
pub(crate) struct Console {
    asked: Receiver<Ask>,
    /// Held here too: a waker that is dropped takes back a wake-up that was not polled yet.
    _waker: Arc<Waker>,
}

impl Console {
    /// What was requested since the last call.
    pub(crate) fn asked(&self) -> impl Iterator<Item = Ask> + '_ {
        self.asked.try_iter()
    }
}

/// Reads standard input on its own thread (it may be a terminal, a pipe, or `/dev/null`, which no poll
/// takes) and wakes the event loop for each request.
pub(crate) fn listen(waker: Waker) -> Console {
    let (asks, asked) = mpsc::channel();
    let waker = Arc::new(waker);
    let console = Console { asked, _waker: Arc::clone(&waker) };
    thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        for ask in lines.map(|_| Ask::Report).chain([Ask::Stop]) {
            // Nobody listens any more, or the loop is gone: the process is ending.
            if asks.send(ask).is_err() || waker.wake().is_err() {
                return;
            }
        }
    });
    console
}

/// Prints one line.
pub(crate) fn say(line: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()
}
