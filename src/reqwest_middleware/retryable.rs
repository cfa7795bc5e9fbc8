//! [`AiutaRetryableStrategy`]: decides what `reqwest-retry` repeats.

use std::error::Error as StdError;

use http::Request;
use reqwest::Response;
use reqwest_middleware::{Error, Result};
use reqwest_retry::{DefaultRetryableStrategy, RetryError, Retryable, RetryableStrategy};

use crate::error::AuthError;
use crate::request::access::NoReplay;
use crate::request::operation::Operation;

/// Decides what [`reqwest-retry`](reqwest_retry) retries. Use it with
/// [`RetryTransientMiddleware::new_with_policy_and_strategy`][new], outside [`AiutaAuthMiddleware`][auth].
///
/// | result | retried |
/// |---|---|
/// | a transient [`AuthError`], also if a middleware between has wrapped it | yes: nothing was sent in this attempt |
/// | any other `AuthError` | no |
/// | a response to a request that starts an operation, or that has [`NoReplay`] | no |
/// | anything else | as [`DefaultRetryableStrategy`] decides: after 408, 429, 5xx, a timeout or a lost connection |
///
/// A request starts an operation if its method is not idempotent and it does not upload an image. The API has no
/// idempotency key, so a retry may start, and cost, a second operation.
///
/// # What it can't see
///
/// `reqwest-retry` shows a strategy only the result. **After a timeout or a lost connection the strategy does not know
/// the request, so `reqwest-retry` repeats it, even if it starts an operation or has `NoReplay`.** A client cannot know
/// whether such a request had arrived. Send requests that start an operation with a client without retries, or use
#[cfg_attr(feature = "retry", doc = "[`AiutaRetryPolicy`](crate::AiutaRetryPolicy)")]
#[cfg_attr(not(feature = "retry"), doc = "`AiutaRetryPolicy` (feature `retry`)")]
/// with tower's `Retry` instead.
///
/// [`AiutaAuthMiddleware`][auth] marks the responses. Inside that middleware no response is marked yet, and starts are
/// retried after a response, too. Between the retry middleware and `AiutaAuthMiddleware`, no middleware may send a
/// request more than once: it may have sent the request before the error.
///
/// # Examples
///
/// ```
/// use reqwest_middleware::ClientBuilder;
/// use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
/// use tower_aiuta_auth::{AiutaAuthLayer, AiutaRetryableStrategy, same_origin_redirects};
///
/// # fn main() -> Result<(), tower_aiuta_auth::BoxError> {
/// let backoff = ExponentialBackoff::builder().build_with_max_retries(2);
/// let retry = RetryTransientMiddleware::new_with_policy_and_strategy(backoff, AiutaRetryableStrategy);
/// let auth = AiutaAuthLayer::api_key("my-key")?.into_middleware();
/// let reqwest = reqwest::Client::builder().redirect(same_origin_redirects()).build()?;
///
/// let client = ClientBuilder::new(reqwest.clone()).with(retry).with(auth.clone()).build();
/// // Without retries, for requests that start an operation.
/// let start_client = ClientBuilder::new(reqwest).with(auth).build();
/// # Ok(())
/// # }
/// ```
///
/// [new]: reqwest_retry::RetryTransientMiddleware::new_with_policy_and_strategy
/// [auth]: crate::AiutaAuthMiddleware
#[derive(Clone, Copy, Debug, Default)]
pub struct AiutaRetryableStrategy;

impl RetryableStrategy for AiutaRetryableStrategy {
    fn handle(&self, result: &Result<Response>) -> Option<Retryable> {
        match result {
            Ok(response) if response.extensions().get::<NoRetry>().is_some() => None,
            Ok(_) => DefaultRetryableStrategy.handle(result),
            Err(error) => match auth_error(error) {
                Some(error) if error.is_transient() => Some(Retryable::Transient),
                Some(_) => Some(Retryable::Fatal),
                None => DefaultRetryableStrategy.handle(result),
            },
        }
    }
}

/// Response extension: the request must not be sent again after this response.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoRetry;

impl NoRetry {
    /// Returns the mark for the responses to this request, if they need one.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let is_sent_once = request.extensions().get::<NoReplay>().is_some()
            || Operation::of(request.method(), request.uri()) == Operation::Start;
        is_sent_once.then_some(Self)
    }

    pub(super) fn put(mark: Option<Self>, mut response: Response) -> Response {
        if let Some(mark) = mark {
            response.extensions_mut().insert(mark);
        }
        response
    }
}

/// Finds the layer's error, also where other middlewares have wrapped it.
fn auth_error(error: &Error) -> Option<&AuthError> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        // Two types are transparent: their `source` skips the error that they contain.
        next = match (error.downcast_ref(), error.downcast_ref()) {
            (Some(Error::Middleware(error)), _) => Some(error.as_ref()),
            (_, Some(RetryError::Error(error))) => Some(error),
            _ => error.source(),
        };
    }
    None
}
