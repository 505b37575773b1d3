//! One subscriber link: a connection that only subscribes, and the hub that decides to what. It connects, restores
//! what was subscribed, notices a silent Redis and reconnects. It reads without ever waiting for a shard, and accepts
//! hub commands while Redis is away. The connection is left to [`super::link_session`], what bytes mean to [`super::resp`], what
//! answers what to [`super::conversation`], on which thread it runs to [`super::links`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_engine::io::{Outcome, Subject};
use drawbridge_engine::upstream::{HubInput, LinkCommand};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::buffer::CHUNK;
use super::connect::{Attempts, Broken};
use super::connector::Connector;
use super::conversation::{Answer, Confirmation, Conversation};
use super::link_session::{Progress, Session};
use super::probe::{Probe, ProbeStep, Reach, Task, Verdict};
use super::resp::{Payload, Reply, Step};
use super::{Names, RedisAddress};
use crate::broker::HubTask;
use crate::broker::health_board::HealthBoard;
use crate::broker::hub_driver::{HubCommand, until};
use crate::broker::query_queue::{Asker, QueryQueue};

/// How many hub commands are carried out before Redis is read again.
const HUB_COMMANDS: usize = 1024;

/// One link.
pub(super) struct Link {
    index: usize,
    part: HubTask,
    connector: Connector,
    health_board: Arc<HealthBoard>,
    queries: QueryQueue,
    attempts: Attempts,
    /// The connection, while the link is on its way to another thread.
    session: Option<Session>,
    /// It has had a server to connect to; until then the health board says what it said at the start.
    has_led_somewhere: bool,
    /// `None`: publications are not proven to arrive.
    probe: Option<Probe>,
    /// The master that is probed, or was last.
    probed: Option<RedisAddress>,
    /// The last refusal of the probe that was logged.
    probe_refused: Option<Arc<str>>,
}

/// What links receive from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Go on.
    Stay,
    /// Come back to be run on another thread.
    Move,
    /// Nothing more is to be done.
    Stop,
}

/// The last call.
pub(super) type Calls = watch::Receiver<Call>;

impl Link {
    pub(super) fn new(
        index: usize,
        mut part: HubTask,
        connector: Connector,
        health_board: Arc<HealthBoard>,
        queries: QueryQueue,
    ) -> Self {
        let settings = &connector.settings;
        let attempts = Attempts::new(format!("subscriber {index}"), settings);
        let line = part.probe_line.take();
        let reach = connector.reach();
        let probe = line.map(|line| Probe::new(index, settings.probe_every, reach, &settings.names, line));
        if probe.is_some() && reach != Reach::Master {
            part.link_metrics.begin_probes(index);
        }
        let (session, probe_refused, has_led_somewhere) = (None, None, false);
        Link {
            index,
            part,
            connector,
            health_board,
            queries,
            attempts,
            session,
            has_led_somewhere,
            probe,
            probed: None,
            probe_refused,
        }
    }

    /// Runs until it is called: returns itself if it is to move. Ends, too, when no sender of hub commands is left.
    pub(super) async fn run(mut self, mut calls: Calls) -> Option<Link> {
        loop {
            let call = match self.connect_and_live(&mut calls).await {
                Ok(call) => call,
                Err(broken) => {
                    let wait = self.attempts.failed(&broken, self.connector.server());
                    let trouble = self.connector.trouble(&broken);
                    self.connector.failed();
                    let health_board = self.health_board.clone();
                    health_board.failed(self.index, trouble);
                    if let Broken::Unsupported(what) = &broken {
                        self.part.driver.refuse_waiting(&format!("UNSUPPORTED {what}"));
                    }
                    let (redirected, again) =
                        (self.connector.redirected(), health_board.wait_for_another(wait));
                    let pause = async {
                        tokio::select! {
                            () = again => {}
                            () = redirected => {}
                        }
                    };
                    match self.meanwhile(&mut calls, pause).await {
                        Ok(()) => continue,
                        Err(call) => call,
                    }
                }
            };
            return (call == Call::Move).then_some(self);
        }
    }

