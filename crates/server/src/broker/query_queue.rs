//! The queue of queries: what shards and hubs request from Redis, until it is answered. One queue for all kinds, bounded in
//! number, with one way to withdraw. Large and small answers are read on separate connections, so that a large table delays
//! no player ([`AnswerSize`]). Of the large ones those of hubs come first: no subscriber receives a channel that
//! catches up, while one player waits for a page of history. A query waits however long Redis is away, until its sender
//! withdraws it.
//!
//! ```text
//!   ask ──▶ waiting ──first──▶ being read ──take──▶ answered
//!              └── withdraw, or the same asker's next query: gone, and a late answer is dropped
//! ```
//!
//! A claim changes something: once it may have been sent it stays until it is answered, also when its sender no longer waits. So
//! where the connection broke before the answer came, what it has claimed is found out and given back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drawbridge_engine::io::{Answered, Answerer, BrokerEvent, Query, QueryKind, Ticket};
use drawbridge_engine::upstream::ShardId;
use hashbrown::HashMap;
use tokio::sync::{Notify, mpsc};

use super::fanout::ShardFanout;
use super::hub_driver::HubCommand;

/// How many queries may wait. Shards ask one for each connection, hubs one for each entity channel.
const MAX_QUERIES: usize = 1 << 20;

/// Who asks. The same asker's next query replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// A shard, by its ticket.
    Shard(ShardId, Ticket),
    /// The hub of a link, about a channel.
    Hub(usize, Arc<str>),
}

/// A query and who waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) asker: Asker,
    pub(super) query: Query,
    /// Of a claim: it may have been sent to Redis.
    pub(super) is_sent: bool,
    /// It was sent, and its sender no longer waits: what it has changed is to be undone.
    pub(super) is_withdrawn: bool,
}

/// Which connection reads the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum AnswerSize {
    /// Small answers, many in one pipeline.
    Small,
    /// Large answers, one at a time.
    Large,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct QueryQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    asked: [Notify; 2],
    fanout: ShardFanout,
    hubs: Vec<mpsc::WeakUnboundedSender<HubCommand>>,
}

/// The order in which queries are answered: by size, then hubs' before shards', then as they came.
type Place = (AnswerSize, bool, u64);

#[derive(Debug, Default)]
struct Waiting {
    places: HashMap<Asker, Place>,
    in_order: BTreeMap<Place, Asked>,
    next_place: u64,
}

impl QueryQueue {
    /// An empty queue; answers go to these shards and hubs.
    pub(super) fn new(fanout: ShardFanout, hubs: Vec<mpsc::WeakUnboundedSender<HubCommand>>) -> Self {
        QueryQueue(Arc::new(Shared {
            waiting: Mutex::default(),
            asked: [const { Notify::const_new() }; 2],
            fanout,
            hubs,
        }))
    }

    /// Adds a query. One over the bound is answered at once, with an error.
    pub(super) fn ask(&self, asker: Asker, query: Query) {
        let answer_size = match query.kind.answerer() {
            Answerer::Small => AnswerSize::Small,
            Answerer::Large | Answerer::Link(_) => AnswerSize::Large,
        };
        let mut waiting = self.waiting();
        waiting.take(&asker);
        let asked = Asked { asker, query, is_sent: false, is_withdrawn: false };
        if waiting.places.len() >= MAX_QUERIES {
            drop(waiting);
            return self.send(asked, Err("BUSY too many queries wait for Redis".into()));
        }
        waiting.push(answer_size, asked);
        drop(waiting);
        self.0.asked[answer_size as usize].notify_waiters();
    }

    /// Removes a query whose answer is no longer needed. A claim that may have been sent stays.
    pub(super) fn withdraw(&self, asker: &Asker) {
        let mut waiting = self.waiting();
        match waiting.get_mut(asker) {
            Some(asked) if asked.is_sent => asked.is_withdrawn = true,
            _ => drop(waiting.take(asker)),
        }
    }

    /// Returns the first queries of this size that are for the caller, at most `most`, as soon as there are any. They stay in the
    /// queue until they are answered.
    pub(super) async fn first(
        &self,
        answer_size: AnswerSize,
        most: usize,
        is_for: impl Fn(&QueryKind) -> bool,
    ) -> Vec<Asked> {
        loop {
            // Made before the look, so that what comes in between is noticed.
            let asked = self.0.asked[answer_size as usize].notified();
            let first = self.waiting().send_first(answer_size, most, &is_for);
            if !first.is_empty() {
                return first;
            }
            asked.await;
        }
    }

