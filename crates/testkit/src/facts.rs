//! What really happened, as the clients are judged by: all that Redis took, in its order.

use std::collections::BTreeMap;

use serde_json::Value;

/// One publication.
#[derive(Clone, Debug)]
pub struct Said {
    pub channel: String,
    /// Names it.
    pub number: u64,
    pub event: String,
    pub data: Value,
    /// The entity that it is about, where it names one.
    pub key: Option<String>,
    /// It came by a table, and not as a plain `PUBLISH`.
    pub committed: bool,
}

/// What services narrowed, each from which place on; `None`: no longer.
type ViewOverrides<F> = Vec<(usize, Option<F>)>;

/// `F` is what a test knows of an expression.
#[derive(Debug)]
pub struct Facts<F> {
    pub log: Vec<Said>,
    /// Each number's place in it.
    pub places: BTreeMap<u64, usize>,
    /// By player and channel.
    views: BTreeMap<(String, String), ViewOverrides<F>>,
}

impl Said {
    pub fn read(channel: &str, payload: &[u8], committed: bool) -> Self {
        let envelope: Value = serde_json::from_slice(payload).unwrap();
        let data = envelope["data"].clone();
        let key = match &data["id"] {
            Value::String(key) => Some(key.clone()),
            Value::Number(key) => Some(key.to_string()),
            _ => None,
        };
        Said {
            channel: channel.to_owned(),
            number: data["n"].as_u64().unwrap(),
            event: envelope["event"].as_str().unwrap().to_owned(),
            data,
            key,
            committed,
        }
    }

    pub fn hp(&self) -> u64 {
        self.data["hp"].as_u64().unwrap()
    }

    pub fn team(&self) -> Option<&str> {
        self.data["team"].as_str()
    }

    pub fn position(&self) -> Option<(f64, f64)> {
        Some((self.data["x"].as_f64()?, self.data["y"].as_f64()?))
    }

    pub fn is_remove(&self) -> bool {
        self.event == "remove"
    }

    /// What the class shows to this team.
    pub fn is_shown_to(&self, team: &str) -> bool {
        self.team().is_none_or(|other| other == team)
    }
}

impl<F> Default for Facts<F> {
    fn default() -> Self {
        Facts { log: Vec::new(), places: BTreeMap::new(), views: BTreeMap::new() }
    }
}

impl<F: Copy> Facts<F> {
    pub fn take(&mut self, said: Said) {
        let again = self.places.insert(said.number, self.log.len());
        assert_eq!(again, None, "{said:?} is published twice");
        self.log.push(said);
    }

    /// A service narrows what a player is shown from now on, or no longer.
    pub fn narrow(&mut self, player: &str, channel: &str, view: Option<F>) {
        let views = self.views.entry((player.to_owned(), channel.to_owned())).or_default();
        views.push((self.log.len(), view));
    }

    /// The views of a player that held at this place, or were set behind it.
    pub fn views_since(&self, player: &str, place: usize, channel: &str) -> Vec<Option<F>> {
        let set = self.views.get(&(player.to_owned(), channel.to_owned())).map_or(&[][..], Vec::as_slice);
        let all = std::iter::once(&(0, None)).chain(set);
        let ends = set.iter().map(|(from, _)| *from).chain([usize::MAX]);
        all.zip(ends).filter(|(_, end)| *end > place).map(|((_, view), _)| *view).collect()
    }

    pub fn of_number(&self, number: u64) -> (usize, &Said) {
        let place = self.places[&number];
        (place, &self.log[place])
    }

    /// What was said of an entity last, with its place, and whether it came by the table.
    pub fn past(&self, channel: &str, key: &str) -> Vec<(usize, &str, bool)> {
        let all = self.log.iter().enumerate().rev();
        let theirs = all.filter(|(_, said)| said.channel == channel && said.key.as_deref() == Some(key));
        theirs.map(|(place, said)| (place, &*said.event, said.committed)).take(6).collect()
    }

    /// Every place that an entity ever was at.
    pub fn was_at(&self, channel: &str, key: &str) -> impl Iterator<Item = (f64, f64)> {
        self.log
            .iter()
            .filter(move |said| said.channel == channel && said.key.as_deref() == Some(key))
            .filter_map(Said::position)
    }
}
