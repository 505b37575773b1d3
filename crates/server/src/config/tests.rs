//! What is said of wrong configurations, word by word, and that right ones mean what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accepted;
mod environment;
mod refused;

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

/// The whole report.
fn report(text: &str) -> String {
    with(text, &[]).expect_err("a wrong configuration").to_string()
}
