//! Decides which credential a request to a trusted origin needs (rule A3). An extension of the request, the user's rule
//! and a table of Aiuta's operations can decide, in this order.

use std::sync::Arc;

use http::{Method, Request, Uri};

use super::path::Normalization;
pub(crate) use super::path::NormalizedPaths;
use crate::error::ConfigError;
use crate::params::{AuthParams, GENERATED_IMAGE_ID, UPLOADED_IMAGE_ID};

/// The credential that a request needs.
///
/// The layer knows the credential that each of Aiuta's operations needs. Insert an `Access` into a request's extensions
/// to override that for one request, or return it from [`access_rule`](crate::AiutaAuthBuilder::access_rule) to
/// override it for many. The extension takes precedence over the rule.
///
/// A layer with an API key adds the key to every request to a trusted origin. Only [`Anonymous`](Self::Anonymous)
/// changes that.
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
    /// A JWT created for the request's [params](crate::AuthParams), sent as `authorization: Bearer …`.
    ///
    /// Operations that the layer does not know need a JWT. A request that needs a JWT and has no params fails with
    /// [`MissingParams`](crate::AuthErrorKind::MissingParams).
    Jwt,
    /// The subscription id, sent as `x-user-id`.
    SubscriptionId,
    /// No credential. The request is sent unchanged, including credentials that the caller has set. With JWTs,
    /// `OPTIONS` requests are anonymous.
    Anonymous,
}

/// Request extension for a request that is sent at most once, by every type of this crate.
///
/// - By default, the layer replays a request with a new token if Aiuta rejects a cached token with a 401. With this
///   extension the caller receives the 401 instead. Use
///   [`replay_unauthorized`](crate::AiutaAuthBuilder::replay_unauthorized) to turn replays off for all requests.
#[cfg_attr(
    feature = "retry",
    doc = "- [`AiutaRetryPolicy`](crate::AiutaRetryPolicy) does not retry the request once it may have been sent."
)]
#[cfg_attr(
    feature = "reqwest-retry",
    doc = "- [`AiutaRetryableStrategy`](crate::AiutaRetryableStrategy) does not retry the request after a response. It
  does not see which request has failed without a response, so `reqwest-retry` sends the request again then."
)]
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

/// The user's rule, called before the table is consulted.
pub(crate) type AccessRule = Arc<dyn Fn(&Method, &Uri) -> Option<Access> + Send + Sync>;

/// Decides which credential a request needs.
pub(crate) struct AccessTable {
    /// The prefix that a gateway puts before Aiuta's paths, normalized: empty, or with a leading and no trailing slash.
    base_path: String,
    rule: Option<AccessRule>,
}

impl AccessTable {
    pub(crate) fn new(base_path: &str, rule: Option<AccessRule>) -> Result<Self, ConfigError> {
        if !base_path.is_empty() && !base_path.starts_with('/') {
            return Err(ConfigError::new("base_path", "it must begin with a slash, as in /aiuta"));
        }
        if base_path.contains(['?', '#']) {
            return Err(ConfigError::new("base_path", "it must be a path without a query or fragment"));
        }
        let base_path = Normalization::DEFAULT.normalize(base_path);
        Ok(Self { base_path, rule })
    }

    /// Returns the access that the caller has set for this request, with an extension or with the rule.
    pub(crate) fn stated<B>(&self, request: &Request<B>) -> Option<Access> {
        let by_extension = request.extensions().get::<Access>().copied();
        by_extension.or_else(|| self.rule.as_ref()?(request.method(), request.uri()))
    }

    /// Returns the access that the request needs. If the caller has not set one, the table decides. An unknown
    /// operation needs a JWT, because that is the stronger credential.
    pub(crate) fn of<B>(&self, request: &Request<B>, paths: &NormalizedPaths<'_>) -> Access {
        let method = request.method();
        self.stated(request).unwrap_or_else(|| {
            let takes_subscription_id = || {
                paths.all(|path| {
                    path.strip_prefix(self.base_path.as_str()).is_some_and(|path| takes_subscription_id(method, path))
                })
            };
            match *method {
                Method::OPTIONS => Access::Anonymous,
                _ if takes_subscription_id() => Access::SubscriptionId,
                _ => Access::Jwt,
            }
        })
    }
}

/// Returns whether an operation takes the subscription id. All try-on operations that do not start a try-on take it.
///
/// Their paths are the same in the digital try-on API and in the unified API. Analytics has a base path of its own.
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
    if !matches!(*method, Method::GET | Method::HEAD) || analytics.is_some() {
        return false;
    }
    let collections = ["sku_images_operations/", "sku_try_on_operations/", "uploaded_images/"];
    match collections.into_iter().find_map(|collection| path.strip_prefix(collection)) {
        Some(id) => !id.is_empty() && !id.contains('/'),
        None => matches!(path, "predefined_try_on_models" | "try_on_models" | "subscription_details"),
    }
}

const TRY_ON_OPERATIONS: [&str; 2] = ["sku_images_operations", "sku_try_on_operations"];

/// Returns whether a request starts a try-on, under any path prefix.
///
/// Any prefix counts: a token without params, if sent to any try-on path (even an unknown path), would be valid for
/// every try-on. The JWT scheme exists to prevent this.
pub(crate) fn starts_try_on(method: &Method, paths: &NormalizedPaths<'_>) -> bool {
    let ends_in = |path: &str, name: &str| path.strip_suffix(name).is_some_and(|before| before.ends_with('/'));
    let ends = |path: &str| TRY_ON_OPERATIONS.iter().any(|name| ends_in(path, name));
    *method == Method::POST && paths.may_end_in(ends, |segment| TRY_ON_OPERATIONS.contains(&segment))
}

/// Returns whether a server may take a request for the start of a try-on, because it ignores the case, the method, or
/// what follows the operation's name, such as `.json`. Such a request never gets a token without params (rule B3).
pub(crate) fn resembles_try_on(method: &Method, paths: &NormalizedPaths<'_>) -> bool {
    let resembles = |segment: &str| {
        let segment = segment.trim_start().as_bytes();
        TRY_ON_OPERATIONS
            .iter()
            .any(|name| segment.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes())))
    };
    let ends = |path: &str| path.rsplit('/').next().is_some_and(resembles);
    !method.is_safe() && *method != Method::DELETE && paths.may_end_in(ends, resembles)
}

/// Returns the params that a request has in its path: the id of the image that it deletes, under any path prefix (rule
/// B1).
pub(crate) fn params_in_path(method: &Method, paths: &NormalizedPaths<'_>) -> Option<AuthParams> {
    if *method != Method::DELETE {
        return None;
    }
    let (name, id) = match paths.last_two_segments()? {
        ("uploaded_images", id) => (UPLOADED_IMAGE_ID, id),
        ("generated_images", id) => (GENERATED_IMAGE_ID, id),
        _ => return None,
    };
    (!id.is_empty()).then(|| AuthParams::new().with(name, id))
}