    /// The life of one connection: of the one that came along from another thread, or of a new one.
    async fn connect_and_live(&mut self, calls: &mut Calls) -> Result<Call, Broken> {
        let (mut session, registered) = match self.session.take() {
            Some(mut session) => {
                let registered = session.stream.register();
                (session, registered)
            }
            None => {
                if self.connector.is_idle() {
                    // Nothing is missed on a link that leads nowhere any more.
                    if self.has_led_somewhere {
                        self.health_board.set(self.index, true);
                    }
                    let connector = self.connector.clone();
                    if let Err(call) = self.meanwhile(calls, connector.address()).await {
                        return Ok(call);
                    }
                    self.health_board.set(self.index, false);
                }
                self.has_led_somewhere = true;
                self.connector.mark_seen();
                let external_bytes = self.part.driver.external_bytes();
                let session = Session::open(self.connector.clone(), self.index, external_bytes);
                let mut session = match self.meanwhile(calls, session).await {
                    Ok(session) => session?,
                    Err(call) => return Ok(call),
                };
                self.begin();
                self.begin_probes(&session);
                self.subscribe_probe(&mut session);
                (session, Ok(()))
            }
        };
        let end = match registered {
            Ok(()) => self.converse(calls, &mut session).await,
            Err(error) => Err(error.into()),
        };
        match end {
            Ok(Call::Move) => self.session = Some(session),
            _ => self.end(session),
        }
        end
    }

    /// Waits without a connection, and carries out hub commands.
    async fn meanwhile<F: Future>(&mut self, calls: &mut Calls, waited_for: F) -> Result<F::Output, Call> {
        let mut waited_for = pin!(waited_for);
        loop {
            self.report();
            let due = self.part.driver.due();
            tokio::select! {
                output = &mut waited_for => return Ok(output),
                hub_command = self.part.commands.recv() => self.take_hub_commands(Some(hub_command.ok_or(Call::Stop)?), None),
                () = until(due) => self.take_hub_commands(None, None),
                call = called(calls) => return Err(call),
            }
        }
    }

    /// A connection was made.
    fn begin(&mut self) {
        self.attempts.up();
        self.part.driver.set_now(Instant::now());
        self.part.driver.handle(HubInput::LinkUp);
        // Before it is restored: that takes players' views, which other parts read.
        self.health_board.connected(self.index);
    }

    /// A connection has ended.
    fn end(&mut self, mut session: Session) {
        self.health_board.set(self.index, false);
        self.part.link_metrics.set_up(false);
        self.part.driver.set_now(Instant::now());
        for fence in session.conversation.fences() {
            self.part.driver.command(fence);
        }
        self.part.driver.handle(HubInput::LinkDown);
        self.part.driver.commands.clear();
        self.part.driver.queries.clear();
        if let Some(probe) = &mut self.probe {
            probe.connection_ended();
        }
        self.part.link_metrics.set_round_trip(None);
        self.part.link_metrics.reconnected();
    }

