//! How a process is asked and answers: a line on standard input asks for a report, the end of standard input
//! asks it to stop, and every answer is one JSON object on a line of standard output. So a script drives it by
//! pipes, a person by Enter and Ctrl-D, and it never outlives who started it.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use mio::Waker;
use serde::Serialize;

/// What was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Print what happened since the last report.
    Report,
    /// Print a last report and end.
    Stop,
}

/// Reads standard input on a thread of its own (it may be a terminal, a pipe, or `/dev/null`, which no poll
/// takes) and wakes the event loop for each ask.
pub(crate) fn listen(waker: Waker) -> Receiver<Ask> {
    let (asks, asked) = mpsc::channel();
    let waker = Arc::new(waker);
    thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        for ask in lines.map(|_| Ask::Report).chain([Ask::Stop]) {
            // Nobody listens any more, or the loop is gone: the process is ending.
            if asks.send(ask).is_err() || waker.wake().is_err() {
                return;
            }
        }
    });
    asked
}

/// Prints one line.
pub(crate) fn say(line: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()
}
