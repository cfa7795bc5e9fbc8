//! [`AiutaRetryPolicy`]: which of Aiuta's calls may be repeated, and when. It stands outside the layer, in tower's `Retry`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri};
use tokio::time::{Sleep, sleep};
use tower::retry::Policy;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::{Budget, TpsBudget};
use tower::util::rng::HasherRng;

use crate::clock::{Clock, SystemClock};
use crate::error::{AuthError, BoxError, ConfigError};
use crate::request::access::uploads_image;
use crate::request::body::{RequestBody, copy_head};
use crate::request::headers::retry_after;

/// How much of a wait is left to chance, at most, on top of it.
const JITTER: f64 = 0.5;

/// A policy for [tower's `Retry`](tower::retry::Retry) that knows which calls cost money.
///
/// | call | extra attempts | after |
/// |---|---|---|
/// | reads and polls, and everything else that is idempotent (RFC 9110 §9.2.2) | 2 | 408, 429, 5xx, an error of the client |
/// | uploads | 2 | the same: a second copy costs nothing but space |
/// | everything else: what starts an operation | 0 | if [settable](Self::start_retries) at all, an error of the client |
///
/// These are the numbers that Aiuta documents for its SDKs. Starting an operation has no idempotency key, so that a repetition may cost twice.
///
/// - `Retry-After` is obeyed; if it asks for more than [`max_retry_after`](Self::max_retry_after), the answer is returned. Without it the wait
///   doubles from one attempt to the next, with jitter.
/// - An [`AuthError`] is worth another attempt if it [is transient](AuthError::is_transient).
/// - A [budget](Self::budget), shared by all clones, keeps retries from adding to an outage.
/// - A body that can't be [cloned](RequestBody::try_clone) is sent once, unchanged.
///
/// Put it outside the layer, so that each attempt is authenticated anew, and outside of a timeout for one attempt. Needs tokio's timers.
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, retry::RetryLayer, timeout::TimeoutLayer};
/// use tower_aiuta_auth::{AiutaAuthLayer, AiutaRetryPolicy};
/// # use http::{Request, Response};
/// # type Body = http_body_util::Full<bytes::Bytes>;
/// # let http_client = tower::service_fn(|_: Request<Body>| async { Ok::<_, tower_aiuta_auth::BoxError>(Response::new(())) });
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
    /// Of one request: tower clones the policy for each.
    retries: u32,
    backoff: Option<ExponentialBackoff>,
}

impl AiutaRetryPolicy {
    /// The defaults: two extra attempts for reads and uploads, none for what starts an operation; waits from 1 s to 8 s; a `Retry-After` of up to
    /// 30 s; tower's default budget.
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

    /// Extra attempts for reads, polls and other idempotent requests. Default: 2.
    #[must_use]
    pub fn read_retries(self, extra_attempts: u32) -> Self {
        Self { read_retries: extra_attempts, ..self }
    }

    /// Extra attempts for uploads. Default: 2.
    #[must_use]
    pub fn upload_retries(self, extra_attempts: u32) -> Self {
        Self { upload_retries: extra_attempts, ..self }
    }

    /// Extra attempts for what starts an operation, after an error of the client; never after an answer. Default: 0.
    ///
    /// Each may start, and cost, another operation: a connection that was lost does not tell whether the request had arrived.
    #[must_use]
    pub fn start_retries(self, extra_attempts: u32) -> Self {
        Self { start_retries: extra_attempts, ..self }
    }

    /// The first wait, and the longest. Each is twice the last, and up to half as long again by chance. Default: 1 s and 8 s.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the longest is zero or shorter than the first.
    pub fn backoff(self, min: Duration, max: Duration) -> Result<Self, ConfigError> {
        if max.is_zero() || min > max {
            return Err(ConfigError::new(
                "backoff",
                "the longest wait must be over zero, and not shorter than the first",
            ));
        }
        Ok(Self { min_backoff: min, max_backoff: max, ..self })
    }

    /// The longest `Retry-After` that is waited for. Default: 30 s.
    #[must_use]
    pub fn max_retry_after(self, max: Duration) -> Self {
        Self { max_retry_after: max, ..self }
    }

    /// What limits the share of retries, for all clones together. Default: [`TpsBudget::default`].
    #[must_use]
    pub fn budget(self, budget: impl Budget + Send + Sync + 'static) -> Self {
        Self { budget: Arc::new(budget), ..self }
    }

    fn extra_attempts(&self, call: Call) -> u32 {
        match call {
            Call::Idempotent => self.read_retries,
            Call::Upload => self.upload_retries,
            Call::Start => self.start_retries,
        }
    }

    /// The wait before the next attempt, if there is to be one.
    fn wait(&mut self, wanted: Wanted) -> Option<Sleep> {
        match wanted {
            Wanted::In(delay) => (delay <= self.max_retry_after).then(|| sleep(delay)),
            Wanted::Backoff => {
                if self.backoff.is_none() {
                    // A generator of its own for each request: clones of one would all wait for the same time. And no whole number of
                    // seconds: tower's jitter rounds its share of them down to whole seconds, which for a few is none.
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
        let call = Call::of(request.method(), request.uri());
        let Some(wanted) = another_attempt(call, result) else {
            self.budget.deposit();
            return None;
        };
        if self.retries >= self.extra_attempts(call) {
            return None;
        }
        let wait = self.wait(wanted)?;
        if !self.budget.withdraw() {
            return None;
        }
        self.retries += 1;
        Some(wait)
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(copy_head(request, request.body().try_clone()?))
    }
}

/// What a repetition of a call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// Nothing that the first did not.
    Idempotent,
    /// Store an image twice.
    Upload,
    /// Cost twice.
    Start,
}

impl Call {
    fn of(method: &Method, uri: &Uri) -> Self {
        if method.is_idempotent() {
            Self::Idempotent
        } else if uploads_image(method, uri) {
            Self::Upload
        } else {
            Self::Start
        }
    }
}

/// When another attempt may be made.
enum Wanted {
    Backoff,
    In(Duration),
}

impl From<Option<Duration>> for Wanted {
    fn from(delay: Option<Duration>) -> Self {
        delay.map_or(Self::Backoff, Self::In)
    }
}

/// Whether this result is worth another attempt, as far as the call allows for one.
fn another_attempt<R>(call: Call, result: &Result<Response<R>, BoxError>) -> Option<Wanted> {
    match result {
        Ok(_) if call == Call::Start => None,
        Ok(response) => {
            let status = response.status();
            let again = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            again.then(|| retry_after(response.headers(), SystemClock.now()).into())
        }
        Err(error) => match error.downcast_ref::<AuthError>() {
            Some(error) => error.is_transient().then(|| error.retry_after().into()),
            None => Some(Wanted::Backoff),
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