    async fn converse(&mut self, calls: &mut Calls, session: &mut Session) -> Result<Call, Broken> {
        enum Next {
            Progress(Progress),
            Due,
            HubCommand(HubCommand),
        }
        // One timer that is moved when what is due next does, and one look-out for a call, not one each per turn.
        let mut alarm = pin!(sleep_until(Instant::now().into()));
        let mut armed = None;
        let mut called = pin!(called(calls));
        let (connector, address) = (self.connector.clone(), session.address.clone());
        let mut left = pin!(connector.left(address.as_ref()));
        loop {
            for command in self.part.driver.commands.drain(..) {
                session.conversation.send(command);
            }
            for query in self.part.driver.queries.drain(..) {
                if let Some(subject) = query.kind.subject() {
                    let asker = Asker::Hub(self.index, subject.clone());
                    self.queries.ask(asker, query);
                }
            }
            let is_cut_off = self.probe.as_ref().is_some_and(Probe::is_cut_off);
            if !session.is_up && !is_cut_off && self.part.driver.is_restored() {
                self.health_board.set(self.index, true);
                self.part.link_metrics.set_up(true);
                session.is_up = true;
            }
            self.report();
            let others = [self.part.driver.due(), self.probe.as_ref().and_then(Probe::due)];
            let due = others.into_iter().flatten().fold(session.due(), Instant::min);
            if armed != Some(due) {
                alarm.as_mut().reset(due.into());
                armed = Some(due);
            }
            // What has come is read before anybody is called silent.
            let next = tokio::select! {
                biased;
                call = called.as_mut() => return Ok(call),
                () = left.as_mut() => return Err(Broken::Left),
                progress = session.progress() => Next::Progress(progress?),
                () = alarm.as_mut() => Next::Due,
                hub_command = self.part.commands.recv() => match hub_command {
                    Some(hub_command) => Next::HubCommand(hub_command),
                    None => return Ok(Call::Stop),
                },
            };
            let mut hub_command = None;
            match next {
                Next::Progress(Progress::Read(bytes)) => {
                    self.read(session)?;
                    if bytes >= CHUNK / 2 {
                        // Much is coming: the other tasks of the thread get their turn.
                        tokio::task::yield_now().await;
                    }
                }
                Next::Progress(Progress::Wrote) => {}
                Next::Due => {
                    armed = None;
                    session.keep_alive(Instant::now())?;
                    self.tick_probe(session);
                }
                Next::HubCommand(first) => hub_command = Some(first),
            }
            self.take_hub_commands(hub_command, Some(&mut session.conversation));
        }
    }

    /// Carries out this hub command, those that wait behind it, and what its deadlines require.
    fn take_hub_commands(&mut self, first: Option<HubCommand>, mut conversation: Option<&mut Conversation>) {
        self.part.driver.set_now(Instant::now());
        let mut first = first;
        for _ in 0..HUB_COMMANDS {
            let Some(hub_command) = first.take().or_else(|| self.part.commands.try_recv().ok()) else {
                break;
            };
            match hub_command {
                // It was read on another connection, which may be ahead of this one: what was said before it (that a
                // player is not to see it, say) is heard before it. Without a connection the hub waits for no table.
                hub_command @ (HubCommand::Answer(..) | HubCommand::Query(..)) => match &mut conversation {
                    Some(conversation) => conversation.fence(hub_command),
                    None => self.part.driver.command(hub_command),
                },
                HubCommand::Probe(ProbeStep::Published(seq, outcome)) => {
                    self.probe_was_published(seq, outcome)
                }
                hub_command => self.part.driver.command(hub_command),
            }
        }
        self.part.driver.tick();
    }

