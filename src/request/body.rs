//! [`RequestBody`], and the code that reads bodies: request bodies for [`layer`](crate::layer), small bodies with a
//! token or params for the issuer and the remote source.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

#[cfg(any(feature = "issuer", feature = "remote"))]
use bytes::BufMut;
use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use http_body::Body;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Either, Full, Limited};
#[cfg(any(feature = "issuer", feature = "remote"))]
use zeroize::Zeroizing;

use crate::error::{AuthError, BoxError};

/// A request body that can be rebuilt from bytes.
///
/// In the JWT scheme, the layer buffers some bodies, up to [`body_limit`](crate::AiutaAuthBuilder::body_limit), and
/// puts the bytes back as a new body of the same type:
///
/// - the body of a request that starts a try-on, to read its [params](crate::AuthParams), unless they are in the
///   request's extensions;
/// - the body of any other request with a token, to replay the request after a 401, if its size is known to be within
///   the limit.
///
/// All other bodies are streamed.
///
/// | body | feature |
/// |---|---|
/// | [`Full<Bytes>`](Full), [`BoxBody<Bytes, E>`](BoxBody), [`UnsyncBoxBody<Bytes, E>`](UnsyncBoxBody) | |
/// | [`Box<B>`](Box) and [`Limited<B>`](Limited), where `B` is a `RequestBody` | |
/// | [`Either<L, R>`](Either), where `L` is a `RequestBody` and `R` is any body with the same `Data` | |
/// | axum's `Body` | `axum` |
/// | reqwest's `Body` | `reqwest-middleware` |
///
/// Box any other body, such as hyper's `Incoming` or one with a mapped error, with
/// [`boxed_unsync`](http_body_util::BodyExt::boxed_unsync). A type that can't contain every sequence of bytes, such as
/// `String`, must not implement the trait: inside an `Either`, it would change the bytes of the other body.
///
/// # Examples
///
/// Implement the trait for a body type of your own:
///
/// ```
/// use bytes::Bytes;
/// use tower_aiuta_auth::RequestBody;
/// # use std::{convert::Infallible, pin::Pin, task::{Context, Poll}};
/// # use http_body::Frame;
/// # struct MyBody(Option<Bytes>);
/// # impl From<Bytes> for MyBody { fn from(bytes: Bytes) -> Self { Self(Some(bytes)) } }
/// # impl http_body::Body for MyBody {
/// #     type Data = Bytes;
/// #     type Error = Infallible;
/// #     fn poll_frame(
/// #         mut self: Pin<&mut Self>,
/// #         _: &mut Context<'_>,
/// #     ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
/// #         Poll::Ready(self.0.take().map(Frame::data).map(Ok))
/// #     }
/// # }
///
/// impl RequestBody for MyBody {
///     fn from_bytes(bytes: Bytes) -> Self { bytes.into() }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a request body that the layer can rebuild from bytes",
    label = "the layer may have to read this body and to send it again",
    note = "convert the body with `request.map(http_body_util::BodyExt::boxed_unsync)`, or use `Full<Bytes>`",
    note = "the body of axum needs the feature `axum`, that of reqwest needs the feature `reqwest-middleware`"
)]
pub trait RequestBody: Body {
    /// Creates a body that yields exactly these bytes, without trailers.
    fn from_bytes(bytes: Bytes) -> Self;

    /// Returns whether all bytes of the body are already in memory. If so, the body can be read without waiting and
    /// without a runtime.
    ///
    /// The default implementation returns `true` only for a body that is at its end, such as an empty one.
    fn is_buffered(&self) -> bool {
        self.is_end_stream()
    }

    /// Clones the body, so that a retry policy can send the request again. Returns `None` if the body can be read only
    /// once.
    ///
    /// The default implementation clones only a body that is at its end, such as an empty one. Override it if the type
    /// can clone its data.
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

    fn is_buffered(&self) -> bool {
        true
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

impl<B: RequestBody + Unpin> RequestBody for Box<B> {
    fn from_bytes(bytes: Bytes) -> Self {
        Self::new(B::from_bytes(bytes))
    }

    fn is_buffered(&self) -> bool {
        (**self).is_buffered()
    }

    fn try_clone(&self) -> Option<Self> {
        (**self).try_clone().map(Self::new)
    }
}

/// The new body's limit is its own length, because the bytes were within the old limit when they were read.
impl<B> RequestBody for Limited<B>
where
    B: RequestBody,
    B::Error: Into<BoxError>,
{
    fn from_bytes(bytes: Bytes) -> Self {
        let limit = bytes.len();
        Self::new(B::from_bytes(bytes), limit)
    }
}

/// The new body is always [`Either::Left`].
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

    fn is_buffered(&self) -> bool {
        match self {
            Self::Left(body) => body.is_buffered(),
            Self::Right(body) => body.is_end_stream(),
        }
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

    fn is_buffered(&self) -> bool {
        self.as_bytes().is_some()
    }

    fn try_clone(&self) -> Option<Self> {
        self.as_bytes().map(|bytes| Bytes::copy_from_slice(bytes).into())
    }
}

/// Copies the method, URI, version, headers and extensions into a request with another body.
pub(crate) fn copy_head<B, C>(request: &Request<B>, body: C) -> Request<C> {
    let mut copy = Request::new(body);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    copy
}

/// Reads a whole body of at most `limit` bytes. The result is wiped from memory when it is dropped, since it may
/// contain a token.
#[cfg(any(feature = "issuer", feature = "remote"))]
pub(crate) async fn read_limited<B: Body>(body: B, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError<B::Error>> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge);
    }
    let mut body = std::pin::pin!(body);
    // The full capacity is allocated at once, because a vector that grows leaves copies of its content in freed memory.
    let expected = body.size_hint().upper().and_then(|upper| usize::try_from(upper).ok());
    let mut read = Zeroizing::new(Vec::with_capacity(expected.map_or(limit, |expected| expected.min(limit))));
    while let Some(frame) = body.frame().await {
        // Trailers are ignored.
        if let Ok(data) = frame.map_err(ReadError::Failed)?.into_data() {
            if data.remaining() > limit - read.len() {
                return Err(ReadError::TooLarge);
            }
            read.put(data);
        }
    }
    Ok(read)
}

