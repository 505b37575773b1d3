//! Judging tokens off the delivery path: on the threads that also do handshakes.

use std::sync::Arc;

use drawbridge_engine::io::{AuthFailure, Claims};

use drawbridge_protocol::ErrorCode;

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

    /// Judges; costly signatures on a thread of their own.
    pub async fn verify(&self, token: String) -> Result<Claims, AuthFailure> {
        if !self.verifier.is_costly(&token) {
            return self.verifier.verify(&token, unix_ms());
        }
        let verifier = self.verifier.clone();
        let judged = self.front.spawn_blocking(move || verifier.verify(&token, unix_ms())).await;
        judged.unwrap_or_else(|error| {
            tracing::error!(%error, "judging a token failed");
            let message = "the token could not be judged".to_owned();
            Err(AuthFailure { code: ErrorCode::Internal, message })
        })
    }

    /// Judges elsewhere and hands the result to `answer`.
    pub fn judge(&self, token: String, answer: impl FnOnce(Result<Claims, AuthFailure>) + Send + 'static) {
        let judge = self.clone();
        self.front.spawn(async move { answer(judge.verify(token).await) });
    }
}
