//! The Aiuta API of a run: a [`FakeAiuta`] that a rotation replaces by a new one, which knows the new secret only.

use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use tower::ServiceExt;
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{BoxError, Clock};

use crate::clock::WallClock;
use crate::counts::Count;
use crate::server::Reply;

/// Number of photos that every instance has from the start.
const PHOTOS: u64 = 16;

/// Number of requests after which recorded requests are dropped. They are not needed, because the gate checks every
/// request.
const RECORDS: u64 = 256;

pub(crate) struct Upstream {
    current: RwLock<FakeAiuta>,
    clock: WallClock,
    answered: Count,
    /// Ids of the photos. Ids are sequential, so they are the same in each instance.
    pub(crate) photos: Vec<String>,
}

impl Upstream {
    pub(crate) async fn new(clock: WallClock) -> Result<Self, BoxError> {
        let (first, photos) = make(&clock, FakeAiuta::SECRET).await?;
        Ok(Self { current: RwLock::new(first), clock, answered: Count::default(), photos })
    }

    /// Returns the time of the upstream's clock.
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Returns the current instance.
    pub(crate) fn get(&self) -> FakeAiuta {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the current instance by one with a new secret.
    pub(crate) async fn replace(&self, secret: &str) -> Result<(), BoxError> {
        let (next, photos) = make(&self.clock, secret).await?;
        assert_eq!(photos, self.photos, "each instance has the same photos");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    pub(crate) async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Reply, BoxError> {
        let aiuta = self.get();
        if self.answered.next().is_multiple_of(RECORDS) {
            aiuta.clear_requests();
        }
        aiuta.oneshot(request).await
    }
}

async fn make(clock: &WallClock, secret: &str) -> Result<(FakeAiuta, Vec<String>), BoxError> {
    let aiuta = FakeAiuta::new().with_issuer(FakeAiuta::ISSUER, secret).with_clock(clock.clone());
    let mut photos = Vec::new();
    for _ in 0..PHOTOS {
        let (content_type, body) = multipart(b"a photo");
        let upload = Request::post("http://localhost/v1/uploaded_images")
            .header("x-api-key", FakeAiuta::API_KEY)
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body))?;
        let reply = aiuta.clone().oneshot(upload).await?;
        let body = http_body_util::BodyExt::collect(reply.into_body()).await?.to_bytes();
        photos.push(id_in(&body, "id").ok_or("the response to an upload has no id")?);
    }
    Ok((aiuta, photos))
}

/// Returns the content type and the body of an upload.
pub(crate) fn multipart(photo: &[u8]) -> (&'static str, Bytes) {
    let head = "--soak\r\ncontent-disposition: form-data; name=\"image_data\"; filename=\"photo.png\"\r\n\
                content-type: image/png\r\n\r\n";
    let body = [head.as_bytes(), photo, b"\r\n--soak--\r\n"].concat();
    ("multipart/form-data; boundary=soak", body.into())
}

/// Returns the id in a JSON response.
pub(crate) fn id_in(answer: &[u8], field: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    answer.get(field)?.as_str().map(str::to_owned)
}
