//! [`RequestBody`]: a body that the layer can read and put back, and the reading itself.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

#[cfg(any(feature = "issuer", feature = "remote"))]
use bytes::BufMut;
use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use http_body::Body;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Either, Full};
#[cfg(any(feature = "issuer", feature = "remote"))]
use zeroize::Zeroizing;

use crate::error::{AuthError, BoxError};

/// A request body that can be made from bytes, so that the layer can put back what it had to read (rule B2).
///
/// The layer reads the body of the two requests that start a try-on, to know what the token is to be made for, and keeps small bodies
/// that may have to be sent again. All others stream through.
///
/// Implemented for [`Full<Bytes>`](Full), [`BoxBody`] and [`UnsyncBoxBody`] of `Bytes`, and [`Either`] of such a body and any other;
/// with the feature `axum` for axum's `Body`, with `reqwest-middleware` for reqwest's. For a body of your own:
///
/// ```
/// use bytes::Bytes;
/// use tower_aiuta_auth::RequestBody;
/// # use std::{convert::Infallible, pin::Pin, task::{Context, Poll}};
/// # struct MyBody(Option<Bytes>);
/// # impl From<Bytes> for MyBody { fn from(bytes: Bytes) -> Self { Self(Some(bytes)) } }
/// # impl http_body::Body for MyBody {
/// #     type Data = Bytes;
/// #     type Error = Infallible;
/// #     fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> { Poll::Ready(None) }
/// # }
///
/// impl RequestBody for MyBody {
///     fn from_bytes(bytes: Bytes) -> Self { bytes.into() }
/// }
/// ```
pub trait RequestBody: Body {
    /// A body of exactly these bytes.
    fn from_bytes(bytes: Bytes) -> Self;

    /// The same body once more, for a request that may have to be repeated; `None` if it can be read only once.
    ///
    /// Unless a type knows better, that is every body that is not at its end already.
    fn try_clone(&self) -> Option<Self>
    where
        Self: Sized,
    {
        self.is_end_stream().then(|| Self::from_bytes(Bytes::new()))
    }
}

impl RequestBody for Full<Bytes> {
    fn from_bytes(bytes: Bytes) -> Self {
        Self::new(bytes)
    }

    fn try_clone(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl<E: 'static> RequestBody for BoxBody<Bytes, E> {
    fn from_bytes(bytes: Bytes) -> Self {
        Full::new(bytes).map_err(|never| match never {}).boxed()
    }
}

impl<E: 'static> RequestBody for UnsyncBoxBody<Bytes, E> {
    fn from_bytes(bytes: Bytes) -> Self {
        Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
    }
}

/// As the left one.
impl<L, R> RequestBody for Either<L, R>
where
    L: RequestBody,
    R: Body<Data = L::Data>,
    L::Error: Into<BoxError>,
    R::Error: Into<BoxError>,
{
    fn from_bytes(bytes: Bytes) -> Self {
        Self::Left(L::from_bytes(bytes))
    }

    fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Left(body) => body.try_clone().map(Self::Left),
            Self::Right(body) => body.is_end_stream().then(|| Self::from_bytes(Bytes::new())),
        }
    }
}

#[cfg(feature = "axum")]
impl RequestBody for axum_core::body::Body {
    fn from_bytes(bytes: Bytes) -> Self {
        bytes.into()
    }
}

#[cfg(feature = "reqwest-middleware")]
impl RequestBody for reqwest::Body {
    fn from_bytes(bytes: Bytes) -> Self {
        bytes.into()
    }

    fn try_clone(&self) -> Option<Self> {
        self.as_bytes().map(|bytes| Bytes::copy_from_slice(bytes).into())
    }
}

/// The same method, URI, version, headers and extensions, with another body.
pub(crate) fn copy_head<B, C>(request: &Request<B>, body: C) -> Request<C> {
    let mut copy = Request::new(body);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    copy
}

/// Reads a body of at most `limit` bytes to its end. It may hold a token, so what was read is wiped when it is dropped.
#[cfg(any(feature = "issuer", feature = "remote"))]
pub(crate) async fn read_limited<B: Body>(body: B, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError<B::Error>> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge);
    }
    let mut body = std::pin::pin!(body);
    // All of it at once: a vector that grows leaves copies behind.
    let expected = body.size_hint().upper().and_then(|upper| usize::try_from(upper).ok());
    let mut read = Zeroizing::new(Vec::with_capacity(expected.map_or(limit, |expected| expected.min(limit))));
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that is needed.
        if let Ok(data) = frame.map_err(ReadError::Failed)?.into_data() {
            if data.remaining() > limit - read.len() {
                return Err(ReadError::TooLarge);
            }
            read.put(data);
        }
    }
    Ok(read)
}

/// Why [`read_limited`] gave up.
#[cfg(any(feature = "issuer", feature = "remote"))]
pub(crate) enum ReadError<E> {
    TooLarge,
    Failed(E),
}

/// Reads a body to its end.
pub(crate) struct BodyReader {
    limit: usize,
    read: Read,
}

enum Read {
    Nothing,
    /// One frame: no need to copy it.
    One(Bytes),
    More(BytesMut),
}

impl BodyReader {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, read: Read::Nothing }
    }

    /// Reads on; all bytes once the body has ended.
    ///
    /// # Errors
    ///
    /// `BodyTooLarge` over the limit, `InvalidBody` for trailers, which could not be put back, and for an error of the body.
    pub(crate) fn poll<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<Bytes, AuthError>>
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        if self.over_limit(body.size_hint().lower()) {
            return Poll::Ready(Err(AuthError::body_too_large()));
        }
        while let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) {
            let frame = frame.map_err(|error| AuthError::body_failed(error.into()))?;
            let Ok(mut data) = frame.into_data() else {
                return Poll::Ready(Err(AuthError::invalid_body(
                    "the body has trailers, which would be lost: put `AuthParams` and `NoReplay` into the request's extensions",
                )));
            };
            if self.over_limit(data.remaining() as u64) {
                return Poll::Ready(Err(AuthError::body_too_large()));
            }
            self.take(&mut data);
        }
        Poll::Ready(Ok(match std::mem::replace(&mut self.read, Read::Nothing) {
            Read::Nothing => Bytes::new(),
            Read::One(bytes) => bytes,
            Read::More(bytes) => bytes.freeze(),
        }))
    }

    /// Whether so many bytes more would be too many.
    fn over_limit(&self, more: u64) -> bool {
        let read = match &self.read {
            Read::Nothing => 0,
            Read::One(bytes) => bytes.len(),
            Read::More(bytes) => bytes.len(),
        };
        more > (self.limit - read) as u64
    }

    fn take(&mut self, data: &mut impl Buf) {
        match &mut self.read {
            Read::Nothing => self.read = Read::One(data.copy_to_bytes(data.remaining())),
            Read::One(first) => {
                let mut bytes = BytesMut::with_capacity(first.len() + data.remaining());
                bytes.extend_from_slice(first);
                bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
                self.read = Read::More(bytes);
            }
            Read::More(bytes) => bytes.extend_from_slice(&data.copy_to_bytes(data.remaining())),
        }
    }
}
