//! Keys of the contract that are not implemented yet. They are known by name: their "off" is accepted, every
//! other value is refused, so that no one relies on what does not work.

use super::reader::{Field, Section, resolved};
use super::tree::Raw;

/// The value of a key that turns it off.
#[derive(Clone, Copy)]
pub(super) enum Off {
    /// There is no such value.
    Never,
    /// `false`.
    False,
}

/// Refuses the key by name unless it is off.
pub(super) fn refuse(section: &Section<'_>, key: &str, off: Off) {
    let Some(field) = section.field(key) else { return };
    if !is_off(&field, off) {
        field.error("is not supported yet", hint(off));
    }
}

fn is_off(field: &Field<'_>, off: Off) -> bool {
    match (&resolved(field.node.clone()).raw, off) {
        (Raw::Boolean(false), Off::False) => true,
        (Raw::Text(text), Off::False) => text == "false",
        _ => false,
    }
}

fn hint(off: Off) -> String {
    match off {
        Off::Never => "leave it out".to_owned(),
        Off::False => "leave it out, or say false".to_owned(),
    }
}
