//! A caller: sends one request after the other, and drops some of them before they end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;
use tower_aiuta_auth::{AuthError, BoxError, NoReplay};

use crate::body::{TestBody, digest};
use crate::call;
use crate::client::{Stack, add_stale_credential};
use crate::gate::{DIGEST, PARTITION};
use crate::invariants::Invariant;
use crate::rejected_keys::REJECTED_KEYS;
use crate::rng::Rng;
use crate::shared::{Shared, TryOn};
use crate::upstream::{id_in, multipart};

/// Maximum length of a call. The slowest one waits for two fetches that hang and for a busy upstream, which takes a
/// second or two.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The response to a call, if there was one.
type Reply = Option<(StatusCode, Bytes)>;

pub(crate) struct Caller {
    shared: Arc<Shared>,
    stacks: [Stack; 2],
    untrusted_origin: String,
    rng: Rng,
    /// One in this number of calls is dropped after at most 30 ms.
    impatient_one_in: u64,
    /// Whether the last call was dropped before it ended.
    pub(crate) has_dropped: bool,
    /// The last photo and operation that this caller created. Its other calls are about these.
    photo: String,
    operation: String,
}

impl Caller {
    pub(crate) fn new(shared: Arc<Shared>, stacks: [Stack; 2], untrusted_origin: String, rng: Rng) -> Self {
        let photo = shared.upstream.photos[0].clone();
        Self {
            shared,
            stacks,
            untrusted_origin,
            rng,
            impatient_one_in: 20,
            has_dropped: false,
            photo,
            operation: String::new(),
        }
    }

    /// Drops every second call early.
    pub(crate) fn impatient(self) -> Self {
        Self { impatient_one_in: 2, ..self }
    }

    pub(crate) async fn run(mut self) -> Result<(), BoxError> {
        while !self.shared.is_over() {
            match self.rejected_try_on() {
                Some(try_on) => self.start(&try_on).await?,
                None => self.call().await?,
            }
        }
        Ok(())
    }

    /// Returns a try-on whose token will be rejected, now and then. Only callers on a runtime that is always driven
    /// request it, so that each fetch for it ends in time.
    fn rejected_try_on(&mut self) -> Option<TryOn> {
        if !self.rng.one_in(20) {
            return None;
        }
        let number = self.rng.below(REJECTED_KEYS);
        self.shared.rejected_keys.try_on(number, &self.shared.upstream.photos[0])
    }

    /// Makes one call.
    pub(crate) async fn call(&mut self) -> Result<(), BoxError> {
        if let Some(try_on) = self.shared.next_in_flood() {
            return self.start(&try_on).await;
        }
        match self.rng.below(100) {
            0..66 => {
                // Some keys are requested much more often than others.
                let most = self.rng.below(self.shared.try_on_keys()) + 1;
                let try_on = self.shared.try_on(self.rng.below(most));
                self.start(&try_on).await?;
            }
            66..82 => drop(self.get(&format!("/v1/sku_try_on_operations/{}", self.operation)).await?),
            82..88 => drop(self.get("/v1/try_on_models").await?),
            88..91 => self.upload().await?,
            91..94 => drop(self.get(&format!("/v1/uploaded_images/{}", self.photo)).await?),
            // No SDK sends this request. Its token is for empty params.
            94..97 => self.delete().await?,
            _ => self.visit_untrusted_host().await?,
        }
        Ok(())
    }

    async fn start(&mut self, try_on: &TryOn) -> Result<(), BoxError> {
        let call = self.shared.counts.try_ons.next();
        let body = json!({ "uploaded_image_id": try_on.photo, "sku_ids": [try_on.garment], "call": call });
        let body = Bytes::from(body.to_string());
        let path = ["/v1/sku_try_on_operations", "/digital-try-on/v1/sku_images_operations"];
        let path = path[usize::from(self.rng.one_in(2))];
        let mut request = self.request(Method::POST, path, body)?;
        // A partition can only be given by the extension. Without a partition the params may also come from the body.
        if try_on.partition > 0 {
            request.headers_mut().insert(PARTITION, try_on.partition.into());
        }
        if try_on.partition > 0 || self.rng.one_in(2) {
            request.extensions_mut().insert(try_on.params());
        }
        if self.rng.one_in(20) {
            request.extensions_mut().insert(NoReplay);
        }
        if let Some((StatusCode::OK, answer)) = self.send(request).await
            && let Some(operation) = id_in(&answer, "operation_id")
        {
            self.operation = operation;
        }
        Ok(())
    }

