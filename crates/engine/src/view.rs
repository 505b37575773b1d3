//! What one subscriber is shown of a channel: the class's server view and the client's filter, both with the
//! player's constants folded in. Equal views are one object that remembers its result for the current event, so each
//! distinct view is evaluated once per event however many subscribers share it.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use drawbridge_protocol::event::Event;
use hashbrown::HashMap;

use crate::expr::{Binding, Expr, Scope, Var, Vars};
use crate::io::{Claims, Publication};
use crate::work;

/// The parts of a view that remain to be evaluated; `None`: lets everything through.
type Key = (Option<Expr>, Option<Expr>);

/// Decides for one event whether its subscribers see it.
#[derive(Debug)]
pub(crate) struct EffectiveView {
    /// Names it among all views of its shard; never used again.
    pub(crate) id: u64,
    server: Option<Expr>,
    client: Option<Expr>,
    /// What one evaluation costs, in steps.
    work: usize,
    /// The last event it was evaluated for, and the result.
    memo: Cell<(u64, bool)>,
}

impl EffectiveView {
    /// Whether the holders of this view see the event; `publication_seq` names the event within this engine.
    pub(crate) fn shows(&self, publication_seq: u64, scope: &EventScope<'_>) -> bool {
        let (last, shown) = self.memo.get();
        if last == publication_seq {
            return shown;
        }
        let shown = self.allows(scope);
        self.memo.set((publication_seq, shown));
        shown
    }

    /// As [`EffectiveView::shows`], of an event that is not the current one.
    pub(crate) fn allows(&self, scope: &EventScope<'_>) -> bool {
        self.parts().all(|expr| expr.matches(scope))
    }

    /// What [`EffectiveView::allows`] costs of this event, in steps.
    pub(crate) fn steps(&self, publication: &Publication) -> u64 {
        work::to_show(self.work, publication.event.data_json().len())
    }

    /// Its parts: the server's, the client's.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Expr> {
        [&self.server, &self.client].into_iter().flatten()
    }

    /// The server's part.
    pub(crate) fn server(&self) -> Option<&Expr> {
        self.server.as_ref()
    }

    /// The client's part.
    pub(crate) fn client(&self) -> Option<&Expr> {
        self.client.as_ref()
    }
}

/// All distinct views of a shard.
#[derive(Debug, Default)]
pub(crate) struct EffectiveViews {
    known: HashMap<Key, Weak<EffectiveView>>,
    sweep_at: usize,
    made: u64,
}

impl EffectiveViews {
    /// The one view of these parts; `None` where everything is let through.
    pub(crate) fn get(&mut self, server: Option<Expr>, client: Option<Expr>) -> Option<Rc<EffectiveView>> {
        let key = (restricting(server), restricting(client));
        if key.0.is_none() && key.1.is_none() {
            return None;
        }
        if let Some(view) = self.known.get(&key).and_then(Weak::upgrade) {
            return Some(view);
        }
        self.sweep();
        self.made += 1;
        let (server, client) = key.clone();
        let work = server.iter().chain(&client).map(Expr::work).sum();
        let view =
            Rc::new(EffectiveView { id: self.made, server, client, work, memo: Cell::new((0, false)) });
        self.known.insert(key, Rc::downgrade(&view));
        Some(view)
    }

    /// How many distinct views are held.
    pub(crate) fn len(&self) -> usize {
        self.known.values().filter(|view| view.strong_count() > 0).count()
    }

    /// Forgets views that nobody holds, each time the table has doubled.
    fn sweep(&mut self) {
        if self.known.len() < self.sweep_at.max(64) {
            return;
        }
        self.known.retain(|_, view| view.strong_count() > 0);
        self.sweep_at = self.known.len() * 2;
    }
}

/// An expression that is constantly true restricts nothing.
fn restricting(expr: Option<Expr>) -> Option<Expr> {
    expr.filter(|expr| expr.as_constant() != Some(true))
}

/// The variables of a class's rule.
#[derive(Clone, Copy)]
pub(crate) struct RuleScope<'a> {
    pub(crate) claims: &'a Claims,
    pub(crate) channel: &'a str,
    pub(crate) params: &'a [(&'a str, &'a str)],
    /// For `publish` rules.
    pub(crate) event: Option<&'a str>,
    pub(crate) data: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
}

impl<'a> RuleScope<'a> {
    pub(crate) fn new(claims: &'a Claims, channel: &'a str, params: &'a [(&'a str, &'a str)]) -> Self {
        RuleScope { claims, channel, params, event: None, data: None, key: None }
    }
}

impl Scope for RuleScope<'_> {
    fn var(&self, var: Var) -> Binding<'_> {
        match var {
            Var::Me => Binding::Me { player: &self.claims.player, claims: &self.claims.json },
            Var::Channel => Binding::Text(self.channel),
            Var::Params => Binding::Params(self.params),
            Var::Event => self.event.map_or(Binding::Missing, Binding::Text),
            Var::Data => self.data.map_or(Binding::Missing, Binding::Json),
            Var::Key => self.key.map_or(Binding::Missing, Binding::Text),
            Var::From | Var::Tags => Binding::Missing,
        }
    }
}

/// Folds what is known of a subscriber into an expression over events.
pub(crate) fn bind(expr: &Expr, scope: &RuleScope<'_>) -> Expr {
    expr.bind(scope, Vars::ME | Vars::CHANNEL | Vars::PARAMS)
}

/// Folds only the player in: for filters on patterns, whose channels differ.
pub(crate) fn bind_me(expr: &Expr, scope: &RuleScope<'_>) -> Expr {
    expr.bind(scope, Vars::ME)
}

/// The variables of a view; `me` and `params` are folded in already.
#[derive(Clone, Copy)]
pub(crate) struct EventScope<'a> {
    pub(crate) channel: &'a str,
    pub(crate) event: &'a Event,
}

impl<'a> EventScope<'a> {
    pub(crate) fn of(publication: &'a Publication) -> Self {
        EventScope { channel: &publication.channel, event: &publication.event }
    }
}

impl Scope for EventScope<'_> {
    fn var(&self, var: Var) -> Binding<'_> {
        match var {
            Var::Event => Binding::Text(self.event.name()),
            Var::Data => Binding::Json(self.event.data_json()),
            Var::From => self.event.from().map_or(Binding::Missing, Binding::Text),
            Var::Tags => self.event.tags_json().map_or(Binding::Missing, Binding::Json),
            Var::Key => self.event.key().map_or(Binding::Missing, Binding::Text),
            Var::Channel => Binding::Text(self.channel),
            Var::Me | Var::Params => Binding::Missing,
        }
    }
}
