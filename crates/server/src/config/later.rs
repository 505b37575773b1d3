//! Keys of the contract that are not implemented yet. They are known by name and refused, so that no one relies on what does
//! not work.

use super::reader::Section;

/// Refuses the key by name.
pub(super) fn refuse(section: &Section<'_>, key: &str) {
    if let Some(field) = section.field(key) {
        field.error("is not supported yet", "leave it out");
    }
}
