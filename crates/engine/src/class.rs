//! Classes of channels: which one a name belongs to, and what it says. The first class whose name matches wins.

use std::sync::Arc;

use drawbridge_protocol::event::PayloadMode;
use drawbridge_protocol::glob;
use drawbridge_protocol::template::{ClassName, Params, Template};

use crate::expr::Expr;
use crate::io::WhenDown;
use crate::settings::Rate;

/// The rules of the channels whose names match (contract §10, `[[channel]]`).
#[derive(Clone, Debug)]
pub struct Class {
    /// Which channels.
    pub name: ClassName,
    /// Who may subscribe, over `me`, `channel`, `params`.
    pub subscribe: Expr,
    /// Who may publish what, over `me`, `channel`, `params`, `event`, `data`, `key`.
    pub publish: Expr,
    /// What every subscriber is shown at most; `None`: everything.
    pub view: Option<Expr>,
    /// Whether clients may subscribe by pattern here.
    pub patterns: bool,
    /// How payloads from outside are read.
    pub payload: PayloadMode,
    /// What happens to publishes while Redis is away.
    pub when_broker_down: WhenDown,
    /// Publishes per connection.
    pub publishes: Option<Rate>,
    /// Append to this stream instead of publishing.
    pub forward: Option<Template>,
}

/// A place in [`Classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassId(pub u16);

/// All classes, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Classes(Vec<Class>);

impl Classes {
    /// At most `u16::MAX` classes are looked at.
    pub fn new(classes: Vec<Class>) -> Arc<Self> {
        Arc::new(Classes(classes))
    }

    /// The class that a real channel belongs to.
    pub fn of_channel<'c>(&self, channel: &'c str) -> Option<(ClassId, &Class, Params<'_, 'c>)> {
        self.iter().find_map(|(id, class)| Some((id, class, class.name.matches(channel)?)))
    }

    /// The class that a pattern belongs to: by its fixed part, up to the first glob character.
    pub fn of_pattern(&self, pattern: &str) -> Option<(ClassId, &Class)> {
        let fixed = glob::literal_prefix(pattern);
        self.iter().find(|(_, class)| class.name.claims_pattern(&fixed))
    }

    /// By id.
    pub fn get(&self, id: ClassId) -> Option<&Class> {
        self.0.get(usize::from(id.0))
    }

    /// How a payload published on this channel from outside is read; `Auto` for a channel of no class.
    pub fn payload_mode(&self, channel: &str) -> PayloadMode {
        self.of_channel(channel).map_or(PayloadMode::Auto, |(_, class, _)| class.payload)
    }

    /// Every class with its id.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        self.0.iter().zip(0..=u16::MAX).map(|(class, id)| (ClassId(id), class))
    }
}
