//! What the account holds: photos, operations and their results. Every method is one operation and makes its answer.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::dates::rfc3339;
use super::reply::{self, Reply};
use super::routes::Kind;
use super::validate::Order;

/// How long images are kept. The API does not say; nothing is deleted here when it is over.
const IMAGE_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// The predefined models: their categories and ids.
const MODELS: [(&str, &str); 2] = [("woman", "model_woman_00"), ("man", "model_man_00")];

/// A PNG of one grey pixel: the picture of each predefined model and of each image added by id.
const PIXEL: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\
    \0\0\0\nIDATx\xdach\0\0\0\x82\0\x81\xdaE\x08;\0\0\0\0IEND\xaeB`\x82";

pub(super) struct Store {
    storage_origin: String,
    images: HashMap<String, Image>,
    operations: HashMap<String, Operation>,
    /// The last id that was given away.
    last_id: u64,
    started: usize,
}

struct Image {
    origin: Origin,
    data: Bytes,
    expires_at: SystemTime,
}

#[derive(Clone, Copy, PartialEq)]
enum Origin {
    Uploaded,
    Generated,
    Predefined,
}

struct Operation {
    kind: Kind,
    stage: Stage,
    /// The photo that is tried on, and what becomes the result.
    photo: Bytes,
}

enum Stage {
    Created,
    InProgress,
    /// With the id of the result.
    Success(String),
}

impl Store {
    pub(super) fn new(storage_origin: &str) -> Self {
        let model = |(_, id): (&str, &str)| {
            let (data, expires_at) = (Bytes::from_static(PIXEL), SystemTime::UNIX_EPOCH);
            (id.to_owned(), Image { origin: Origin::Predefined, data, expires_at })
        };
        Self {
            storage_origin: storage_origin.to_owned(),
            images: MODELS.into_iter().map(model).collect(),
            operations: HashMap::new(),
            last_id: 0,
            started: 0,
        }
    }

    pub(super) fn storage_origin(&self) -> &str {
        &self.storage_origin
    }

    /// From now on images are said to be there.
    pub(super) fn move_storage(&mut self, origin: String) {
        self.storage_origin = origin;
    }

    /// How many operations were started.
    pub(super) fn started(&self) -> usize {
        self.started
    }

    pub(super) fn upload(&mut self, data: Bytes, now: SystemTime) -> Reply {
        let id = self.next_id("user_image");
        self.keep(&id, Origin::Uploaded, data, now);
        reply::ok(&self.describe(&id))
    }

    /// Stores an uploaded image with an id of the caller's choice.
    pub(super) fn add(&mut self, id: &str, now: SystemTime) {
        self.keep(id, Origin::Uploaded, Bytes::from_static(PIXEL), now);
    }

    pub(super) fn uploaded_image(&self, id: &str) -> Reply {
        match self.find(id, Origin::Uploaded) {
            Some(_) => reply::ok(&self.describe(id)),
            None => no_such_image(),
        }
    }

    pub(super) fn delete_uploaded(&mut self, id: &str) -> Reply {
        self.delete(id, Origin::Uploaded)
    }

    pub(super) fn delete_generated(&mut self, id: &str) -> Reply {
        self.delete(id, Origin::Generated)
    }

    pub(super) fn start(&mut self, kind: Kind, order: &Order) -> Reply {
        let Some(image) = self.find(&order.uploaded_image_id, Origin::Uploaded) else { return no_such_image() };
        let operation = Operation { kind, stage: Stage::Created, photo: image.data.clone() };
        let id = self.next_id(match kind {
            Kind::SkuImages => "sku_images_op",
            Kind::SkuTryOn => "sku_try_on_op",
        });
        self.operations.insert(id.clone(), operation);
        self.started += 1;
        reply::ok(&match kind {
            Kind::SkuImages => json!({ "operation_id": id, "details": null, "errors": [] }),
            Kind::SkuTryOn => json!({ "operation_id": id }),
        })
    }

    /// Answers with the operation's state, and moves it on by one step.
    pub(super) fn poll(&mut self, kind: Kind, id: &str, now: SystemTime) -> Reply {
        let Some(operation) = self.operations.get_mut(id).filter(|operation| operation.kind == kind) else {
            return reply::detail(StatusCode::BAD_REQUEST, "Operation not found");
        };
        let status = match operation.stage {
            Stage::Created => "CREATED",
            Stage::InProgress => "IN_PROGRESS",
            Stage::Success(_) => "SUCCESS",
        };
        let mut images = Vec::new();
        match &operation.stage {
            Stage::Created => operation.stage = Stage::InProgress,
            Stage::InProgress => {
                let photo = operation.photo.clone();
                let result = self.next_id("user_image");
                self.keep(&result, Origin::Generated, photo, now);
                if let Some(operation) = self.operations.get_mut(id) {
                    operation.stage = Stage::Success(result);
                }
            }
            Stage::Success(result) => {
                let result = result.clone();
                images.extend(self.images.contains_key(&result).then(|| self.describe_result(kind, &result)));
            }
        }
        reply::ok(&json!({ "id": id, "status": status, "error": null, "generated_images": images }))
    }

    /// The predefined models, or 304 if the caller has them already.
    pub(super) fn models(&self, headers: &HeaderMap) -> Reply {
        let list: Vec<_> = MODELS
            .iter()
            .map(|(category, id)| {
                let url = self.url(id);
                let model =
                    json!({ "id": id, "owner_type": "aiuta", "url": url, "expires_at": null, "metadata": null });
                json!({ "category": category, "models": [model] })
            })
            .collect();
        let list = Value::from(list);
        let mut hasher = DefaultHasher::new();
        list.to_string().hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let fresh = if is_known(headers, &tag) { reply::empty(StatusCode::NOT_MODIFIED) } else { reply::ok(&list) };
        match HeaderValue::try_from(tag) {
            Ok(tag) => reply::with_header(fresh, ETAG, tag),
            Err(_) => fresh,
        }
    }

    /// The bytes of an image, at the storage host. The type is told from the first bytes, and PNG is the default, as
    /// Aiuta's OpenAPI files say of uploads.
    pub(super) fn download(&self, path: &str) -> Reply {
        let Some(image) = path.strip_prefix("/images/").and_then(|id| self.images.get(id)) else {
            return reply::not_found();
        };
        let content_type = if image.data.starts_with(b"\xff\xd8\xff") { "image/jpeg" } else { "image/png" };
        reply::bytes(content_type, image.data.clone())
    }

    fn keep(&mut self, id: &str, origin: Origin, data: Bytes, now: SystemTime) {
        let expires_at = now.checked_add(IMAGE_LIFETIME).unwrap_or(now);
        self.images.insert(id.to_owned(), Image { origin, data, expires_at });
    }

    fn delete(&mut self, id: &str, origin: Origin) -> Reply {
        if self.find(id, origin).is_none() {
            return no_such_image();
        }
        self.images.remove(id);
        reply::empty(StatusCode::NO_CONTENT)
    }

    fn find(&self, id: &str, origin: Origin) -> Option<&Image> {
        self.images.get(id).filter(|image| image.origin == origin)
    }

    /// `AiutaImage` of the OpenAPI files.
    fn describe(&self, id: &str) -> Value {
        let expires_at = self.images.get(id).map(|image| rfc3339(image.expires_at));
        json!({ "id": id, "owner_type": "user", "url": self.url(id), "expires_at": expires_at })
    }

    /// `AiutaImage` again, or `GeneratedSkuImage`, which has the address twice.
    fn describe_result(&self, kind: Kind, id: &str) -> Value {
        let mut image = self.describe(id);
        if kind == Kind::SkuImages {
            image["image_url"] = Value::from(self.url(id));
        }
        image
    }

    fn url(&self, id: &str) -> String {
        format!("{}/images/{id}", self.storage_origin)
    }

    fn next_id(&mut self, prefix: &str) -> String {
        self.last_id += 1;
        format!("{prefix}-00000000-0000-4000-8000-{:012x}", self.last_id)
    }
}

fn no_such_image() -> Reply {
    reply::detail(StatusCode::BAD_REQUEST, "Image not found")
}

/// Whether `If-None-Match` names the tag: `*`, or one of a list, by weak comparison (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}
