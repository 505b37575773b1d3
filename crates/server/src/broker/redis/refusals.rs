//! Redis' refusals in the log: a warning with the error that Redis returned, the first few of each kind in a while.

use drawbridge_engine::io::WriteKind;
use hashbrown::HashMap;

use super::writes::{UNPROVEN, command_of, needs_functions};
use super::{code_of, is_unknown_command, public_part, without_arguments};
use crate::log::Sparse;

/// Kinds beyond these share one: Redis has fewer codes, but modules and scripts make up their own.
const MAX_KINDS: usize = 64;

/// What Redis refused, by command and error code.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<(&'static str, String), Sparse>);

impl Refusals {
    /// Logs that Redis refused this.
    pub(super) fn log(&mut self, work: &WriteKind, message: &str) {
        let command = command_of(work);
        let mut kind = (command, code_of(message).to_owned());
        if self.0.len() >= MAX_KINDS && !self.0.contains_key(&kind) {
            kind = ("", String::new());
        }
        self.0.entry(kind).or_default().line(|unlogged| {
            let (subject, reason) = (work.subject(), without_arguments(message));
            tracing::warn!(command, subject, reason, unlogged, "Redis refused a command");
        });
    }
}

/// The message for whoever sent this write: the error that Redis returned; or, if Redis has no functions or does not let us
/// call them, what that means.
pub(super) fn explained(work: &WriteKind, message: String) -> String {
    match needs_functions(work) {
        Some(what) => explained_for(what, message),
        None => message,
    }
}

/// As [`explained`], of what needs functions, for a person.
pub(super) fn explained_for(what: &str, message: String) -> String {
    let lacks = match () {
        () if is_unknown_command(&message) => "has none",
        () if code_of(&message) == NO_ENVIRONMENT => "has no entry for this environment in them",
        () if is_missing_function(&message) => "has not loaded ours",
        () if code_of(&message) == "NOPERM" => "does not allow us to call them",
        () => return message,
    };
    let reason = public_part(&message);
    format!(
        "UNSUPPORTED {what} need Redis functions (Redis 7.0, FUNCTION and FCALL), and this Redis {lacks}: {reason}"
    )
}

/// The code of the functions' answer where they have no entry for this node's channel prefix.
const NO_ENVIRONMENT: &str = "NOENVIRONMENT";

/// Whether Redis has lost its functions, or has others by their names, so that nothing was done.
pub(super) fn is_missing_function(message: &str) -> bool {
    message.contains("Function not found") || message == UNPROVEN || code_of(message) == NO_ENVIRONMENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> WriteKind {
        let announcement = ("nodes".into(), bytes::Bytes::new());
        WriteKind::SetOverride {
            player: "p".into(),
            channel: "c".into(),
            view: None,
            announcement,
            if_absent: false,
        }
    }

    #[test]
    fn what_lacks_functions_is_said_so() {
        let unknown = "ERR unknown command 'FCALL', with args beginning with: 'drawbridge_view' '1' 'secret'";
        let text = explained(&view(), unknown.into());
        assert!(text.starts_with("UNSUPPORTED players' views need Redis functions"), "{text}");
        assert!(text.ends_with("this Redis has none: ERR unknown command 'FCALL'"), "{text}");
        for message in ["NOPERM no rights", "ERR Function not found", "NOENVIRONMENT nothing is known"] {
            assert!(explained(&view(), message.into()).starts_with("UNSUPPORTED"));
        }
        assert_eq!(explained(&view(), "OOM full".into()), "OOM full");
        let publish = WriteKind::Publish { channel: "c".into(), payload: bytes::Bytes::new() };
        assert_eq!(explained(&publish, "NOPERM no rights".into()), "NOPERM no rights");
    }

    #[test]
    fn kinds_are_bounded() {
        let mut refusals = Refusals::default();
        for kind in 0..1_000 {
            refusals.log(&view(), &format!("CODE{kind} words"));
        }
        assert_eq!(refusals.0.len(), MAX_KINDS + 1);
    }
}
