//! The gate in front of the upstream: checks each request, then forwards it. Some requests are redirected instead, and
//! some connections are cut.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, DATE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value};
use tower_aiuta_auth::Clock;
use tower_aiuta_auth::testing::Credential;

use crate::body::digest;
use crate::deliveries::Deliveries;
use crate::invariants::Invariant;
use crate::rejected_keys::RejectedKeys;
use crate::rng::Rng;
use crate::server::{Cut, Host, Reply};
use crate::shared::Shared;
use crate::source::partition_of_token;

/// Digest of the request's body, set by the caller.
pub(crate) const DIGEST: &str = "x-soak-digest";
/// Partition of the request, set by the caller. Requests do not contain it otherwise.
pub(crate) const PARTITION: &str = "x-soak-partition";

/// Marks a 401 response whose date is false.
pub(crate) const FALSE_DATE: &str = "x-soak-false-date";

/// The fields of the body that are signed into a token.
const SIGNED: [&str; 5] = ["uploaded_image_id", "sku_id", "sku_ids", "sku_catalog_name", "product_id"];
/// Claims that the signer adds.
const REGISTERED: [&str; 3] = ["iss", "iat", "exp"];

pub(crate) struct Gate {
    shared: Arc<Shared>,
    untrusted_origin: String,
    rng: Mutex<Rng>,
    deliveries: Deliveries,
}

impl Gate {
    pub(crate) fn new(shared: Arc<Shared>, untrusted_origin: String, rng: Rng) -> Self {
        Self { shared, untrusted_origin, rng: Mutex::new(rng), deliveries: Deliveries::default() }
    }

    fn one_in(&self, n: u64) -> bool {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).one_in(n)
    }

    fn inspect(&self, head: &http::request::Parts, body: &Bytes) {
        let violations = &self.shared.violations;
        let route = || format!("{} {}", head.method, head.uri.path());
        let credential = Credential::of(&head.headers);
        let is_one = matches!(credential, Credential::ApiKey | Credential::UserId | Credential::Bearer);
        violations.check(Invariant::OneCredential, is_one, || format!("{}: {credential}", route()));
        if credential == Credential::Bearer {
            let error = wrong_token(head, body);
            violations.check(Invariant::TokenMatchesRequest, error.is_none(), || {
                format!("{}: {}", route(), error.unwrap_or(""))
            });
        }
        if starts(head) {
            let redirected = head.uri.query().is_some();
            let times = call_in(body).map(|call| self.deliveries.arrived(call, redirected));
            let allowed = times.is_some_and(|times| times <= 2);
            violations
                .check(Invariant::SentAtMostTwice, allowed, || format!("call {:?}: {times:?} times", call_in(body)));
        }
        let unchanged = number(&head.headers, DIGEST) == Some(digest(body));
        violations.check(Invariant::BodyUnchanged, unchanged, || format!("{} with {} bytes", route(), body.len()));
    }

    /// Returns whether the upstream's clock accepts the token. Otherwise a redirect would tell the layer that the API
    /// accepts a token which it does not.
    fn is_valid(&self, head: &http::request::Parts) -> bool {
        let exp = claims(&head.headers).and_then(|claims| claims.get("exp")?.as_u64()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(exp) > self.shared.upstream.now()
    }

    /// Redirects some requests that start a try-on, back to the gate or to the untrusted host. Requests with a
    /// partition are not redirected, because a redirect loses the `AuthParams` extension.
    fn redirect(&self, head: &http::request::Parts) -> Option<Reply> {
        let eligible = starts(head) && head.uri.query().is_none() && !head.headers.contains_key(PARTITION);
        if !eligible || !self.is_valid(head) || !self.one_in(100) {
            return None;
        }
        self.shared.counts.redirects.add();
        let origin = if self.one_in(3) { &self.shared.origin } else { &self.untrusted_origin };
        Some(redirect(origin, &head.uri))
    }

    /// Rejects a request for one of the [`RejectedKeys`].
    fn reject(&self, head: &http::request::Parts) -> Reply {
        let again = bearer(&head.headers).and_then(|token| self.shared.issued.get(token)).is_some_and(|it| it.rejected);
        if again {
            self.shared.counts.stopgaps.add();
        }
        let mut reply = Response::new(Full::default());
        *reply.status_mut() = StatusCode::UNAUTHORIZED;
        reply
    }

    /// Gives some responses a false date. If it is behind, the upstream rejects a token that was made by it, so the
    /// offset is never adopted. If it is ahead by less than a token is backdated, the upstream accepts the token, and
    /// the offset is in force until the next date contradicts it. If it is off by more than a day, no offset is tried.
    fn falsify_date(&self, reply: &mut Reply) {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Clock::now(&self.shared.clock);
        let date: SystemTime = match rng.below(9) {
            0 => now - Duration::from_secs(rng.within(3_600..=7_200)),
            1 => now + Duration::from_secs(rng.within(8..=12)),
            2 => now + Duration::from_secs(2 * 24 * 3_600),
            _ => return,
        };
        drop(rng);
        self.shared.counts.false_dates.add();
        reply.headers_mut().insert(DATE, httpdate::fmt_http_date(date).try_into().expect("a legal header"));
        reply.headers_mut().insert(FALSE_DATE, HeaderValue::from_static("1"));
    }

    /// Counts a request that the upstream accepted.
    fn accepted(&self, head: &http::request::Parts, body: &Bytes) {
        let counts = &self.shared.counts;
        if starts(head) {
            counts.accepted_starts.add();
            let first = call_in(body).is_some_and(|call| self.deliveries.started(call) == 1);
            self.shared.violations.check(Invariant::StartedOnce, first, || format!("call {:?}", call_in(body)));
        } else if head.method == Method::POST && head.uri.path().ends_with("/uploaded_images") {
            counts.accepted_uploads.add();
        }
    }
}

