//! A caller: one call after the other, some of them given up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_aiuta_auth::{AuthError, BoxError, NoReplay};

use crate::client::{Stack, put_stale_credential};
use crate::findings::Invariant;
use crate::gate::{DIGEST, PARTITION};
use crate::payload::{Payload, digest};
use crate::rng::Rng;
use crate::stand_in::{id_in, multipart};
use crate::world::{Wish, World};

/// No call may take longer. The slowest waits for two flights that hang, and for a stand-in that is busy: a second or two.
const FOREVER: Duration = Duration::from_secs(15);

/// What became of a call.
type Answer = Option<(StatusCode, Bytes)>;

pub(crate) struct Caller {
    world: Arc<World>,
    stacks: [Stack; 2],
    foreign_origin: String,
    rng: Rng,
    /// The last photo and the last operation: what the others of its calls are about.
    photo: String,
    operation: String,
}

impl Caller {
    pub(crate) fn new(world: Arc<World>, stacks: [Stack; 2], foreign_origin: String, rng: Rng) -> Self {
        let photo = world.stand_in.photos[0].clone();
        Self { world, stacks, foreign_origin, rng, photo, operation: String::new() }
    }

    pub(crate) async fn run(mut self) -> Result<(), BoxError> {
        while !self.world.is_over() {
            if let Some(wish) = self.world.flooding() {
                self.start(&wish).await?;
                continue;
            }
            match self.rng.below(100) {
                0..66 => {
                    // Some keys are asked for much more often than others.
                    let most = self.rng.below(self.world.wishes()) + 1;
                    let wish = self.world.wish(self.rng.below(most));
                    self.start(&wish).await?;
                }
                66..82 => drop(self.get(&format!("/v1/sku_try_on_operations/{}", self.operation)).await?),
                82..88 => drop(self.get("/v1/try_on_models").await?),
                88..91 => self.upload().await?,
                91..94 => drop(self.get(&format!("/v1/uploaded_images/{}", self.photo)).await?),
                // No SDK calls this: it gets a token for no params.
                94..97 => self.delete().await?,
                _ => self.visit_foreigners().await?,
            }
        }
        Ok(())
    }

    async fn start(&mut self, wish: &Wish) -> Result<(), BoxError> {
        let call = self.world.counts.try_ons.next();
        let body = json!({ "uploaded_image_id": wish.photo, "sku_ids": [wish.garment], "call": call });
        let body = Bytes::from(body.to_string());
        let path = ["/v1/sku_try_on_operations", "/digital-try-on/v1/sku_images_operations"];
        let path = path[usize::from(self.rng.one_in(2))];
        let mut request = self.request(Method::POST, path, body)?;
        // A partition is known to the extension alone; without one, either way will do.
        if wish.partition > 0 {
            request.headers_mut().insert(PARTITION, wish.partition.into());
        }
        if wish.partition > 0 || self.rng.one_in(2) {
            request.extensions_mut().insert(wish.params());
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
        // A photo of its own: those that all start with are needed.
        if self.world.stand_in.photos.contains(&self.photo) {
            return self.upload().await;
        }
        let request = self.request(Method::DELETE, &format!("/v1/uploaded_images/{}", self.photo), Bytes::new())?;
        self.send(request).await;
        self.photo.clone_from(&self.world.stand_in.photos[0]);
        Ok(())
    }

    async fn get(&mut self, path: &str) -> Result<Answer, BoxError> {
        let request = self.request(Method::GET, path, Bytes::new())?;
        Ok(self.send(request).await)
    }

    /// Images are on other hosts; and another host may have Aiuta's paths.
    async fn visit_foreigners(&mut self) -> Result<(), BoxError> {
        let (method, path) = [
            (Method::GET, "/images/1"),
            (Method::POST, "/v1/sku_try_on_operations"),
            (Method::POST, "/v1/uploaded_images"),
        ][usize::try_from(self.rng.below(3))?]
        .clone();
        let body = Bytes::from_static(br#"{"uploaded_image_id":"1"}"#);
        let body = Payload::whole(if method == Method::GET { Bytes::new() } else { body });
        let request = Request::builder().method(method).uri(format!("{}{path}", self.foreign_origin)).body(body)?;
        self.send(request).await;
        Ok(())
    }

    /// A request to Aiuta, in one piece or in several, with its digest.
    fn request(&mut self, method: Method, path: &str, body: Bytes) -> Result<Request<Payload>, BoxError> {
        let digest = digest(&body);
        let payload = match self.rng.below(4) {
            0 => Payload::stream(&body, 1_000),
            _ => Payload::whole(body),
        };
        let uri = format!("{}{path}", self.world.origin);
        let mut request = Request::builder().method(method).uri(uri).header(DIGEST, digest).body(payload)?;
        // A start may be redirected to foreigners, and what a caller puts into its headers itself goes along.
        if *request.method() != Method::POST && self.rng.one_in(50) {
            put_stale_credential(&mut request);
        }
        Ok(request)
    }

    /// Waits for the whole answer, or gives up.
    async fn send(&mut self, request: Request<Payload>) -> Answer {
        let stack = self.stacks[usize::from(self.rng.one_in(4))].clone();
        let impatient = self.rng.one_in(20);
        let patience = if impatient { self.rng.millis(0..=30) } else { FOREVER };
        let about = format!("{} {}", request.method(), request.uri().path());
        let call = self.world.forgets.watch(async {
            let response = stack.oneshot(request).await?;
            let status = response.status();
            Ok::<_, BoxError>((status, response.into_body().collect().await?.to_bytes()))
        });
        let counts = &self.world.counts;
        match timeout(patience, call).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) if error.is::<AuthError>() => counts.failed.add(),
            Ok(Err(_)) => counts.disconnected.add(),
            Err(_) if impatient => counts.given_up.add(),
            Err(_) => {
                self.world
                    .findings
                    .broken(Invariant::EveryCallEnds, || format!("{about} took longer than {FOREVER:?}"));
            }
        }
        None
    }
}