    /// Returns as soon as a query of this size is there that is for the caller.
    pub(super) async fn some(&self, answer_size: AnswerSize, is_for: impl Fn(&QueryKind) -> bool) {
        loop {
            // Made before the look, so that what comes in between is noticed.
            let asked = self.0.asked[answer_size as usize].notified();
            if !self.is_empty(answer_size, &is_for) {
                return;
            }
            asked.await;
        }
    }

    /// A claim is to be made again. `is_unknown`: it may have been executed. Else, unless an earlier attempt may have been, it can be
    /// withdrawn, or goes if it was.
    pub(super) fn refused_for_now(&self, asked: &Asked, is_unknown: bool) {
        if is_unknown {
            return;
        }
        let mut waiting = self.waiting();
        let Some(claim) = waiting.get_mut(&asked.asker).filter(|claim| claim.query == asked.query) else {
            return;
        };
        claim.is_sent = asked.is_sent;
        if claim.is_withdrawn && !claim.is_sent {
            drop(waiting.take(&asked.asker));
        }
    }

    /// Answers all queries of this size that are for the caller with an error.
    pub(super) fn refuse_all(
        &self,
        answer_size: AnswerSize,
        is_for: impl Fn(&QueryKind) -> bool,
        why: &Arc<str>,
    ) {
        let mut waiting = self.waiting();
        let refused: Vec<Asker> = waiting
            .of(answer_size)
            .filter(|asked| is_for(&asked.query.kind))
            .map(|asked| asked.asker.clone())
            .collect();
        let refused: Vec<Asked> = refused.iter().filter_map(|asker| waiting.take(asker)).collect();
        drop(waiting);
        refused.into_iter().for_each(|asked| self.send(asked, Err(why.clone())));
    }

    /// Wakes all readers: which reader answers which query has changed.
    pub(super) fn look_again(&self) {
        self.0.asked.iter().for_each(Notify::notify_waiters);
    }

    /// Answers a query, unless it was withdrawn or replaced meanwhile. Returns whether it was answered.
    pub(super) fn answer(&self, asked: &Asked, answer: Answered) -> bool {
        let taken = self.waiting().take_if(&asked.asker, |waiting| waiting.query == asked.query);
        match taken {
            Some(asked) => {
                self.send(asked, answer);
                true
            }
            None => false,
        }
    }

    /// As [`QueryQueue::answer`], of what has changed something: who withdrew the query has to know that it was done.
    pub(super) fn answer_in_any_case(&self, asked: Asked, answer: Answered) {
        self.waiting().take_if(&asked.asker, |waiting| waiting.query == asked.query);
        self.send(asked, answer);
    }

    /// Whether no query of this size waits that is for the caller.
    pub(super) fn is_empty(&self, answer_size: AnswerSize, is_for: impl Fn(&QueryKind) -> bool) -> bool {
        !self.waiting().of(answer_size).any(|asked| is_for(&asked.query.kind))
    }

