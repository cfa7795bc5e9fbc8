//! Builds responses in the shapes of Aiuta's OpenAPI files. 401 and 429 come from a gateway and have no documented
//! body.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

pub(super) type Reply = Response<Full<Bytes>>;

pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = status;
    reply
}

pub(super) fn bytes(content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    let mut reply = bytes("application/json", Bytes::from(body.to_string()));
    *reply.status_mut() = status;
    reply
}

pub(super) fn ok(body: &Value) -> Reply {
    json(StatusCode::OK, body)
}

/// Builds a `{"detail":"…"}` response, the form of all errors except validation errors.
pub(super) fn detail(status: StatusCode, text: &str) -> Reply {
    json(status, &json!({ "detail": text }))
}

/// Builds a 422 with an `HTTPValidationError` (see OpenAPI), one entry per error.
pub(super) fn invalid(errors: &[ValidationError]) -> Reply {
    let detail: Vec<_> = errors.iter().map(ValidationError::to_json).collect();
    json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "detail": detail }))
}

pub(super) fn unauthorized() -> Reply {
    with_header(empty(StatusCode::UNAUTHORIZED), WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

pub(super) fn too_many_requests(retry_after: Duration) -> Reply {
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    with_header(empty(StatusCode::TOO_MANY_REQUESTS), RETRY_AFTER, HeaderValue::from(seconds))
}

pub(super) fn method_not_allowed(allow: &'static str) -> Reply {
    let reply = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    with_header(reply, ALLOW, HeaderValue::from_static(allow))
}

pub(super) fn not_found() -> Reply {
    detail(StatusCode::NOT_FOUND, "Not Found")
}

pub(super) fn with_header(mut reply: Reply, name: HeaderName, value: HeaderValue) -> Reply {
    reply.headers_mut().insert(name, value);
    reply
}

/// One entry of a 422, with the name it has in the OpenAPI files.
#[derive(Debug, PartialEq)]
pub(super) struct ValidationError {
    /// The invalid field, `None` if the whole body is invalid.
    pub(super) field: Option<&'static str>,
    pub(super) msg: &'static str,
    pub(super) kind: &'static str,
}

impl ValidationError {
    pub(super) fn missing(field: &'static str) -> Self {
        Self { field: Some(field), msg: "Field required", kind: "missing" }
    }

    fn to_json(&self) -> Value {
        let loc: Vec<_> = ["body"].into_iter().chain(self.field).collect();
        json!({ "loc": loc, "msg": self.msg, "type": self.kind })
    }
}
