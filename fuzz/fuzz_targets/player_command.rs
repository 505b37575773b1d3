//! A player command on the control channel: refused with words, or one that survives the way to the other nodes.
#![no_main]

use drawbridge::player_command;
use drawbridge_engine::io::PlayerAction;
use drawbridge_protocol::channel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let found = match player_command::parse(text) {
        Err(words) => return assert!(!words.is_empty()),
        Ok(found) => found,
    };
    assert!(!found.player.is_empty());
    match &found.action {
        PlayerAction::Subscribe { channel } | PlayerAction::Unsubscribe { channel } => {
            assert!(channel::validate_subject(channel).is_ok());
        }
        PlayerAction::View { channel, .. } => {
            assert!(channel::validate_subject(channel).is_ok() && !channel::is_pattern(channel));
        }
        PlayerAction::Disconnect { .. } => {}
        PlayerAction::TakenOver { .. } => assert!(player_command::check(&found).is_err(), "only nodes say so"),
    }
    let payload = player_command::to_payload(&found);
    let again = player_command::parse(std::str::from_utf8(&payload).expect("JSON is UTF-8"));
    assert_eq!(
        player_command::check(&found).is_ok(),
        again.as_ref().is_ok_and(|again| player_command::check(again).is_ok())
    );
    assert_eq!(again, Ok(found));
});
