//! A scope out of plain values, for tests.

use drawbridge_engine::expr::{Binding, Expr, Scope, Var, Vars, compile};

/// What an event and a player may look like.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) event: String,
    pub(crate) data: String,
    pub(crate) from: Option<String>,
    pub(crate) tags: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) channel: String,
    pub(crate) player: String,
    pub(crate) claims: String,
}

impl Default for Plain {
    fn default() -> Self {
        Plain {
            event: "hit".into(),
            data: "null".into(),
            from: Some("bob".into()),
            tags: None,
            key: None,
            channel: "room:42".into(),
            player: "alice".into(),
            claims: r#"{"rooms":["42","43"],"team":"red","level":7,"player":"mallory","admin":false}"#.into(),
        }
    }
}

impl Plain {
    pub(crate) fn of_data(data: &str) -> Self {
        Plain { data: data.into(), ..Plain::default() }
    }
}

impl Scope for Plain {
    fn var(&self, var: Var) -> Binding<'_> {
        match var {
            Var::Event => Binding::Text(&self.event),
            Var::Data => Binding::Json(&self.data),
            Var::From => self.from.as_deref().map_or(Binding::Missing, Binding::Text),
            Var::Tags => self.tags.as_deref().map_or(Binding::Missing, Binding::Json),
            Var::Key => self.key.as_deref().map_or(Binding::Missing, Binding::Text),
            Var::Channel => Binding::Text(&self.channel),
            Var::Me => Binding::Me { player: &self.player, claims: &self.claims },
            Var::Params => Binding::Params(&[("room", "42"), ("shard", "a b")]),
        }
    }
}

/// A scope that knows only these variables of another.
pub(crate) struct Only<'s>(pub(crate) &'s Plain, pub(crate) Vars);

impl Scope for Only<'_> {
    fn var(&self, var: Var) -> Binding<'_> {
        if self.1.contains(var) { self.0.var(var) } else { Binding::Missing }
    }
}

/// Compiles with every variable.
pub(crate) fn expr(source: &str) -> Expr {
    compile(source, Vars::VIEW_RULE).unwrap_or_else(|error| panic!("{source}: {error}"))
}

/// Whether it matches this `data`, bound or not.
pub(crate) fn matches(source: &str, data: &str) -> bool {
    let scope = Plain::of_data(data);
    let expr = expr(source);
    let plain = expr.matches(&scope);
    let bound = expr.bind(&scope, Vars::VIEW_RULE);
    assert_eq!(bound.as_constant(), Some(plain), "{source} over {data}, bound: {bound}");
    plain
}
