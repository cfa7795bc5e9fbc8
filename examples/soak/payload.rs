//! A body in one piece, or in many that come one by one and whose size nobody says.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_aiuta_auth::RequestBody;

#[derive(Clone, Default)]
pub(crate) struct Payload {
    pieces: VecDeque<Bytes>,
    streams: bool,
    /// Before each piece of a stream comes a turn in which there is nothing yet.
    waited: bool,
}

impl Payload {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { pieces: if bytes.is_empty() { VecDeque::new() } else { [bytes].into() }, streams: false, waited: false }
    }

    pub(crate) fn stream(bytes: &Bytes, piece: usize) -> Self {
        let pieces = (0..bytes.len()).step_by(piece).map(|at| bytes.slice(at..bytes.len().min(at + piece))).collect();
        Self { pieces, streams: true, waited: false }
    }
}

impl RequestBody for Payload {
    fn from_bytes(bytes: Bytes) -> Self {
        Self::whole(bytes)
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.streams && !self.waited {
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.streams {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// What bodies are compared by, at either end.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
