//! Which link of the pool a channel or pattern lives on. The choice never changes while the node runs, so the
//! events of a channel keep their order and their count.
//!
//! Patterns, and the channels that they can match, share the first link: there one cover serves all patterns, and where
//! Redis sends several copies of a publication they come one behind the other, so that one of them can be picked.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

use drawbridge_engine::class::Classes;
use drawbridge_engine::io::Subject;
use drawbridge_engine::settings::Reserved;

/// Names links by their places in the pool.
#[derive(Debug)]
pub(super) struct Routes {
    pool: u64,
    /// What the channels of the first link begin with.
    first: Vec<Box<str>>,
    /// What every link is subscribed to: where nodes tell each other.
    everywhere: Arc<str>,
}

impl Routes {
    pub(super) fn new(pool: usize, classes: &Classes, reserved: &Reserved, everywhere: Arc<str>) -> Self {
        let mut first: Vec<Box<str>> = vec![reserved.prefix().into()];
        for (_, class) in classes.iter().filter(|(_, class)| class.patterns) {
            let prefix = class.name.literal_prefix();
            if !first.iter().any(|known| **known == *prefix) {
                first.push(prefix.into());
            }
        }
        Routes { pool: pool.max(1) as u64, first, everywhere }
    }

    /// The links that subscribe to this channel or pattern.
    pub(super) fn links_of(&self, subject: &Subject) -> Range<usize> {
        if *subject.name == *self.everywhere {
            return 0..self.pool as usize;
        }
        let link = self.link_of(subject);
        link..link + 1
    }

    /// The link of this channel or pattern.
    pub(super) fn link_of(&self, subject: &Subject) -> usize {
        if self.pool == 1
            || subject.pattern
            || self.first.iter().any(|prefix| subject.name.starts_with(&**prefix))
        {
            return 0;
        }
        let mut hasher = foldhash::quality::FixedState::with_seed(0x6472_6177).build_hasher();
        hasher.write(subject.name.as_bytes());
        (hasher.finish() % self.pool) as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_engine::class::Class;
    use drawbridge_engine::expr::{Vars, compile};
    use drawbridge_protocol::template::ClassName;

    use super::*;

    fn class(name: &str, patterns: bool) -> Class {
        let rule = compile("true", Vars::FILTER).unwrap();
        Class {
            subscribe: rule.clone(),
            publish: rule,
            patterns,
            ..Class::plain(ClassName::parse(name).unwrap())
        }
    }

    fn channels() -> Arc<str> {
        "drawbridge:nodes:0".into()
    }

    #[test]
    fn every_link_hears_what_nodes_tell_each_other() {
        let routes = Routes::new(4, &Classes::new(vec![]), &Reserved::new("drawbridge:"), channels());
        assert_eq!(routes.links_of(&Subject::channel("drawbridge:nodes:0")), 0..4);
        assert_eq!(routes.links_of(&Subject::channel("drawbridge:control")), 0..1);
    }

    #[test]
    fn patterns_share_the_first_link_with_what_they_can_cover() {
        let classes = Classes::new(vec![class("room:{room}", true), class("chat:{name}", false)]);
        let routes = Routes::new(4, &classes, &Reserved::new("drawbridge:"), channels());
        for subject in [
            Subject::pattern("room:*"),
            Subject::channel("room:42"),
            Subject::channel("room:42:chat"),
            Subject::channel("drawbridge:control"),
        ] {
            assert_eq!(routes.link_of(&subject), 0, "{subject:?}");
        }
    }

    #[test]
    fn other_channels_spread_over_the_pool_always_alike() {
        let routes = Routes::new(
            4,
            &Classes::new(vec![class("chat:{name}", false)]),
            &Reserved::new("drawbridge:"),
            channels(),
        );
        let mut used = [0; 4];
        for at in 0..400 {
            let subject = Subject::channel(format!("chat:{at}"));
            let link = routes.link_of(&subject);
            assert_eq!(link, routes.link_of(&subject));
            used[link] += 1;
        }
        assert!(used.iter().all(|count| *count > 50), "{used:?}");
    }
}