    /// How many queries wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().places.len()
    }

    fn send(&self, Asked { asker, query, .. }: Asked, answer: Answered) {
        match asker {
            Asker::Shard(shard, ticket) => {
                self.0.fanout.send(shard, BrokerEvent::Answer { ticket, answer });
            }
            Asker::Hub(link, _) => {
                if let Some(hub) = self.0.hubs.get(link).and_then(mpsc::WeakUnboundedSender::upgrade) {
                    let _ = hub.send(HubCommand::Answer(query, answer));
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Adds it behind the others of its size and kind of asker.
    fn push(&mut self, answer_size: AnswerSize, asked: Asked) {
        let is_late = answer_size == AnswerSize::Large && matches!(asked.asker, Asker::Shard(..));
        let place = (answer_size, is_late, self.next_place);
        self.next_place += 1;
        self.places.insert(asked.asker.clone(), place);
        self.in_order.insert(place, asked);
    }

    fn of(&self, answer_size: AnswerSize) -> impl Iterator<Item = &Asked> {
        self.in_order.range((answer_size, false, 0)..=(answer_size, true, u64::MAX)).map(|(_, asked)| asked)
    }

    fn get_mut(&mut self, asker: &Asker) -> Option<&mut Asked> {
        self.in_order.get_mut(self.places.get(asker)?)
    }

    /// The first queries of this size that are for the caller. From now on Redis may execute them.
    fn send_first(
        &mut self,
        answer_size: AnswerSize,
        most: usize,
        is_for: impl Fn(&QueryKind) -> bool,
    ) -> Vec<Asked> {
        let is_for = |asked: &&Asked| is_for(&asked.query.kind);
        let first = self.of(answer_size).filter(is_for).take(most).cloned().collect::<Vec<_>>();
        for asked in &first {
            if matches!(asked.query.kind, QueryKind::ClaimSession { .. })
                && let Some(waiting) = self.get_mut(&asked.asker)
            {
                waiting.is_sent = true;
            }
        }
        first
    }

    fn take(&mut self, asker: &Asker) -> Option<Asked> {
        self.take_if(asker, |_| true)
    }

    fn take_if(&mut self, asker: &Asker, is_it: impl FnOnce(&Asked) -> bool) -> Option<Asked> {
        let at = *self.places.get(asker)?;
        if !self.in_order.get(&at).is_some_and(is_it) {
            return None;
        }
        self.places.remove(asker);
        self.in_order.remove(&at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_engine::io::{Answer, LogReader, LoggedOffset, SessionSecret};
    use drawbridge_engine::upstream::LogRange;

    use super::super::queue::{ShardInbox, shard_queue};
    use super::*;

    fn bench() -> (QueryQueue, ShardInbox) {
        let ((shard, inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        (QueryQueue::new(ShardFanout::new(vec![shard], node), Vec::new()), inbox)
    }

    fn asker(ticket: u64) -> Asker {
        Asker::Shard(ShardId(0), Ticket(ticket))
    }

    fn views(ticket: u64, player: &str) -> Query {
        Query::new(Ticket(ticket), QueryKind::ViewOverrides { player: player.into() })
    }

    fn answers(inbox: &mut ShardInbox) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| inbox.try_recv())
            .filter_map(|event| match event {
                BrokerEvent::Answer { ticket, answer } => Some((ticket.0, answer.is_ok())),
                _ => None,
            })
            .collect()
    }

    #[tokio::test]
    async fn one_query_an_asker_in_order_and_none_that_was_withdrawn() {
        let (queue, mut inbox) = bench();
        for (ticket, player) in [(1, "a"), (2, "b"), (3, "c"), (1, "d")] {
            queue.ask(asker(ticket), views(ticket, player));
        }
        let first = queue.first(AnswerSize::Small, 2, |_| true).await;
        assert_eq!(first.iter().map(|asked| asked.query.ticket.0).collect::<Vec<_>>(), [2, 3]);
        queue.withdraw(&asker(3));
        let nothing = || Ok(Answer::ViewOverrides([].into()));
        assert!(queue.answer(&first[0], nothing()));
        assert!(!queue.answer(&first[1], nothing()), "withdrawn");
        let before = Asked { query: views(1, "a"), ..first[0].clone() };
        let before = Asked { asker: asker(1), ..before };
        assert!(!queue.answer(&before, nothing()), "replaced meanwhile");
        assert_eq!((answers(&mut inbox), queue.len()), (vec![(2, true)], 1));
    }

    /// What Redis may have executed is sent again, for its sender to undo it.
    #[tokio::test]
    async fn a_claim_that_may_have_been_sent_stays_until_it_is_answered() {
        let (queue, mut inbox) = bench();
        for ticket in [1, 2] {
            let kind = QueryKind::ClaimSession { player: "ann".into(), session: SessionSecret(7) };
            queue.ask(asker(ticket), Query::new(Ticket(ticket), kind));
        }
        let first = queue.first(AnswerSize::Small, 1, |_| true).await;
        assert_eq!((first[0].query.ticket, first[0].is_withdrawn), (Ticket(1), false));
        queue.withdraw(&asker(1));
        queue.withdraw(&asker(2));
        let again = queue.first(AnswerSize::Small, 9, |_| true).await;
        let left: Vec<(u64, bool)> =
            again.iter().map(|asked| (asked.query.ticket.0, asked.is_withdrawn)).collect();
        assert_eq!(left, [(1, true)], "the other one was not sent");
        queue.answer_in_any_case(again[0].clone(), Ok(Answer::Session(None)));
        assert_eq!((answers(&mut inbox), queue.len()), (vec![(1, true)], 0));
    }

    /// As where the master that has the node's index is away: nothing is claimed, and nothing is to be given back.
    #[tokio::test]
    async fn a_claim_that_redis_did_not_execute_can_be_withdrawn() {
        let (queue, _inbox) = bench();
        let kind = QueryKind::ClaimSession { player: "ann".into(), session: SessionSecret(7) };
        queue.ask(asker(1), Query::new(Ticket(1), kind));
        queue.some(AnswerSize::Small, |_| true).await;
        let first = queue.first(AnswerSize::Small, 9, |_| true).await;
        queue.withdraw(&asker(1));
        assert_eq!(queue.len(), 1, "it may have been executed");
        queue.refused_for_now(&first[0], false);
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn a_claim_that_may_have_been_executed_once_stays_though_it_was_not_when_it_was_sent_again() {
        let (queue, _inbox) = bench();
        let kind = QueryKind::ClaimSession { player: "ann".into(), session: SessionSecret(7) };
        queue.ask(asker(1), Query::new(Ticket(1), kind));
        drop(queue.first(AnswerSize::Small, 9, |_| true).await);
        queue.withdraw(&asker(1));
        let again = queue.first(AnswerSize::Small, 9, |_| true).await;
        queue.refused_for_now(&again[0], false);
        assert_eq!(queue.len(), 1);
    }

    #[tokio::test]
    async fn large_answers_hold_up_no_small_ones() {
        let (queue, _inbox) = bench();
        let table = Query::new(Ticket(1), QueryKind::Table { channel: "world".into() });
        queue.ask(Asker::Hub(0, "world".into()), table);
        let is_empty = |size| queue.is_empty(size, |_| true);
        assert!(is_empty(AnswerSize::Small) && !is_empty(AnswerSize::Large));
        let ask = async { queue.ask(asker(2), views(2, "a")) };
        let (first, ()) = tokio::join!(queue.first(AnswerSize::Small, 9, |_| true), ask);
        assert_eq!(first[0].query.ticket, Ticket(2));
    }

    #[tokio::test]
    async fn everyone_reads_what_is_theirs_and_looks_again_when_that_changes() {
        let (queue, _inbox) = bench();
        queue.ask(asker(1), views(1, "a"));
        let is = |name: &'static str| move |kind: &QueryKind| matches!(kind, QueryKind::ViewOverrides { player } if **player == *name);
        assert!(queue.is_empty(AnswerSize::Small, is("b")) && !queue.is_empty(AnswerSize::Small, is("a")));
        let ask = async { queue.ask(asker(2), views(2, "b")) };
        let all = async {
            tokio::join!(
                queue.first(AnswerSize::Small, 9, is("a")),
                queue.first(AnswerSize::Small, 9, is("b"))
            )
        };
        let ((a, b), ()) = tokio::join!(all, ask);
        assert_eq!((a[0].query.ticket, b[0].query.ticket), (Ticket(1), Ticket(2)));
        let takes_over = std::cell::Cell::new(false);
        let change = async {
            takes_over.set(true);
            queue.look_again();
        };
        let (first, ()) = tokio::join!(queue.first(AnswerSize::Small, 9, |_| takes_over.get()), change);
        assert_eq!(first.len(), 2);
    }

    #[tokio::test]
    async fn pages_of_hubs_are_read_before_those_of_players() {
        let (queue, _inbox) = bench();
        let page = |ticket, reader| {
            let range = LogRange::After(LoggedOffset(0));
            Query::new(Ticket(ticket), QueryKind::Log { channel: "news".into(), range, limit: 9, reader })
        };
        let request = LogReader::Request { max_bytes: 1 };
        queue.ask(asker(1), page(1, request));
        queue.ask(asker(2), page(2, request));
        queue.ask(Asker::Hub(0, "news".into()), page(3, LogReader::Hub));
        let first = queue.first(AnswerSize::Large, 9, |_| true).await;
        assert_eq!(first.iter().map(|asked| asked.query.ticket.0).collect::<Vec<_>>(), [3, 1, 2]);
    }
}
