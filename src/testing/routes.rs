//! Finds the operation of a request and the credentials that it accepts.

use http::Method;

/// The two kinds of try-on operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sku_images_operations` of the digital try-on API.
    SkuImages,
    /// `sku_try_on_operations` of the unified API.
    SkuTryOn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Upload,
    UploadedImage(String),
    DeleteUploadedImage(String),
    DeleteGeneratedImage(String),
    Start(Kind),
    Operation(Kind, String),
    Models,
    SubscriptionDetails,
    SizeAndFit,
    Analytics,
}

impl Route {
    /// Returns whether the operation accepts `x-user-id`: the official SDKs send it there. Operations that the SDKs
    /// never call need an API key or a token.
    pub(super) fn admits_user_id(&self) -> bool {
        match self {
            Self::Start(_) | Self::DeleteUploadedImage(_) | Self::DeleteGeneratedImage(_) => false,
            Self::Upload
            | Self::UploadedImage(_)
            | Self::Operation(..)
            | Self::Models
            | Self::SubscriptionDetails
            | Self::SizeAndFit
            | Self::Analytics => true,
        }
    }

    /// Returns whether the token's claims must match the body.
    pub(super) fn binds_token(&self) -> bool {
        matches!(self, Self::Start(_))
    }
}

/// The reason why a request has no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    Path,
    /// The path only exists for these methods.
    Method(&'static str),
}

/// Finds the operation by method and path. Both base paths have the same operations.
pub(super) fn route(method: &Method, path: &str) -> Result<Route, NotFound> {
    let path = percent_decoded(path).ok_or(NotFound::Path)?;
    let below = |base| path.strip_prefix(base);
    if let Some(rest) = below("/analytics/v1/") {
        return if is_analytics(rest) {
            require(method, Method::POST, "POST", Route::Analytics)
        } else {
            Err(NotFound::Path)
        };
    }
    let rest = below("/digital-try-on/v1/").or_else(|| below("/v1/")).ok_or(NotFound::Path)?;
    match rest.split_once('/') {
        None if is_analytics(rest) => require(method, Method::POST, "POST", Route::Analytics),
        None => collection(method, rest),
        Some(("size_and_fit", "recommendation")) => require(method, Method::POST, "POST", Route::SizeAndFit),
        Some((name, id)) if !id.is_empty() && !id.contains('/') => item(method, name, id.to_owned()),
        Some(_) => Err(NotFound::Path),
    }
}

fn collection(method: &Method, name: &str) -> Result<Route, NotFound> {
    match name {
        "uploaded_images" => require(method, Method::POST, "POST", Route::Upload),
        "sku_images_operations" => require(method, Method::POST, "POST", Route::Start(Kind::SkuImages)),
        "sku_try_on_operations" => require(method, Method::POST, "POST", Route::Start(Kind::SkuTryOn)),
        "predefined_try_on_models" | "try_on_models" => require(method, Method::GET, "GET", Route::Models),
        "subscription_details" => require(method, Method::GET, "GET", Route::SubscriptionDetails),
        _ => Err(NotFound::Path),
    }
}

fn item(method: &Method, name: &str, id: String) -> Result<Route, NotFound> {
    match name {
        "uploaded_images" if method == Method::DELETE => Ok(Route::DeleteUploadedImage(id)),
        "uploaded_images" => require(method, Method::GET, "GET, DELETE", Route::UploadedImage(id)),
        "generated_images" => require(method, Method::DELETE, "DELETE", Route::DeleteGeneratedImage(id)),
        "sku_images_operations" => require(method, Method::GET, "GET", Route::Operation(Kind::SkuImages, id)),
        "sku_try_on_operations" => require(method, Method::GET, "GET", Route::Operation(Kind::SkuTryOn, id)),
        _ => Err(NotFound::Path),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the calls are easier to read without `&`")]
fn require(method: &Method, allowed: Method, allow: &'static str, route: Route) -> Result<Route, NotFound> {
    if *method == allowed { Ok(route) } else { Err(NotFound::Method(allow)) }
}

fn is_analytics(name: &str) -> bool {
    matches!(name, "ios-sdk-analytics" | "android-sdk-analytics" | "web-sdk-analytics")
}

/// Decodes percent-encoding. Returns `None` for an invalid escape, or if the result is not UTF-8.
fn percent_decoded(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (escape, rest) = part.split_at_checked(2)?;
        decoded.push(u8::from_str_radix(escape, 16).ok()?);
        decoded.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_found_below_both_base_paths() {
        let id = || "x".to_owned();
        for (method, path, expected, user_id) in [
            (Method::POST, "uploaded_images", Route::Upload, true),
            (Method::GET, "uploaded_images/x", Route::UploadedImage(id()), true),
            (Method::DELETE, "uploaded_images/x", Route::DeleteUploadedImage(id()), false),
            (Method::DELETE, "generated_images/x", Route::DeleteGeneratedImage(id()), false),
            (Method::POST, "sku_images_operations", Route::Start(Kind::SkuImages), false),
            (Method::POST, "sku_try_on_operations", Route::Start(Kind::SkuTryOn), false),
            (Method::POST, "sku%5Ftry_on_operations", Route::Start(Kind::SkuTryOn), false),
            (Method::GET, "sku_images_operations/x", Route::Operation(Kind::SkuImages, id()), true),
            (Method::GET, "sku_try_on_operations/x", Route::Operation(Kind::SkuTryOn, id()), true),
            (Method::GET, "predefined_try_on_models", Route::Models, true),
            (Method::GET, "try_on_models", Route::Models, true),
            (Method::GET, "subscription_details", Route::SubscriptionDetails, true),
            (Method::POST, "size_and_fit/recommendation", Route::SizeAndFit, true),
            (Method::POST, "ios-sdk-analytics", Route::Analytics, true),
            (Method::POST, "android-sdk-analytics", Route::Analytics, true),
            (Method::POST, "web-sdk-analytics", Route::Analytics, true),
        ] {
            assert_eq!(expected.admits_user_id(), user_id, "{expected:?}");
            assert_eq!(expected.binds_token(), matches!(expected, Route::Start(_)));
            for base in ["/digital-try-on/v1/", "/v1/"] {
                assert_eq!(route(&method, &format!("{base}{path}")), Ok(expected.clone()), "{method} {base}{path}");
            }
        }
        assert_eq!(route(&Method::POST, "/analytics/v1/web-sdk-analytics"), Ok(Route::Analytics));
    }

    #[test]
    fn unknown_paths_and_methods_are_not_found() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v2/uploaded_images",
            "/v1/uploaded_images/",
            "/v1/uploaded_images/a/b",
            "/v1//uploaded_images",
            "/studio/v1/uploaded_images",
            "/analytics/v1/uploaded_images",
            "/v1/uploaded%5",
            "/v1/uploaded%ff",
        ] {
            assert_eq!(route(&Method::GET, path), Err(NotFound::Path), "{path}");
        }
        for (method, path, allow) in [
            (Method::GET, "/v1/sku_try_on_operations", "POST"),
            (Method::HEAD, "/v1/try_on_models", "GET"),
            (Method::PUT, "/v1/uploaded_images/x", "GET, DELETE"),
            (Method::GET, "/v1/generated_images/x", "DELETE"),
            (Method::GET, "/analytics/v1/ios-sdk-analytics", "POST"),
        ] {
            assert_eq!(route(&method, path), Err(NotFound::Method(allow)), "{method} {path}");
        }
    }
}