    /// Takes in all that has come.
    fn read(&mut self, session: &mut Session) -> Result<(), Broken> {
        let now = Instant::now();
        session.last_received = now;
        self.part.driver.set_now(now);
        let mut messages = 0;
        loop {
            let taken = match session.decoder.step(session.buffer.filled())? {
                Step::More(bytes) => {
                    session.needed = bytes;
                    break;
                }
                Step::Skip(taken) => taken,
                Step::Reply(Reply::Message { pattern: None, channel, payload }, taken)
                    if self.probe.as_ref().is_some_and(|probe| probe.is_own(channel)) =>
                {
                    if let Payload::Whole(payload) = payload {
                        self.probe_arrived(payload, now);
                    }
                    taken
                }
                Step::Reply(Reply::Message { pattern, channel, payload }, taken) => {
                    messages += 1;
                    match publication(&self.connector.settings.names, pattern, channel, payload) {
                        Some(publication) => self.part.driver.handle(publication),
                        None => self.part.link_metrics.count_foreign(),
                    }
                    taken
                }
                Step::Reply(Reply::Nameless, taken) => {
                    self.part.link_metrics.count_nameless();
                    taken
                }
                Step::Reply(Reply::Push, taken) => taken,
                Step::Reply(Reply::Confirmed { begins, kind, name }, taken) => {
                    let Confirmation { subject, is_answer } =
                        session.conversation.confirmed(begins, kind, name)?;
                    if !is_answer {
                        self.connector.doubt();
                    }
                    match &mut self.probe {
                        Some(probe) if *probe.channel() == subject.name => match begins {
                            true => probe.confirmed(now),
                            false => probe.ended(now),
                        },
                        _ if begins => self.part.driver.handle(HubInput::Subscribed(&subject)),
                        _ => self.part.driver.handle(HubInput::Unsubscribed(&subject)),
                    }
                    taken
                }
                Step::Reply(Reply::Error(message), taken) => {
                    let reason = String::from_utf8_lossy(message);
                    match session.conversation.failed(&reason)? {
                        Answer::Refused(subject)
                            if self.probe.as_ref().is_some_and(|probe| *probe.channel() == subject.name) =>
                        {
                            self.probe_was_refused(&reason);
                        }
                        Answer::Refused(subject) => {
                            self.part.driver.handle(HubInput::Refused { subject: &subject, reason: &reason });
                        }
                        answer => self.answered(answer, session, now)?,
                    }
                    taken
                }
                Step::Reply(Reply::Answer(answer), taken) => {
                    let answer = session.conversation.answered(answer)?;
                    self.answered(answer, session, now)?;
                    taken
                }
            };
            session.buffer.consume(taken);
        }
        self.part.link_metrics.count(messages);
        Ok(())
    }

    fn answered(&mut self, answer: Answer, session: &mut Session, now: Instant) -> Result<(), Broken> {
        match answer {
            Answer::Pong => {
                let round_trip = session.pinged.take().map(|at| now.saturating_duration_since(at));
                self.part.link_metrics.set_round_trip(round_trip);
            }
            Answer::Behind(hub_command) => match *hub_command {
                HubCommand::Probe(ProbeStep::Passed(seq)) => return self.probe_was_passed(seq, session, now),
                hub_command => self.part.driver.command(hub_command),
            },
            Answer::Elsewhere { begins, subjects } => {
                self.connector.doubt();
                for subject in &subjects {
                    match &mut self.probe {
                        Some(probe) if *probe.channel() == subject.name => probe.ended(now),
                        _ if begins => self.part.driver.handle(HubInput::Deferred(subject)),
                        _ => self.part.driver.handle(HubInput::Unsubscribed(subject)),
                    }
                }
            }
            Answer::Welcome
            | Answer::AskedAgain
            | Answer::EndedBefore
            | Answer::Marked
            | Answer::Refused(_) => {}
        }
        Ok(())
    }

    fn probe_arrived(&mut self, payload: &[u8], now: Instant) {
        let Some(round_trip) = self.probe.as_mut().and_then(|probe| probe.arrived(payload, now)) else {
            return;
        };
        self.part.link_metrics.count_probe(Some(round_trip));
        self.health_board.set_cut_off(self.index, false);
    }

    /// A connection was made: where it leads to another master than the last one, the probes begin again.
    fn begin_probes(&mut self, session: &Session) {
        let Some(probe) = &mut self.probe else { return };
        if probe.reach() == Reach::Master && self.probed != session.address {
            probe.led_elsewhere();
            self.health_board.set_cut_off(self.index, false);
            self.probed.clone_from(&session.address);
            if self.part.link_metrics.probes().is_none() {
                self.part.link_metrics.begin_probes(self.index);
            }
        }
    }

    fn subscribe_probe(&mut self, session: &mut Session) {
        let Some(probe) = &mut self.probe else { return };
        if probe.choose_channel(self.connector.a_slot_of(session.address.as_ref())) {
            let channel = Subject::channel(probe.channel().clone());
            session.conversation.send(LinkCommand::Subscribe(vec![channel]));
        } else {
            probe.ended(Instant::now());
        }
    }

