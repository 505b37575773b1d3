//! Globs and templates. A glob matches what a matcher says that tries everything; a name that matches begins with the
//! glob's fixed part. What a class takes out of a channel puts the channel together again.
#![no_main]

use std::borrow::Cow;
use std::ffi::c_char;

use drawbridge_protocol::glob::{glob_matches_bytes, literal_prefix};
use drawbridge_protocol::template::{ClassName, Template};
use libfuzzer_sys::fuzz_target;

/// The reference takes exponential time.
const MAX_BYTES: usize = 24;

fuzz_target!(|input: (&str, &str)| {
    let (pattern, name) = input;
    if pattern.len() <= MAX_BYTES && name.len() <= MAX_BYTES {
        let matches = glob_matches_bytes(pattern.as_bytes(), name.as_bytes());
        let expected = redis_match(pattern.as_bytes(), name.as_bytes());
        assert_eq!(matches, expected, "{pattern:?} and {name:?}");
        assert!(!matches || name.starts_with(&*literal_prefix(pattern)), "{pattern:?} and {name:?}");
    }
    if let Ok(class) = ClassName::parse(pattern) {
        assert!(ClassName::parse(&class.to_string()).is_ok());
        if let Some(params) = class.matches(name) {
            assert!(name.starts_with(class.literal_prefix()));
            assert!(class.claims_pattern(name), "{pattern:?} and {name:?}");
            assert!(params.iter().all(|(_, value)| !value.is_empty() && !value.contains(':')));
            assert_eq!(class.placeholders().count(), params.len());
            // A class without `*` is a template, which makes the channel of these values.
            if let Some(template) = Template::parse(pattern).ok().filter(|_| !pattern.ends_with('*')) {
                let filled = template.fill(|wanted| params.get(wanted).map(Cow::from));
                assert_eq!(filled.as_deref(), Some(name));
            }
        }
    }
    if let Ok(template) = Template::parse(pattern) {
        let filled = template.fill(|_| Some(name.into())).expect("every placeholder has a value");
        assert!(filled.starts_with(template.literal_prefix()));
        assert!(template.placeholders().next().is_none() || filled.contains(name));
        assert!(template.fill(|_| None).is_none() || template.placeholders().next().is_none());
    }
});

/// As `stringmatchlen` of Redis 7 does it, statement by statement, without its shortcuts.
fn redis_match(mut pattern: &[u8], mut name: &[u8]) -> bool {
    while !pattern.is_empty() && !name.is_empty() {
        match pattern[0] {
            b'*' => {
                while pattern.get(1) == Some(&b'*') {
                    pattern = &pattern[1..];
                }
                return pattern.len() == 1
                    || (0..=name.len()).any(|at| redis_match(&pattern[1..], &name[at..]));
            }
            b'?' => name = &name[1..],
            b'[' => {
                pattern = &pattern[1..];
                let negated = pattern.first() == Some(&b'^');
                if negated {
                    pattern = &pattern[1..];
                }
                let mut matched = false;
                loop {
                    if pattern.len() >= 2 && pattern[0] == b'\\' {
                        pattern = &pattern[1..];
                        matched |= pattern[0] == name[0];
                    } else if pattern.first() == Some(&b']') {
                        break;
                    } else if pattern.is_empty() {
                        break;
                    } else if pattern.len() >= 3 && pattern[1] == b'-' {
                        let (mut from, mut to) = (pattern[0] as c_char, pattern[2] as c_char);
                        if from > to {
                            (from, to) = (to, from);
                        }
                        pattern = &pattern[2..];
                        matched |= (from..=to).contains(&(name[0] as c_char));
                    } else {
                        matched |= pattern[0] == name[0];
                    }
                    pattern = &pattern[1..];
                }
                if matched == negated {
                    return false;
                }
                name = &name[1..];
            }
            literal => {
                let literal = match literal {
                    b'\\' if pattern.len() >= 2 => {
                        pattern = &pattern[1..];
                        pattern[0]
                    }
                    literal => literal,
                };
                if literal != name[0] {
                    return false;
                }
                name = &name[1..];
            }
        }
        pattern = pattern.get(1..).unwrap_or_default();
        if name.is_empty() {
            while pattern.first() == Some(&b'*') {
                pattern = &pattern[1..];
            }
            break;
        }
    }
    pattern.is_empty() && name.is_empty()
}
