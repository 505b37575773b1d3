//! How a node proves to the others that it lives.

use std::sync::Arc;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Names this start of the node, and no other start of any node.
    pub instance: Arc<str>,
    /// How long a session can be resumed behind the death of its node, or its end.
    pub resume_window: Duration,
}

impl LeaseSettings {
    /// With the times that all nodes of an environment share.
    pub fn new(instance: Arc<str>, resume_window: Duration) -> Self {
        LeaseSettings { instance, resume_window }
    }
}
