//! [`AiutaRetryPolicy`]: decides whether and when a request is retried. It is used in tower's `Retry`, outside the
//! layer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::time::{Sleep, sleep};
use tower::retry::Policy;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::{Budget, TpsBudget};
use tower::util::rng::HasherRng;

use crate::clock::{Clock, SystemClock};
use crate::error::{AuthError, BoxError, ConfigError};
use crate::request::access::NoReplay;
use crate::request::body::{RequestBody, copy_head};
use crate::request::headers::retry_after;
use crate::request::operation::Operation;
use crate::request::sent::{self, SentMark};

/// Maximum jitter, as a fraction of the wait that it is added to.
const JITTER: f64 = 0.5;

/// A policy for [tower's `Retry`](tower::retry::Retry) that avoids paying for a try-on twice.
///
/// The number of retries depends on whether the request may have been sent, and on the request:
///
/// | request | retries | retried after |
/// |---|---|---|
/// | any request, while no attempt was sent | [2](Self::read_retries) | a transient [`AuthError`] |
/// | reads, polls, others that are idempotent (RFC 9110 §9.2.2) | [2](Self::read_retries) | 408, 429, 5xx or an error |
/// | uploads | [2](Self::upload_retries) | 408, 429, 5xx or an error |
/// | all others, which start an operation | [0](Self::start_retries) | an error only |
/// | requests with [`NoReplay`], once an attempt was sent | 0 | |
///
/// Aiuta documents these numbers of retries for its SDKs. The API has no idempotency key for starting an operation, so
/// a retry may start, and cost, a second operation. The retry of an upload may store the image again, which costs
/// nothing. If a token could not be fetched, nothing was sent, so that any request can be retried. All retries of a
/// request count towards the same number.
///
/// - If a response has `Retry-After`, the policy waits for that time. If the time is longer than
///   [`max_retry_after`](Self::max_retry_after), it returns the response instead. Without `Retry-After` it uses
///   exponential [backoff](Self::backoff) with jitter.
/// - An [`AuthError`] is retried only if it [is transient](AuthError::is_transient), after its
///   [`retry_after`](AuthError::retry_after) if it has one. Any other error of the client is retried.
/// - A [budget](Self::budget), shared by all clones, limits the load that retries add during an outage.
/// - A request whose body can't be [cloned](RequestBody::try_clone) is sent once.
///
/// Put the policy outside the layer, so that each attempt is authenticated again, and outside the timeout of a single
/// attempt. It requires a tokio runtime with timers enabled.
///
/// The policy recognizes an attempt that was not sent by the layer's `AuthError` and by a mark in the request's
/// extensions. Middlewares between the policy and the layer should therefore keep the method, the URI and the
/// extensions. If one of them changes the method or the URI, the policy assumes that the request was sent, and does not
/// retry a request that starts an operation. If one of them sends requests again, as another retry does, the policy
/// can't see this in the first attempt.
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, retry::RetryLayer, timeout::TimeoutLayer};
/// use tower_aiuta_auth::{AiutaAuthLayer, AiutaRetryPolicy};
/// # use http::{Request, Response};
/// # type Body = http_body_util::Full<bytes::Bytes>;
/// # use tower_aiuta_auth::BoxError;
/// # let http_client = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(())) });
///
/// let retry = AiutaRetryPolicy::new().read_retries(5).backoff(Duration::from_millis(200), Duration::from_secs(5))?;
/// let client = ServiceBuilder::new()
///     .layer(RetryLayer::new(retry))
///     .layer(AiutaAuthLayer::api_key("my-key")?)
///     .layer(TimeoutLayer::new(Duration::from_secs(10)))
///     .service(http_client);
/// # fn is_service<S: tower::Service<Request<Body>>>(_: S) {}
/// # is_service(client);
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct AiutaRetryPolicy {
    read_retries: u32,
    upload_retries: u32,
    start_retries: u32,
    min_backoff: Duration,
    max_backoff: Duration,
    max_retry_after: Duration,
    budget: Arc<dyn Budget + Send + Sync>,
    /// Retries of the current request. Tower clones the policy for each request.
    retries: u32,
    backoff: Option<ExponentialBackoff>,
}

impl AiutaRetryPolicy {
    /// Creates a policy with the defaults: two retries for reads and uploads, none for requests that start an
    /// operation, waits from 1 s to 8 s, a `Retry-After` of up to 30 s, and tower's default budget.
    #[must_use]
    pub fn new() -> Self {
        Self {
            read_retries: 2,
            upload_retries: 2,
            start_retries: 0,
            min_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(30),
            budget: Arc::new(TpsBudget::default()),
            retries: 0,
            backoff: None,
        }
    }

    /// Sets the maximum number of retries for reads, polls and other idempotent requests, and for any request that was
    /// not sent because its token could not be fetched. Defaults to 2.
    #[must_use]
    pub fn read_retries(self, extra_attempts: u32) -> Self {
        Self { read_retries: extra_attempts, ..self }
    }

    /// Sets the maximum number of retries for uploads. Defaults to 2.
    #[must_use]
    pub fn upload_retries(self, extra_attempts: u32) -> Self {
        Self { upload_retries: extra_attempts, ..self }
    }

    /// Sets the maximum number of retries for requests that start an operation. Defaults to 0.
    ///
    /// Such a request is retried only after an error, never after a response. Each retry may start, and cost, another
    /// operation: if a connection is lost, the client can't know whether the request had arrived. A request that was
    /// not sent is retried without this setting, as often as [`read_retries`](Self::read_retries) allows.
    #[must_use]
    pub fn start_retries(self, extra_attempts: u32) -> Self {
        Self { start_retries: extra_attempts, ..self }
    }

