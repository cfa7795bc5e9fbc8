//! What [`AiutaRetryPolicy`](crate::AiutaRetryPolicy) knows about a request that failed: whether the layer has sent it
//! (rule F6).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;

/// Whether one of the attempts that share this mark was sent. A request extension.
#[derive(Clone, Debug, Default)]
pub(crate) struct SentMark(Arc<AtomicBool>);

impl SentMark {
    /// Sets the mark of a request that is about to be sent, if it has one.
    pub(crate) fn set_in<B>(request: &Request<B>) {
        if let Some(mark) = request.extensions().get::<Self>() {
            mark.set();
        }
    }

    pub(crate) fn set(&self) {
        // `Relaxed` suffices: the result of the attempt reaches the policy after the mark, by the same future.
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Distinguishes the request that the policy keeps from other requests that a middleware below it sends, such as the
/// next hop of a redirect.
pub(crate) fn fingerprint<B>(request: &Request<B>) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.method().hash(&mut hasher);
    request.uri().hash(&mut hasher);
    hasher.finish()
}
