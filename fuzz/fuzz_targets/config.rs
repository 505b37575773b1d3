//! A configuration of any text is judged without a panic, and what is wrong with it can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Files are the file system's, and not of interest here.
    if text.contains("_file") {
        return;
    }
    // A first line `#!NAME=VALUE` is a variable.
    let variable = text.lines().next().and_then(|line| line.strip_prefix("#!")?.split_once('='));
    let variables: Vec<_> = variable.into_iter().collect();
    match drawbridge::config::parse("fuzz.toml", text, &variables) {
        Ok(config) => assert!(!format!("{config:?}").is_empty()),
        Err(errors) => assert!(!errors.errors.is_empty() && !errors.to_string().is_empty()),
    }
});