impl Host for Gate {
    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Cut> {
        let (head, body) = request.into_parts();
        // An incomplete request was dropped by its caller.
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        self.shared.counts.requests.add();
        self.inspect(&head, &body);
        if garment_in(&body).is_some_and(|garment| RejectedKeys::contains(&garment)) {
            return Ok(self.reject(&head));
        }
        if let Some(reply) = self.redirect(&head) {
            return Ok(reply);
        }
        let request = Request::from_parts(head.clone(), Full::new(body.clone()));
        let Ok(mut reply) = self.shared.upstream.answer(request).await else {
            self.shared.counts.cut.add();
            return Err(Cut);
        };
        if reply.status() == StatusCode::OK {
            // No await between the upstream's response and this: the caller can't drop the call in between.
            self.accepted(&head, &body);
            if self.one_in(400) {
                self.shared.counts.cut.add();
                return Err(Cut);
            }
        }
        if reply.status() == StatusCode::UNAUTHORIZED && self.shared.false_dates.load(Ordering::Relaxed) {
            self.falsify_date(&mut reply);
        }
        Ok(reply)
    }
}

pub(crate) fn starts(head: &http::request::Parts) -> bool {
    head.method == Method::POST && head.uri.path().ends_with("_operations")
}

/// Redirects to the same path at `origin`. The query marks the request as redirected.
pub(crate) fn redirect(origin: &str, uri: &Uri) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let location = format!("{origin}{}?hop=1", uri.path());
    reply.headers_mut().insert(LOCATION, location.try_into().expect("a URI is a legal header"));
    reply
}

/// Returns what is wrong with the request's token, unless it was made for this body or deleted image, and partition.
fn wrong_token(head: &http::request::Parts, body: &[u8]) -> Option<&'static str> {
    let headers = &head.headers;
    let Some(mut claims) = claims(headers) else { return Some("not a JWT") };
    let times = (claims.get("iat").and_then(Value::as_u64), claims.get("exp").and_then(Value::as_u64));
    let (Some(iat), Some(exp)) = times else { return Some("`iat` or `exp` is missing") };
    claims.retain(|name, _| !REGISTERED.contains(&name.as_str()));
    let mut params: Map<_, _> = serde_json::from_slice(body).unwrap_or_default();
    params.retain(|name, value| SIGNED.contains(&name.as_str()) && !value.is_null());
    if head.method == Method::DELETE {
        let id = head.uri.path().rsplit('/').next().unwrap_or_default();
        params.insert("uploaded_image_id".to_owned(), id.into());
    }
    if claims != params {
        return Some("the token was made for other params");
    }
    (partition_of_token(iat, exp) != Some(number(headers, PARTITION).unwrap_or(0)))
        .then_some("the token was made for another partition")
}

fn claims(headers: &HeaderMap) -> Option<Map<String, Value>> {
    let payload = URL_SAFE_NO_PAD.decode(bearer(headers)?.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Returns the first garment of a try-on.
fn garment_in(body: &[u8]) -> Option<String> {
    Some(serde_json::from_slice::<Value>(body).ok()?.get("sku_ids")?.get(0)?.as_str()?.to_owned())
}

/// Returns the call's number, which its body contains.
fn call_in(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(body).ok()?.get("call")?.as_u64()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