    fn tick_probe(&mut self, session: &mut Session) {
        let (Some(probe), now) = (&mut self.probe, Instant::now()) else { return };
        probe.check_slot(|channel| self.connector.has_slot(session.address.as_ref(), channel), now);
        match probe.tick(now) {
            Some(Task::Ping(seq)) => session.conversation.fence(HubCommand::Probe(ProbeStep::Passed(seq))),
            Some(Task::Subscribe) => self.subscribe_probe(session),
            None => {}
        }
    }

    fn probe_was_published(&mut self, seq: u64, outcome: Outcome) {
        let published = self.probe.as_mut().map(|probe| probe.published(seq, outcome, Instant::now()));
        if let Some(Err(reason)) = published {
            self.log_probe_refused(&reason);
        }
    }

    fn probe_was_passed(&mut self, seq: u64, session: &Session, now: Instant) -> Result<(), Broken> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        let verdict = probe.passed(seq, now);
        if verdict != Verdict::Nothing {
            self.part.link_metrics.count_probe(None);
        }
        match verdict {
            Verdict::CutOff { missing, last } => {
                self.health_board.set_cut_off(self.index, true);
                Err(Broken::CutOff { missing, last, peer: session.stream.peer() })
            }
            Verdict::Missing | Verdict::Nothing => Ok(()),
        }
    }

    /// Redis does not let this node subscribe to the probe's channel.
    fn probe_was_refused(&mut self, reason: &str) {
        if let Some(probe) = &mut self.probe {
            probe.refused();
            self.health_board.set_cut_off(self.index, false);
        }
        self.log_probe_refused(reason);
    }

    fn log_probe_refused(&mut self, reason: &str) {
        if self.probe_refused.as_deref() != Some(reason) {
            let text = "delivery probes are refused, so a link that is cut off is not noticed; give the user the channels under key_prefix";
            tracing::warn!(link = self.index, reason, "{text}");
            self.probe_refused = Some(reason.into());
        }
    }

    fn report(&self) {
        self.part.link_metrics.report(self.part.driver.stats());
    }
}

/// A link that is gone is not up, whatever ended it.
impl Drop for Link {
    fn drop(&mut self) {
        self.health_board.set(self.index, false);
    }
}

/// Waits for a call to do something else; who could call and is gone wants nothing more.
async fn called(calls: &mut Calls) -> Call {
    calls.wait_for(|call| *call != Call::Stay).await.map_or(Call::Stop, |call| *call)
}

/// `None`: the name is another environment's, and was not subscribed to.
fn publication<'a>(
    names: &Names,
    pattern: Option<&'a [u8]>,
    channel: &'a [u8],
    payload: Payload<'a>,
) -> Option<HubInput<'a>> {
    let channel = names.inward(channel)?;
    let pattern = match pattern {
        Some(pattern) => Some(names.inward(pattern)?),
        None => None,
    };
    Some(match payload {
        Payload::Whole(payload) => HubInput::Message { pattern, channel, payload },
        Payload::Oversized(bytes) => HubInput::OversizedMessage { pattern, channel, bytes: bytes as usize },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_environments_name_is_no_publication() {
        let names = Names::new("prod:", "drawbridge:");
        let read = |pattern: Option<&'static [u8]>, channel| {
            publication(&names, pattern, channel, Payload::Whole(b"1")).map(|input| format!("{input:?}"))
        };
        let own = HubInput::Message { pattern: Some(b"room:*"), channel: b"room:1", payload: b"1" };
        assert_eq!(read(Some(b"prod:room:*"), b"prod:room:1"), Some(format!("{own:?}")));
        for (pattern, channel) in [
            (None, b"test:room:1".as_slice()),
            (Some(b"prod:*".as_slice()), b"test:room:1".as_slice()),
            (Some(b"*".as_slice()), b"prod:room:1".as_slice()),
        ] {
            assert_eq!(read(pattern, channel), None);
        }
    }
}