    /// Sets the first and the longest wait before a retry. Defaults to 1 s and 8 s.
    ///
    /// Each wait is twice as long as the previous one, up to `max`. Random jitter of up to half the wait is added.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if `max` is zero or shorter than `min`.
    pub fn backoff(self, min: Duration, max: Duration) -> Result<Self, ConfigError> {
        if max.is_zero() || min > max {
            return Err(ConfigError::new("backoff", "`max` must be greater than zero and not shorter than `min`"));
        }
        Ok(Self { min_backoff: min, max_backoff: max, ..self })
    }

    /// Sets the longest `Retry-After` that the policy waits for. Defaults to 30 s.
    #[must_use]
    pub fn max_retry_after(self, max: Duration) -> Self {
        Self { max_retry_after: max, ..self }
    }

    /// Sets the budget that limits retries, shared by all clones. Defaults to [`TpsBudget::default`].
    #[must_use]
    pub fn budget(self, budget: impl Budget + Send + Sync + 'static) -> Self {
        Self { budget: Arc::new(budget), ..self }
    }

    fn max_retries<B>(&self, request: &Request<B>, operation: Operation, was_sent: bool) -> u32 {
        match operation {
            _ if !was_sent => self.read_retries,
            _ if request.extensions().get::<NoReplay>().is_some() => 0,
            Operation::Idempotent => self.read_retries,
            Operation::Upload => self.upload_retries,
            Operation::Start => self.start_retries,
        }
    }

    /// Returns the wait before the next attempt, or `None` if it would be too long.
    fn wait(&mut self, delay: Delay) -> Option<Sleep> {
        match delay {
            Delay::RetryAfter(delay) => (delay <= self.max_retry_after).then(|| sleep(delay)),
            Delay::Backoff => {
                if self.backoff.is_none() {
                    // Each request has its own random generator, because clones of one would produce the same waits.
                    // The first wait must not be a whole number of seconds: for those, tower rounds the jitter down to
                    // whole seconds, which is often zero.
                    let rng = HasherRng::new();
                    let min = self.min_backoff.saturating_sub(Duration::from_millis(1));
                    let maker = ExponentialBackoffMaker::new(min, self.max_backoff, JITTER, rng);
                    self.backoff = maker.ok().map(|mut maker| maker.make_backoff());
                }
                self.backoff.as_mut().map(Backoff::next_backoff)
            }
        }
    }
}

impl Default for AiutaRetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: RequestBody, R> Policy<Request<B>, Response<R>, BoxError> for AiutaRetryPolicy {
    type Future = Sleep;

    fn retry(&mut self, request: &mut Request<B>, result: &mut Result<Response<R>, BoxError>) -> Option<Sleep> {
        let was_sent = note_sent(request, result);
        let operation = Operation::of(request.method(), request.uri());
        let Some(delay) = retry_delay(operation, result) else {
            self.budget.deposit();
            return None;
        };
        if self.retries >= self.max_retries(request, operation, was_sent) {
            return None;
        }
        let wait = self.wait(delay)?;
        if !self.budget.withdraw() {
            return None;
        }
        self.retries += 1;
        Some(wait)
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        let mut copy = copy_head(request, request.body().try_clone()?);
        copy.extensions_mut().get_or_insert_default::<SentMark>();
        Some(copy)
    }
}

/// Returns whether an attempt may have been sent, this one or an earlier one (rule F6).
///
/// The layer sets the mark of an attempt that it sends. But tower's `Retry` sends the original request first, and the
/// policy can only put a mark into the copies. So the result is judged, too: only the layer's error about this very
/// request shows that the attempt was not sent. After an error about another request, such as the next hop of a
/// redirect, this one may have been sent.
fn note_sent<B, R>(request: &Request<B>, result: &mut Result<Response<R>, BoxError>) -> bool {
    let error = result.as_mut().err().and_then(|error| error.downcast_mut::<AuthError>());
    let is_unsent = error.as_ref().is_some_and(|error| error.unsent_request() == Some(sent::fingerprint(request)));
    // Every request that the policy keeps has a mark.
    let mark = request.extensions().get::<SentMark>();
    if !is_unsent && let Some(mark) = mark {
        mark.set();
    }
    let was_sent = mark.is_none_or(SentMark::is_set);
    if was_sent && let Some(error) = error {
        // Another policy outside this one must not conclude from the last attempt that nothing was sent.
        error.clear_unsent_request();
    }
    was_sent
}

/// The time to wait before a retry.
enum Delay {
    Backoff,
    /// Requested by the server or the token source.
    RetryAfter(Duration),
}

impl From<Option<Duration>> for Delay {
    fn from(delay: Option<Duration>) -> Self {
        delay.map_or(Self::Backoff, Self::RetryAfter)
    }
}

/// Returns the wait before a retry, or `None` if this result is not retried. Does not check the number of retries.
fn retry_delay<R>(operation: Operation, result: &Result<Response<R>, BoxError>) -> Option<Delay> {
    match result {
        Ok(_) if operation == Operation::Start => None,
        Ok(response) => {
            let status = response.status();
            let retryable = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            retryable.then(|| retry_after(response.headers(), SystemClock.now()).into())
        }
        Err(error) => match error.downcast_ref::<AuthError>() {
            Some(error) => error.is_transient().then(|| error.retry_after().into()),
            None => Some(Delay::Backoff),
        },
    }
}

impl fmt::Debug for AiutaRetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AiutaRetryPolicy")
            .field("read_retries", &self.read_retries)
            .field("upload_retries", &self.upload_retries)
            .field("start_retries", &self.start_retries)
            .field("backoff", &(self.min_backoff, self.max_backoff))
            .field("max_retry_after", &self.max_retry_after)
            .finish_non_exhaustive()
    }
}
