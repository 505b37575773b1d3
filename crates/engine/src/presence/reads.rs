//! `PRESENCE_GET`s whose answer is out: one for each session, and one read of a page at a time, whose answer all its requests share.
//!
//! ```text
//!   new ──▶ behind the session's own write ──written──▶ waits for the page's next read ──begun──▶ being read ──▶ answered
//!                              └────────────────── too late, or its session ends ───────────────────┘
//! ```
//!
//! Why not the read that is out: it may have begun before the session's own write, or before what its client saw elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use drawbridge_protocol::RequestId;
use hashbrown::HashMap;

use super::ledger::Member;
use crate::io::{SessionId, Ticket};

/// How long an answer may take, in milliseconds; then `BROKER_UNAVAILABLE` is the answer.
pub(crate) const TIMEOUT_MS: u64 = 5_000;

/// What is read at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    pub(crate) channel: Arc<str>,
    pub(crate) after: Option<Arc<str>>,
    pub(crate) limit: usize,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    pub(crate) page: PageKey,
    due_ms: u64,
    /// Its session's own presence is being written: it is read behind that.
    behind: Option<Member>,
}

/// Who waits for a page.
#[derive(Debug, Default)]
struct Page {
    ticket: Option<Ticket>,
    /// By the read that is out.
    reading: Vec<SessionId>,
    /// By the one after it.
    next: Vec<SessionId>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    askers: HashMap<SessionId, Asker>,
    pages: HashMap<PageKey, Page>,
    tickets: HashMap<Ticket, PageKey>,
    behind: HashMap<Member, SessionId>,
    deadlines: BTreeSet<(u64, SessionId)>,
}

impl Reads {
    /// Whether a session's last request is not answered.
    pub(crate) fn is_asking(&self, session: SessionId) -> bool {
        self.askers.contains_key(&session)
    }

    /// Adds the request of a session that has none; [`Reads::begin`] is next, unless it has to wait for this member's write.
    pub(crate) fn ask(
        &mut self,
        now_ms: u64,
        session: SessionId,
        request: RequestId,
        page: PageKey,
        behind: Option<Member>,
    ) {
        let due_ms = now_ms + TIMEOUT_MS;
        self.deadlines.insert((due_ms, session));
        match &behind {
            Some(member) => drop(self.behind.insert(member.clone(), session)),
            None => self.pages.entry(page.clone()).or_default().next.push(session),
        }
        self.askers.insert(session, Asker { session, request, page, due_ms, behind });
    }

    /// A member is written: who waited for that waits for its page from now on, which is returned.
    pub(crate) fn written(&mut self, member: &Member) -> Option<PageKey> {
        let session = self.behind.remove(member)?;
        let asker = self.askers.get_mut(&session)?;
        asker.behind = None;
        self.pages.entry(asker.page.clone()).or_default().next.push(session);
        Some(asker.page.clone())
    }

    /// Whether this page is to be read now; then under this ticket.
    pub(crate) fn begin(&mut self, page: &PageKey, ticket: impl FnOnce() -> Ticket) -> Option<Ticket> {
        let waiting = self
            .pages
            .get_mut(page)
            .filter(|waiting| waiting.ticket.is_none() && !waiting.next.is_empty())?;
        let ticket = ticket();
        waiting.ticket = Some(ticket);
        waiting.reading = std::mem::take(&mut waiting.next);
        self.tickets.insert(ticket, page.clone());
        Some(ticket)
    }

    /// A read was answered; `None`: it was none of these. Returns whom it answers; the page may be read again.
    pub(crate) fn answered(&mut self, ticket: Ticket) -> Option<(PageKey, Vec<Asker>)> {
        let page = self.tickets.remove(&ticket)?;
        let waiting = self.pages.get_mut(&page)?;
        waiting.ticket = None;
        let reading = std::mem::take(&mut waiting.reading);
        if waiting.next.is_empty() {
            self.pages.remove(&page);
        }
        let askers =
            reading.into_iter().filter_map(|session| self.askers.remove(&session)).collect::<Vec<_>>();
        for asker in &askers {
            self.deadlines.remove(&(asker.due_ms, asker.session));
        }
        Some((page, askers))
    }

    /// A session no longer waits. Returns its request, and the read that no other request waits for.
    pub(crate) fn forget(&mut self, session: SessionId) -> Option<(Asker, Option<Ticket>)> {
        let asker = self.askers.remove(&session)?;
        self.deadlines.remove(&(asker.due_ms, session));
        if let Some(member) = &asker.behind {
            self.behind.remove(member);
            return Some((asker, None));
        }
        let mut withdrawn = None;
        if let Some(page) = self.pages.get_mut(&asker.page) {
            page.reading.retain(|other| *other != session);
            page.next.retain(|other| *other != session);
            if page.reading.is_empty() && page.next.is_empty() {
                withdrawn = page.ticket;
                self.pages.remove(&asker.page);
            }
        }
        withdrawn.iter().for_each(|ticket| drop(self.tickets.remove(ticket)));
        Some((asker, withdrawn))
    }

    /// Who has waited too long, if anybody has.
    pub(crate) fn overdue(&self, now_ms: u64) -> Option<SessionId> {
        self.deadlines.first().filter(|(due_ms, _)| *due_ms <= now_ms).map(|(_, session)| *session)
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(due_ms, _)| *due_ms)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.askers.len()
    }

    /// Panics in debug builds if its tables do not name each other.
    pub(crate) fn check(&self) {
        let waiting: usize = self.pages.values().map(|page| page.reading.len() + page.next.len()).sum();
        debug_assert_eq!(waiting + self.behind.len(), self.askers.len(), "who asks for presence");
        debug_assert_eq!(self.deadlines.len(), self.askers.len(), "deadlines of who asks for presence");
        let reading = self.pages.values().filter(|page| page.ticket.is_some()).count();
        debug_assert_eq!(reading, self.tickets.len(), "reads of presence");
        debug_assert!(self.pages.values().all(|page| page.ticket.is_some()), "a page that is not read");
    }
}
