//! A request body: known bytes, or a stream of chunks whose size is unknown.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_aiuta_auth::RequestBody;

#[derive(Clone, Default)]
pub(crate) struct TestBody {
    chunks: VecDeque<Bytes>,
    is_stream: bool,
    /// Whether the stream has returned `Pending` before its next chunk, which it does once per chunk.
    waited: bool,
}

impl TestBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self {
            chunks: if bytes.is_empty() { VecDeque::new() } else { [bytes].into() },
            is_stream: false,
            waited: false,
        }
    }

    pub(crate) fn stream(bytes: &Bytes, size: usize) -> Self {
        let chunks = (0..bytes.len()).step_by(size).map(|at| bytes.slice(at..bytes.len().min(at + size))).collect();
        Self { chunks, is_stream: true, waited: false }
    }
}

impl RequestBody for TestBody {
    fn from_bytes(bytes: Bytes) -> Self {
        Self::whole(bytes)
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_stream && !self.waited {
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        Poll::Ready(self.chunks.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_stream {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.chunks.iter().map(|chunk| chunk.len() as u64).sum())
    }
}

/// Returns the digest that both ends compare bodies by.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