    async fn upload(&mut self) -> Result<(), BoxError> {
        let size = if self.rng.one_in(10) { 200_000 } else { 8_000 };
        let (size, first) = (self.rng.within(1..=size), self.rng.next());
        let photo: Vec<_> =
            (0..size / 8 + 1).flat_map(|at| (first ^ at.wrapping_mul(first | 1)).to_le_bytes()).collect();
        let (content_type, body) = multipart(&photo);
        let mut request = self.request(Method::POST, "/v1/uploaded_images", body)?;
        request.headers_mut().insert(CONTENT_TYPE, content_type.parse()?);
        if let Some((StatusCode::OK, answer)) = self.send(request).await
            && let Some(photo) = id_in(&answer, "id")
        {
            self.photo = photo;
        }
        Ok(())
    }

    async fn delete(&mut self) -> Result<(), BoxError> {
        // Deletes only photos of its own: the initial ones are needed by all callers.
        if self.shared.upstream.photos.contains(&self.photo) {
            return self.upload().await;
        }
        let request = self.request(Method::DELETE, &format!("/v1/uploaded_images/{}", self.photo), Bytes::new())?;
        self.send(request).await;
        self.photo.clone_from(&self.shared.upstream.photos[0]);
        Ok(())
    }

    async fn get(&mut self, path: &str) -> Result<Reply, BoxError> {
        let request = self.request(Method::GET, path, Bytes::new())?;
        Ok(self.send(request).await)
    }

    /// Sends a request to an untrusted host, for an image or with one of Aiuta's paths.
    async fn visit_untrusted_host(&mut self) -> Result<(), BoxError> {
        let (method, path) = [
            (Method::GET, "/images/1"),
            (Method::POST, "/v1/sku_try_on_operations"),
            (Method::POST, "/v1/uploaded_images"),
        ][usize::try_from(self.rng.below(3))?]
        .clone();
        let body = Bytes::from_static(br#"{"uploaded_image_id":"1"}"#);
        let body = TestBody::whole(if method == Method::GET { Bytes::new() } else { body });
        let request = Request::builder().method(method).uri(format!("{}{path}", self.untrusted_origin)).body(body)?;
        self.send(request).await;
        Ok(())
    }

    /// Builds a request to Aiuta with a digest of its body. The body is known bytes or a stream.
    fn request(&mut self, method: Method, path: &str, body: Bytes) -> Result<Request<TestBody>, BoxError> {
        let digest = digest(&body);
        let payload = match self.rng.below(4) {
            0 => TestBody::stream(&body, 1_000),
            _ => TestBody::whole(body),
        };
        let uri = format!("{}{path}", self.shared.origin);
        let mut request = Request::builder().method(method).uri(uri).header(DIGEST, digest).body(payload)?;
        // A POST may be redirected to the untrusted host together with the headers that the caller set, so it gets no
        // stale credential.
        if *request.method() != Method::POST && self.rng.one_in(50) {
            add_stale_credential(&mut request);
        }
        Ok(request)
    }

    /// Waits for the whole response, or drops the call after a while.
    async fn send(&mut self, request: Request<TestBody>) -> Reply {
        let stack = self.stacks[usize::from(self.rng.one_in(4))].clone();
        let impatient = self.rng.one_in(self.impatient_one_in);
        let limit = if impatient { self.rng.millis(0..=30) } else { CALL_TIMEOUT };
        self.has_dropped = false;
        let route = format!("{} {}", request.method(), request.uri().path());
        // Longer than most tokens that are looked up have left.
        let slow = if self.rng.one_in(30) { self.rng.millis(0..=3_000) } else { Duration::ZERO };
        let shared = Arc::clone(&self.shared);
        let call = self.shared.invalidations.watch(slow, async move {
            let response = stack.oneshot(request).await.inspect_err(|error| {
                if error.is::<AuthError>() {
                    call::with(|call| shared.check_wait(call));
                }
            })?;
            let status = response.status();
            Ok::<_, BoxError>((status, response.into_body().collect().await?.to_bytes()))
        });
        let counts = &self.shared.counts;
        match self.shared.timers.timeout(limit, call).await {
            Some(Ok(answer)) => return Some(answer),
            Some(Err(error)) if error.is::<AuthError>() => counts.failed.add(),
            Some(Err(_)) => counts.disconnected.add(),
            None if impatient => {
                self.has_dropped = true;
                counts.dropped.add();
            }
            None => {
                self.shared
                    .violations
                    .record(Invariant::EveryCallEnds, || format!("{route} took longer than {CALL_TIMEOUT:?}"));
            }
        }
        None
    }
}