/// Returned by [`read_limited`] when a body can't be read.
#[cfg(any(feature = "issuer", feature = "remote"))]
pub(crate) enum ReadError<E> {
    TooLarge,
    Failed(E),
}

/// Reads a whole request body of at most `limit` bytes. It can be polled from [`call`](tower_service::Service::call)
/// and continued in the response future.
pub(crate) struct BodyReader {
    limit: usize,
    buffer: Buffer,
}

enum Buffer {
    Empty,
    /// A single frame, which is kept without copying.
    Single(Bytes),
    Joined(BytesMut),
}

impl BodyReader {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, buffer: Buffer::Empty }
    }

    /// Reads from the body, and returns all its bytes once it has ended.
    ///
    /// # Errors
    ///
    /// Returns `BodyTooLarge` if the body exceeds the limit. Returns `InvalidBody` if the body fails, or if it has
    /// trailers, because a new `RequestBody` would lose them.
    pub(crate) fn poll<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<Bytes, AuthError>>
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        if self.would_exceed_limit(body.size_hint().lower()) {
            return Poll::Ready(Err(AuthError::body_too_large()));
        }
        while let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) {
            let frame = frame.map_err(|error| AuthError::body_failed(error.into()))?;
            let Ok(mut data) = frame.into_data() else {
                return Poll::Ready(Err(AuthError::invalid_body(
                    "the body has trailers, which would be lost because the body has to be buffered; \
                     insert `AuthParams` and `NoReplay` into the request's extensions, so that it is streamed",
                )));
            };
            if self.would_exceed_limit(data.remaining() as u64) {
                return Poll::Ready(Err(AuthError::body_too_large()));
            }
            self.push(&mut data);
        }
        Poll::Ready(Ok(match std::mem::replace(&mut self.buffer, Buffer::Empty) {
            Buffer::Empty => Bytes::new(),
            Buffer::Single(bytes) => bytes,
            Buffer::Joined(bytes) => bytes.freeze(),
        }))
    }

    fn would_exceed_limit(&self, additional: u64) -> bool {
        let buffered = match &self.buffer {
            Buffer::Empty => 0,
            Buffer::Single(bytes) => bytes.len(),
            Buffer::Joined(bytes) => bytes.len(),
        };
        additional > (self.limit - buffered) as u64
    }

    fn push(&mut self, data: &mut impl Buf) {
        match &mut self.buffer {
            Buffer::Empty => self.buffer = Buffer::Single(data.copy_to_bytes(data.remaining())),
            Buffer::Single(first) => {
                let mut bytes = BytesMut::with_capacity(first.len() + data.remaining());
                bytes.extend_from_slice(first);
                bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
                self.buffer = Buffer::Joined(bytes);
            }
            Buffer::Joined(bytes) => bytes.extend_from_slice(&data.copy_to_bytes(data.remaining())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rebuilds a body as the layer does, and returns it with its bytes.
    fn rebuild<B>(mut body: B) -> (B, Bytes)
    where
        B: RequestBody + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Ok(bytes)) = BodyReader::new(64).poll(&mut body, &mut cx) else { panic!("known bytes") };
        (B::from_bytes(bytes.clone()), bytes)
    }

    fn assert_rebuilt<B>(body: B)
    where
        B: RequestBody + Unpin,
        B::Error: Into<BoxError>,
    {
        let (body, bytes) = rebuild(body);
        assert_eq!((bytes, rebuild(body).1), (Bytes::from("hello"), Bytes::from("hello")));
    }

    #[test]
    fn wrapped_bodies_are_rebuilt_from_their_bytes() {
        let full = Full::new(Bytes::from("hello"));
        assert_rebuilt(full.clone());
        assert_rebuilt(Box::new(full.clone()));
        assert_rebuilt(Limited::new(full.clone(), 5));
        assert_rebuilt(Limited::new(Box::new(full.clone()), 64));
        assert_rebuilt(Either::<_, Full<Bytes>>::Left(Limited::new(full.clone(), 5)));
        assert_rebuilt(Either::<Box<Full<Bytes>>, _>::Right(full));
    }

    #[test]
    fn boxed_body_is_cloned_if_its_content_can_be() {
        let clone = RequestBody::try_clone(&Box::new(Full::new(Bytes::from("hello")))).unwrap();
        assert_eq!(rebuild(clone).1, "hello");
        let stream = Box::new(UnsyncBoxBody::new(Full::new(Bytes::from("hello"))));
        assert!(RequestBody::try_clone(&stream).is_none());
    }
}
