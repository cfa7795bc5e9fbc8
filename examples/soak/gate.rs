//! Where requests to Aiuta arrive: they are looked at, then the stand-in has them; some are sent elsewhere, and some connections are cut.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value};
use tower_aiuta_auth::testing::Credential;

use crate::findings::Invariant;
use crate::payload::digest;
use crate::rng::Rng;
use crate::server::{Cut, Host, Reply};
use crate::source::partition_of_token;
use crate::try_ons::TryOns;
use crate::world::World;

/// The digest of a request's body, by the one who sent it.
pub(crate) const DIGEST: &str = "x-soak-digest";
/// The partition of a request, which is not sent otherwise.
pub(crate) const PARTITION: &str = "x-soak-partition";

/// The fields that a token is made for.
const SIGNED: [&str; 5] = ["uploaded_image_id", "sku_id", "sku_ids", "sku_catalog_name", "product_id"];
/// Claims that are about the token itself.
const REGISTERED: [&str; 3] = ["iss", "iat", "exp"];

pub(crate) struct Gate {
    world: Arc<World>,
    foreign_origin: String,
    rng: Mutex<Rng>,
    try_ons: TryOns,
}

impl Gate {
    pub(crate) fn new(world: Arc<World>, foreign_origin: String, rng: Rng) -> Self {
        Self { world, foreign_origin, rng: Mutex::new(rng), try_ons: TryOns::default() }
    }

    fn one_in(&self, n: u64) -> bool {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).one_in(n)
    }

    fn inspect(&self, head: &http::request::Parts, body: &Bytes) {
        let findings = &self.world.findings;
        let route = || format!("{} {}", head.method, head.uri.path());
        let credential = Credential::of(&head.headers);
        let one = matches!(credential, Credential::ApiKey | Credential::UserId | Credential::Bearer);
        findings.check(Invariant::OneCredential, one, || format!("{}: {credential}", route()));
        if credential == Credential::Bearer {
            let how = wrong_token(&head.headers, body);
            findings
                .check(Invariant::TokenOfOtherParams, how.is_none(), || format!("{}: {}", route(), how.unwrap_or("")));
        }
        if starts(head) {
            let redirected = head.uri.query().is_some();
            let times = call_in(body).map(|call| self.try_ons.arrives(call, redirected));
            let enough = times.is_some_and(|times| times <= 2);
            findings.check(Invariant::SentTwiceAtMost, enough, || format!("call {:?}: {times:?} times", call_in(body)));
        }
        let right = number(&head.headers, DIGEST) == Some(digest(body));
        findings.check(Invariant::ByteForByte, right, || format!("{} with {} bytes", route(), body.len()));
    }

    /// Some starts have to go elsewhere, and may come back from there; not those of a partition, whose params a redirect loses.
    fn redirect(&self, head: &http::request::Parts) -> Option<Reply> {
        let may = starts(head) && head.uri.query().is_none() && !head.headers.contains_key(PARTITION);
        if !may || !self.one_in(100) {
            return None;
        }
        self.world.counts.redirects.add();
        let origin = if self.one_in(3) { &self.world.origin } else { &self.foreign_origin };
        Some(redirect(origin, &head.uri))
    }

    /// What the stand-in has accepted.
    fn accepted(&self, head: &http::request::Parts, body: &Bytes) {
        let counts = &self.world.counts;
        if starts(head) {
            counts.accepted_starts.add();
            let first = call_in(body).is_some_and(|call| self.try_ons.starts(call) == 1);
            self.world.findings.check(Invariant::StartedOnce, first, || format!("call {:?}", call_in(body)));
        } else if head.method == Method::POST && head.uri.path().ends_with("/uploaded_images") {
            counts.accepted_uploads.add();
        }
    }
}

impl Host for Gate {
    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Cut> {
        let (head, body) = request.into_parts();
        // What is not complete was given up, and is nobody's.
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        self.world.counts.requests.add();
        self.inspect(&head, &body);
        if let Some(reply) = self.redirect(&head) {
            return Ok(reply);
        }
        let request = Request::from_parts(head.clone(), Full::new(body.clone()));
        let Ok(reply) = self.world.stand_in.answer(request).await else {
            self.world.counts.cut.add();
            return Err(Cut);
        };
        if reply.status() == StatusCode::OK {
            // In the turn in which the stand-in accepted it: nobody can give up in between.
            self.accepted(&head, &body);
            if self.one_in(400) {
                self.world.counts.cut.add();
                return Err(Cut);
            }
        }
        Ok(reply)
    }
}

pub(crate) fn starts(head: &http::request::Parts) -> bool {
    head.method == Method::POST && head.uri.path().ends_with("_operations")
}

/// To the same path at `origin`, for the second time.
pub(crate) fn redirect(origin: &str, uri: &Uri) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let location = format!("{origin}{}?hop=1", uri.path());
    reply.headers_mut().insert(LOCATION, location.try_into().expect("a URI is a legal header"));
    reply
}

/// What is wrong with the token, if it was made for anything but this body and this partition.
fn wrong_token(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    let Some(mut claims) = claims(headers) else { return Some("no JWT") };
    let times = (claims.get("iat").and_then(Value::as_u64), claims.get("exp").and_then(Value::as_u64));
    let (Some(iat), Some(exp)) = times else { return Some("no times") };
    claims.retain(|name, _| !REGISTERED.contains(&name.as_str()));
    let mut params: Map<_, _> = serde_json::from_slice(body).unwrap_or_default();
    params.retain(|name, value| SIGNED.contains(&name.as_str()) && !value.is_null());
    if claims != params {
        return Some("the token was made for other params");
    }
    (partition_of_token(iat, exp) != Some(number(headers, PARTITION).unwrap_or(0)))
        .then_some("the token is another partition's")
}

fn claims(headers: &HeaderMap) -> Option<Map<String, Value>> {
    let token = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// The number of the call that a body is from.
fn call_in(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(body).ok()?.get("call")?.as_u64()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
