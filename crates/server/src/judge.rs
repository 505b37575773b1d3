//! Judging tokens off the delivery path: on the threads that also do handshakes.

use std::sync::Arc;

use drawbridge_engine::io::{AuthFailure, Claims};

use crate::auth::Verifier;
use crate::clock::unix_ms;

/// Judges tokens; cheap to clone.
#[derive(Clone, Debug)]
pub struct Judge {
    verifier: Arc<Verifier>,
    front: tokio::runtime::Handle,
}

impl Judge {
    /// A judge that works on this runtime.
    pub fn new(verifier: Arc<Verifier>, front: tokio::runtime::Handle) -> Self {
        Judge { verifier, front }
    }

    /// Judges at once, on the calling thread.
    pub fn verify(&self, token: &str) -> Result<Claims, AuthFailure> {
        self.verifier.verify(token, unix_ms())
    }

    /// Judges elsewhere and hands the result to `answer`.
    pub fn judge(&self, token: String, answer: impl FnOnce(Result<Claims, AuthFailure>) + Send + 'static) {
        let judge = self.clone();
        self.front.spawn(async move { answer(judge.verify(&token)) });
    }
}
