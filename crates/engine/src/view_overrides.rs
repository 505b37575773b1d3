//! One player's view overrides, by channel. While they are being read nothing new is shown. This file owns what is known and
//! which query is out; [`crate::engine`] sends the queries.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::expr::Expr;
use crate::io::Ticket;

/// A player's view overrides, by channel. While they are being read nothing new is shown.
#[derive(Debug, Default)]
pub(crate) struct ViewOverrides {
    loading: Option<Box<Loading>>,
    views: Option<Box<HashMap<Arc<str>, Expr>>>,
}

/// The view overrides are being read.
#[derive(Debug)]
struct Loading {
    /// The query that is out; `None`: it was refused, and is to be sent again.
    query: Option<Ticket>,
    /// What was said meanwhile.
    meanwhile: HashMap<Arc<str>, Option<Expr>>,
}

impl ViewOverrides {
    pub(crate) fn of(&self, channel: &str) -> Option<&Expr> {
        self.views.as_ref()?.get(channel)
    }

    /// Whether it is not known yet, or not known any more.
    pub(crate) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// The query that is out.
    pub(crate) fn query(&self) -> Option<Ticket> {
        self.loading.as_ref()?.query
    }

    /// Asks, or asks again: only the last answer counts. What was heard before may have been said before something
    /// that was missed.
    pub(crate) fn start_loading(&mut self, ticket: Ticket) {
        self.loading = Some(Box::new(Loading { query: Some(ticket), meanwhile: HashMap::new() }));
    }

    /// The query was refused, and is to be sent again.
    pub(crate) fn refused(&mut self) {
        if let Some(loading) = &mut self.loading {
            loading.query = None;
        }
    }

    /// A service says so now.
    pub(crate) fn set(&mut self, channel: Arc<str>, view: Option<Expr>) {
        if let Some(loading) = &mut self.loading {
            loading.meanwhile.insert(channel.clone(), view.clone());
        }
        match view {
            Some(view) => {
                self.views.get_or_insert_default().insert(channel, view);
            }
            None => {
                if let Some(views) = &mut self.views {
                    views.remove(&channel);
                }
                self.views = self.views.take().filter(|views| !views.is_empty());
            }
        }
    }

    /// What was said before; what was said meanwhile is newer. Returns the channels whose views are other than they were.
    pub(crate) fn finish_loading(
        &mut self,
        views: impl IntoIterator<Item = (Arc<str>, Expr)>,
    ) -> Vec<Arc<str>> {
        let before = self.views.take().unwrap_or_default();
        let mut now: HashMap<Arc<str>, Expr> = views.into_iter().collect();
        for (channel, view) in self.loading.take().map(|loading| loading.meanwhile).unwrap_or_default() {
            match view {
                Some(view) => now.insert(channel, view),
                None => now.remove(&channel),
            };
        }
        let is_other = |channel: &&Arc<str>| before.get(*channel) != now.get(*channel);
        let gone = before.keys().filter(|channel| !now.contains_key(*channel));
        let mut others: Vec<Arc<str>> = now.keys().chain(gone).filter(is_other).cloned().collect();
        // In the order of names: what a seeded simulation sees must not hang on the table's.
        others.sort_unstable();
        self.views = (!now.is_empty()).then(|| Box::new(now));
        others
    }

    /// What was known holds.
    pub(crate) fn keep_known(&mut self) {
        self.loading = None;
    }
}
