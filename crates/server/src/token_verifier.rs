//! Verifies tokens off the delivery path: on the threads that also do handshakes. Owns which [`Verifier`] is in use: a
//! reload replaces it, and each token is verified by one verifier from beginning to end.

use std::sync::{Arc, PoisonError, RwLock};

use drawbridge_engine::io::{AuthFailure, Claims};

use drawbridge_protocol::ErrorCode;

use crate::auth::Verifier;
use crate::clock::unix_ms;

/// Verifies tokens; cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenVerifier {
    verifier: Arc<RwLock<Arc<Verifier>>>,
    front: tokio::runtime::Handle,
}

impl TokenVerifier {
    /// Verifies on this runtime.
    pub fn new(verifier: Arc<Verifier>, front: tokio::runtime::Handle) -> Self {
        TokenVerifier { verifier: Arc::new(RwLock::new(verifier)), front }
    }

    /// The verifier in use.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.verifier.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses this verifier from now on; tokens that are being verified keep the previous one.
    pub fn replace(&self, verifier: Verifier) {
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(verifier);
    }

    /// Verifies a token; costly signatures on another thread.
    pub async fn verify(&self, token: String) -> Result<Claims, AuthFailure> {
        let verifier = self.verifier();
        if !verifier.is_costly(&token) {
            return verifier.verify(&token, unix_ms());
        }
        let verified = self.front.spawn_blocking(move || verifier.verify(&token, unix_ms())).await;
        verified.unwrap_or_else(|error| {
            tracing::error!(%error, "verifying a token failed");
            Err(AuthFailure::new(ErrorCode::Internal, "the token could not be verified"))
        })
    }

    /// Verifies on another thread and passes the result to `answer`.
    pub fn verify_in_background(
        &self,
        token: String,
        answer: impl FnOnce(Result<Claims, AuthFailure>) + Send + 'static,
    ) {
        let token_verifier = self.clone();
        self.front.spawn(async move { answer(token_verifier.verify(token).await) });
    }
}
