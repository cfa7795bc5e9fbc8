//! Reads the body of an upload: `multipart/form-data` with the field `image_data`, as in Aiuta's OpenAPI files.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyDataStream, Full};
use multer::Multipart;

use super::reply::ValidationError;

/// Returns the image in an upload.
pub(super) async fn image_data(headers: &HeaderMap, body: Bytes) -> Result<Bytes, ValidationError> {
    find(headers, body).await.ok_or_else(|| ValidationError::missing("image_data"))
}

async fn find(headers: &HeaderMap, body: Bytes) -> Option<Bytes> {
    let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let boundary = multer::parse_boundary(content_type).ok()?;
    let mut parts = Multipart::new(BodyDataStream::new(Full::new(body)), boundary);
    let mut found = None;
    while let Some(part) = parts.next_field().await.ok()? {
        if part.name() == Some("image_data") {
            found = Some(part.bytes().await.ok()?);
        }
    }
    found
}
