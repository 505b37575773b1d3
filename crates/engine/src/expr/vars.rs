//! The variables that an expression may refer to, and where their values come from.
//! What is done with the values is left to `eval`.

use std::ops::BitOr;

/// A variable of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Var {
    /// The event's name: a text.
    Event,
    /// The payload: any JSON value.
    Data,
    /// The player who published; null for a service's event that names none.
    From,
    /// The publishing service's tags: an object; null where there are none.
    Tags,
    /// The entity's key; null where there is none.
    Key,
    /// The real channel's name: a text.
    Channel,
    /// The player whose request is evaluated: `me.player` and the claims.
    Me,
    /// What the class's name took from the channel's name: texts by name.
    Params,
}

impl Var {
    /// All of them, in the order in which errors list them.
    pub const ALL: [Var; 8] =
        [Var::Event, Var::Data, Var::From, Var::Tags, Var::Key, Var::Channel, Var::Me, Var::Params];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Var::Event => "event",
            Var::Data => "data",
            Var::From => "from",
            Var::Tags => "tags",
            Var::Key => "key",
            Var::Channel => "channel",
            Var::Me => "me",
            Var::Params => "params",
        }
    }

    /// By the name as it is written.
    pub fn of_name(name: &str) -> Option<Var> {
        Var::ALL.into_iter().find(|var| var.name() == name)
    }
}

/// A set of variables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vars(u8);

impl Vars {
    /// None of them.
    pub const NONE: Vars = Vars(0);
    /// `event`.
    pub const EVENT: Vars = Vars::of(Var::Event);
    /// `data`.
    pub const DATA: Vars = Vars::of(Var::Data);
    /// `from`.
    pub const FROM: Vars = Vars::of(Var::From);
    /// `tags`.
    pub const TAGS: Vars = Vars::of(Var::Tags);
    /// `key`.
    pub const KEY: Vars = Vars::of(Var::Key);
    /// `channel`.
    pub const CHANNEL: Vars = Vars::of(Var::Channel);
    /// `me`.
    pub const ME: Vars = Vars::of(Var::Me);
    /// `params`.
    pub const PARAMS: Vars = Vars::of(Var::Params);

    /// What a class's `subscribe` rule refers to.
    pub const SUBSCRIBE_RULE: Vars = Vars::ME.and(Vars::CHANNEL).and(Vars::PARAMS);
    /// What a class's `publish` rule refers to.
    pub const PUBLISH_RULE: Vars = Vars::SUBSCRIBE_RULE.and(Vars::EVENT).and(Vars::DATA).and(Vars::KEY);
    /// What a class's `follow` rule refers to.
    pub const FOLLOW_RULE: Vars = Vars::SUBSCRIBE_RULE.and(Vars::KEY);
    /// What a class's `view` refers to.
    pub const VIEW_RULE: Vars = Vars::FILTER.and(Vars::PARAMS);
    /// What a client's filter refers to.
    pub const FILTER: Vars = Vars::EVENT
        .and(Vars::DATA)
        .and(Vars::FROM)
        .and(Vars::TAGS)
        .and(Vars::KEY)
        .and(Vars::CHANNEL)
        .and(Vars::ME);

    const fn of(var: Var) -> Vars {
        Vars(1 << var as u8)
    }

    const fn and(self, other: Vars) -> Vars {
        Vars(self.0 | other.0)
    }

    /// Whether all of these are in this set.
    pub fn contains(self, vars: impl Into<Vars>) -> bool {
        let vars = vars.into();
        self.0 & vars.0 == vars.0
    }

    /// The members, in the order of [`Var::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Var> {
        Var::ALL.into_iter().filter(move |var| self.contains(*var))
    }
}

impl From<Var> for Vars {
    fn from(var: Var) -> Vars {
        Vars::of(var)
    }
}

impl BitOr for Vars {
    type Output = Vars;

    fn bitor(self, other: Vars) -> Vars {
        self.and(other)
    }
}

/// Where an expression's variables get their values.
pub trait Scope {
    /// The value of one variable. Asked for at each use, so it should be cheap.
    fn var(&self, var: Var) -> Binding<'_>;
}

/// The value of a variable.
#[derive(Clone, Copy, Debug)]
pub enum Binding<'a> {
    /// There is none: null for `from`, `tags` and `key`, an error for every other variable.
    Missing,
    /// Null.
    Null,
    /// A text as it is.
    Text(&'a str),
    /// The text of one valid JSON value. Text that is not gives unspecified values, never a panic.
    Json(&'a str),
    /// For [`Var::Me`].
    Me {
        /// The player's id; a claim of the name `player` is hidden by it.
        player: &'a str,
        /// The claims: the text of a JSON object.
        claims: &'a str,
    },
    /// For [`Var::Params`]: name and value.
    Params(&'a [(&'a str, &'a str)]),
}
