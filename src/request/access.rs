//! Which credential a request needs under the Jwt scheme: the table of Aiuta's operations, and what overrides it (rule A3).

use std::sync::Arc;

use http::{Method, Request, Uri};

use super::path::Normalization;
pub(crate) use super::path::NormalizedPaths;
use crate::error::ConfigError;

/// What a request needs. As a request extension it overrides the table of Aiuta's operations.
///
/// ```
/// use tower_aiuta_auth::Access;
///
/// // A health check of the gateway, which needs no credential.
/// let mut request = http::Request::get("https://api.aiuta.com/healthz").body(())?;
/// request.extensions_mut().insert(Access::Anonymous);
/// # Ok::<(), http::Error>(())
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A token made for the request's params, as `Authorization: Bearer …`.
    Jwt,
    /// The subscription id, as `x-user-id`.
    SubscriptionId,
    /// Nothing: the request is left untouched. The only one that matters with an API key.
    Anonymous,
}

/// As a request extension: this request is never sent a second time, whatever it is answered.
///
/// ```
/// use tower_aiuta_auth::NoReplay;
///
/// let mut request = http::Request::delete("https://api.aiuta.com/v1/uploaded_images/user_image-06f5948c").body(())?;
/// request.extensions_mut().insert(NoReplay);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoReplay;

/// A rule of the user's, asked before the table.
pub(crate) type AccessRule = Arc<dyn Fn(&Method, &Uri) -> Option<Access> + Send + Sync>;

/// Decides what a request needs.
pub(crate) struct AccessTable {
    /// What a gateway puts before Aiuta's paths, normalized: empty, or with a leading and without a trailing slash.
    base_path: String,
    rule: Option<AccessRule>,
}

impl AccessTable {
    pub(crate) fn new(base_path: &str, rule: Option<AccessRule>) -> Result<Self, ConfigError> {
        if !base_path.is_empty() && !base_path.starts_with('/') {
            return Err(ConfigError::new("base_path", "it must begin with a slash, as in /aiuta"));
        }
        if base_path.contains(['?', '#']) {
            return Err(ConfigError::new("base_path", "it must be a path only, without query or fragment"));
        }
        let base_path = Normalization::DEFAULT.normalize(base_path);
        Ok(Self { base_path, rule })
    }

    /// What the caller has said of this request: by an extension, or by the rule.
    pub(crate) fn stated<B>(&self, request: &Request<B>) -> Option<Access> {
        let by_extension = request.extensions().get::<Access>().copied();
        by_extension.or_else(|| self.rule.as_ref()?(request.method(), request.uri()))
    }

    /// What the request needs: as stated, or by the table. What is not in the table needs a JWT.
    pub(crate) fn of<B>(&self, request: &Request<B>, paths: &NormalizedPaths<'_>) -> Access {
        let method = request.method();
        self.stated(request).unwrap_or_else(|| {
            let takes_subscription_id = paths.all(|path| {
                path.strip_prefix(self.base_path.as_str()).is_some_and(|path| takes_subscription_id(method, path))
            });
            if takes_subscription_id { Access::SubscriptionId } else { Access::Jwt }
        })
    }
}

/// Aiuta's operations that take the subscription id: all of try-on that do not start one. Their paths are the same on the digital
/// try-on API and on the unified one; analytics has a base path of its own.
fn takes_subscription_id(method: &Method, path: &str) -> bool {
    let analytics = path.strip_prefix("/analytics/v1/");
    let Some(path) =
        analytics.or_else(|| path.strip_prefix("/digital-try-on/v1/").or_else(|| path.strip_prefix("/v1/")))
    else {
        return false;
    };
    if *method == Method::POST {
        let is_analytics = matches!(path, "ios-sdk-analytics" | "android-sdk-analytics" | "web-sdk-analytics");
        return is_analytics
            || (analytics.is_none() && matches!(path, "uploaded_images" | "size_and_fit/recommendation"));
    }
    if *method != Method::GET || analytics.is_some() {
        return false;
    }
    let collections = ["sku_images_operations/", "sku_try_on_operations/", "uploaded_images/"];
    match collections.into_iter().find_map(|collection| path.strip_prefix(collection)) {
        Some(id) => !id.is_empty() && !id.contains('/'),
        None => matches!(path, "predefined_try_on_models" | "try_on_models" | "subscription_details"),
    }
}

/// Whether a request uploads an image, which may be repeated: a second copy costs nothing but space.
#[cfg(feature = "retry")]
pub(crate) fn uploads_image(method: &Method, uri: &Uri) -> bool {
    let paths = NormalizedPaths::of(uri.path());
    *method == Method::POST && paths.all(|path| path.ends_with("/uploaded_images")) && !starts_try_on(method, &paths)
}

/// Whether a request starts a try-on: under any prefix, since a token for no params at a try-on path that is new to us would be the one
/// mistake that the scheme is there to prevent.
pub(crate) fn starts_try_on(method: &Method, paths: &NormalizedPaths<'_>) -> bool {
    *method == Method::POST && paths.may_end_in(&["sku_images_operations", "sku_try_on_operations"])
}
