//! [`Operation`]: what it costs to send a request twice.

use http::{Method, Uri};

use super::access::{NormalizedPaths, starts_try_on};

/// Classifies a request by the effect of sending it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// No effect.
    Idempotent,
    /// The image may be stored twice.
    Upload,
    /// A second operation may be started and charged.
    Start,
}

impl Operation {
    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        if method.is_idempotent() {
            Self::Idempotent
        } else if uploads_image(method, uri) {
            Self::Upload
        } else {
            Self::Start
        }
    }
}

/// Returns whether a request uploads an image. An upload may be retried, because a second copy only takes up space.
fn uploads_image(method: &Method, uri: &Uri) -> bool {
    let paths = NormalizedPaths::new(uri.path());
    *method == Method::POST && paths.all(|path| path.ends_with("/uploaded_images")) && !starts_try_on(method, &paths)
}
