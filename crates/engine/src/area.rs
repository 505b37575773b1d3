//! Areas of interest: placeholder until the module lands.

/// A place in the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Up or down, as the game has it.
    pub y: f64,
}
