//! Checks a request's credentials, by the rules in the docs of [`FakeAiuta`](super::FakeAiuta#rules).

use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

use super::fake_aiuta::Config;
use super::record::{API_KEY, CREDENTIALS, USER_ID};
use super::routes::Route;
use super::token::{self, Claims};

/// The registered claims (RFC 7519, section 4.1). They are never compared with the body.
const REGISTERED: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// Checks a request's credentials. `Ok` contains the token of a request that carries one; the caller checks whether it
/// was revoked. `Err` contains the reason for the rejection, without any secret.
pub(super) fn authenticate(
    config: &Config,
    route: &Route,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<Option<String>, String> {
    let present: Vec<_> = CREDENTIALS.into_iter().filter(|name| headers.contains_key(name)).collect();
    let [name] = &present[..] else {
        return Err(if present.is_empty() { "no credential" } else { "more than one credential" }.to_owned());
    };
    let value = match headers.get_all(name).iter().collect::<Vec<_>>()[..] {
        [value] => value,
        _ => return Err(format!("several values of `{name}`")),
    };
    if name == API_KEY {
        return if value == config.api_key.as_str() { Ok(None) } else { Err("the API key is wrong".to_owned()) };
    }
    if name == USER_ID {
        return match route.admits_user_id() {
            false => Err("this operation does not accept `x-user-id`".to_owned()),
            true if value != config.subscription_id.as_str() => Err("the subscription id is wrong".to_owned()),
            true => Ok(None),
        };
    }
    debug_assert_eq!(name, AUTHORIZATION);
    let token = bearer(value).ok_or("`authorization` does not contain a Bearer token")?;
    let claims = token::verify(token, &config.issuer, &config.secret, now)?;
    if route.binds_token() {
        match_body(&claims, body)?;
    }
    Ok(Some(token.to_owned()))
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
}

/// Checks that each param in the token has the same value in the body.
fn match_body(claims: &Claims, body: &[u8]) -> Result<(), String> {
    let fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let mut params = claims.iter().filter(|(name, _)| !REGISTERED.contains(&name.as_str())).peekable();
    if params.peek().is_none() {
        return Err("the token contains no params".to_owned());
    }
    for (name, claim) in params {
        match fields.get(name) {
            None => return Err(format!("the body has no field for the claim `{name}`")),
            Some(field) if matches_field(claim, field) => {}
            Some(_) => return Err(format!("the claim `{name}` differs from the field in the body")),
        }
    }
    Ok(())
}

/// Returns whether the values are equal. A list equals a claim of its items joined by `,`: the iOS SDK passes lists to
/// its integrator in this form.
fn matches_field(claim: &Value, field: &Value) -> bool {
    claim == field || claim.is_string() && joined(field).as_deref() == claim.as_str()
}

/// Joins a list of strings. Returns `None` for any other value.
fn joined(field: &Value) -> Option<String> {
    let items: Option<Vec<_>> = field.as_array()?.iter().map(Value::as_str).collect();
    Some(items?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_must_match_the_body() {
        let body = json!({"uploaded_image_id": "a", "sku_ids": ["x", "y"], "n": 1, "none": null, "mixed": ["x", 1]});
        for (claims, matches) in [
            (json!({"uploaded_image_id": "a"}), true),
            (json!({"uploaded_image_id": "a", "sku_ids": ["x", "y"]}), true),
            (json!({"sku_ids": "x,y"}), true),
            (json!({"none": null}), true),
            (json!({"iss": "i", "sub": "s", "aud": "a", "exp": 1, "nbf": 1, "iat": 1, "jti": "j", "n": 1}), true),
            (json!({"iss": "i", "sub": "s", "aud": "a", "exp": 1, "nbf": 1, "iat": 1, "jti": "j"}), false),
            (json!({}), false),
            (json!({"uploaded_image_id": "b"}), false),
            (json!({"uploaded_image_id": ["a"]}), false),
            (json!({"uploaded_image_id": "a", "product_id": "p"}), false),
            (json!({"sku_ids": ["y", "x"]}), false),
            (json!({"sku_ids": "x, y"}), false),
            (json!({"n": "1"}), false),
            (json!({"mixed": "x,1"}), false),
            (json!({"mixed": 1}), false),
            (json!({"none": "null"}), false),
            (json!({"n": null}), false),
        ] {
            let map: Claims = serde_json::from_value(claims.clone()).unwrap();
            assert_eq!(match_body(&map, body.to_string().as_bytes()).is_ok(), matches, "{claims}");
        }
        let claims: Claims = serde_json::from_value(json!({"n": 1})).unwrap();
        assert!(match_body(&claims, b"not JSON").is_err());
    }

    #[test]
    fn bearer_needs_scheme_and_token() {
        for (value, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer x", Some("x")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic x", None),
        ] {
            assert_eq!(bearer(&HeaderValue::from_static(value)), token, "{value}");
        }
    }
}
