//! Which operation a request asks for, and which credentials are good for it. Plain values in, plain values out.

use http::Method;

/// The two calls that start an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sku_images_operations`, of the digital try-on API.
    SkuImages,
    /// `sku_try_on_operations`, of the unified API.
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
    /// Whether the SDKs send `x-user-id` here. What they do not call at all needs the stronger credential.
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

    /// Whether the token's claims have to agree with the body.
    pub(super) fn binds_token(&self) -> bool {
        matches!(self, Self::Start(_))
    }
}

/// Why there is no operation for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    Path,
    /// The path is there, for these methods.
    Method(&'static str),
}

/// Finds the operation. Both products share one table, by the path below their base path; the query plays no part.
pub(super) fn route(method: &Method, path: &str) -> Result<Route, Miss> {
    let path = percent_decoded(path).ok_or(Miss::Path)?;
    let below = |base| path.strip_prefix(base);
    if let Some(rest) = below("/analytics/v1/") {
        return if is_analytics(rest) { only(method, Method::POST, "POST", Route::Analytics) } else { Err(Miss::Path) };
    }
    let rest = below("/digital-try-on/v1/").or_else(|| below("/v1/")).ok_or(Miss::Path)?;
    match rest.split_once('/') {
        None if is_analytics(rest) => only(method, Method::POST, "POST", Route::Analytics),
        None => collection(method, rest),
        Some(("size_and_fit", "recommendation")) => only(method, Method::POST, "POST", Route::SizeAndFit),
        Some((name, id)) if !id.is_empty() && !id.contains('/') => item(method, name, id.to_owned()),
        Some(_) => Err(Miss::Path),
    }
}

fn collection(method: &Method, name: &str) -> Result<Route, Miss> {
    match name {
        "uploaded_images" => only(method, Method::POST, "POST", Route::Upload),
        "sku_images_operations" => only(method, Method::POST, "POST", Route::Start(Kind::SkuImages)),
        "sku_try_on_operations" => only(method, Method::POST, "POST", Route::Start(Kind::SkuTryOn)),
        "predefined_try_on_models" | "try_on_models" => only(method, Method::GET, "GET", Route::Models),
        "subscription_details" => only(method, Method::GET, "GET", Route::SubscriptionDetails),
        _ => Err(Miss::Path),
    }
}

fn item(method: &Method, name: &str, id: String) -> Result<Route, Miss> {
    match name {
        "uploaded_images" if method == Method::DELETE => Ok(Route::DeleteUploadedImage(id)),
        "uploaded_images" => only(method, Method::GET, "GET, DELETE", Route::UploadedImage(id)),
        "generated_images" => only(method, Method::DELETE, "DELETE", Route::DeleteGeneratedImage(id)),
        "sku_images_operations" => only(method, Method::GET, "GET", Route::Operation(Kind::SkuImages, id)),
        "sku_try_on_operations" => only(method, Method::GET, "GET", Route::Operation(Kind::SkuTryOn, id)),
        _ => Err(Miss::Path),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a table reads better without the ampersands")]
fn only(method: &Method, right: Method, allow: &'static str, route: Route) -> Result<Route, Miss> {
    if *method == right { Ok(route) } else { Err(Miss::Method(allow)) }
}

fn is_analytics(name: &str) -> bool {
    matches!(name, "ios-sdk-analytics" | "android-sdk-analytics" | "web-sdk-analytics")
}

/// The path as servers compare it: `%5F` is `_`. `None` if it is not UTF-8, or an escape is broken.
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
    fn every_operation_is_found_below_both_bases() {
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
    fn what_is_not_there_is_missed() {
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
            assert_eq!(route(&Method::GET, path), Err(Miss::Path), "{path}");
        }
        for (method, path, allow) in [
            (Method::GET, "/v1/sku_try_on_operations", "POST"),
            (Method::HEAD, "/v1/try_on_models", "GET"),
            (Method::PUT, "/v1/uploaded_images/x", "GET, DELETE"),
            (Method::GET, "/v1/generated_images/x", "DELETE"),
            (Method::GET, "/analytics/v1/ios-sdk-analytics", "POST"),
        ] {
            assert_eq!(route(&method, path), Err(Miss::Method(allow)), "{method} {path}");
        }
    }
}
