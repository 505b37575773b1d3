//! What is said of wrong configurations, word by word, and that right ones mean what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accepted;
mod environment;
mod refused;
mod refused_classes;
mod syntax;

use std::path::Path;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn with(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    read("f.toml", text, Path::new(FIXTURES), variables).map(|(config, _)| config)
}

fn good(text: &str) -> Config {
    with(text, &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

proptest::proptest! {
    /// Any text is judged, and what is wrong with it can be shown.
    #[test]
    fn no_text_panics(text in text_like_a_configuration()) {
        match with(&text, &[]) {
            Ok(config) => assert!(!format!("{config:?}").is_empty()),
            Err(errors) => assert!(!errors.errors.is_empty() && !errors.to_string().is_empty()),
        }
    }
}

/// Lines of keys and values that fit, or do not, or are no TOML.
fn text_like_a_configuration() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    const KEYS: [&str; 14] = [
        "node",
        "listen",
        "admin",
        "trusted_proxies",
        "[broker]",
        "kind",
        "url",
        "[limits]",
        "messages",
        "[connection]",
        "auto_subscribe",
        "heartbeat",
        "[[channel]]",
        "name",
    ];
    const VALUES: [&str; 12] = [
        "5",
        "-1",
        "\"redis\"",
        "\"redis://a:b@[::1]:1/2?\"",
        "\"{x}:*\"",
        "[\"10.0.0.0/8\", 5]",
        "{ listen = \":1\" }",
        "\"25s\"",
        "true",
        "1979-05-27",
        "{ per_second = 1e9 }",
        "'\u{1F980}é'",
    ];
    let line = prop_oneof![
        (proptest::sample::select(&KEYS[..]), proptest::sample::select(&VALUES[..])).prop_map(
            |(key, value)| match key.starts_with('[') {
                true => key.to_owned(),
                false => format!("{key} = {value}"),
            }
        ),
        "\\PC{0,40}",
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

/// The whole report.
fn report(text: &str) -> String {
    with(text, &[]).expect_err("a wrong configuration").to_string()
}
