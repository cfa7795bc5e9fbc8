//! Fuzzes `JwtIssuer`: every request gets a documented response, and no claim is signed without authorization.
//!
//! Input, one per line: the result of `authorize`, the method, the query, the content type, the size of the body's
//! chunks; then the body.
#![no_main]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tower_aiuta_auth::{AuthParams, IssuerError, JwtIssuer, JwtSigner};
use tower_aiuta_auth_fuzz::{FIXED_TIME, FixedClock, Pairs, body, claims, line, now, size};
use tower_service::Service;

const FIELDS: [&str; 6] =
    ["uploaded_image_id", "sku_id", "sku_ids", "sku_catalog_name", "product_id", "generated_image_id"];

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let mut next = || line(&mut data);
    let (Some(verdict), Some(method), Some(query), Some(content_type), Some(chunk)) =
        (next(), next(), next(), next(), next())
    else {
        return;
    };
    let Ok(method) = method.parse::<Method>() else { return };
    let mut request = Request::new(body(data, chunk.parse().unwrap_or(0)));
    *request.method_mut() = method.clone();
    let Ok(uri) = format!("/aiuta_jwt?{query}").parse::<http::Uri>() else { return };
    let query = uri.query().unwrap_or_default().to_owned();
    *request.uri_mut() = uri;
    for content_type in content_type.split('|') {
        let Ok(value) = HeaderValue::from_str(content_type) else { return };
        request.headers_mut().append("content-type", value);
    }

    // The params that `authorize` was called with, and its results.
    let calls = Arc::new(Mutex::new(Vec::new()));
    let verdict = verdict.to_owned();
    let authorize = {
        let (calls, verdict) = (Arc::clone(&calls), verdict.clone());
        move |_, params: AuthParams| {
            let result = match verdict.as_str() {
                "401" => Err(IssuerError::unauthorized()),
                "403" => Err(IssuerError::forbidden()),
                "429" => Err(IssuerError::too_many_requests(Duration::from_millis(1500))),
                "503" => Err(IssuerError::unavailable()),
                "more" => Ok(params.clone().with("user", "42").with_partition("p")),
                "other" => Ok(AuthParams::new().with("user", "42")),
                "iss" => Ok(params.clone().with("iss", "somebody else")),
                _ => Ok(params.clone()),
            };
            calls.lock().expect("one thread").push((params, result.clone()));
            std::future::ready(result)
        }
    };
    let signer = JwtSigner::hs256("issuer", "secret").expect("a signer");
    let mut issuer = JwtIssuer::new(signer, authorize).clock(FixedClock);
    let Ok(response) = now(issuer.call(request));
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let Ok(answer) = now(response.into_body().collect());
    let answer: Value = serde_json::from_slice(&answer.to_bytes()).expect("JSON");
    assert_eq!(
        (&headers["content-type"], &headers["cache-control"]),
        (&HeaderValue::from_static("application/json"), &HeaderValue::from_static("no-store"))
    );

    let calls = std::mem::take(&mut *calls.lock().expect("one thread"));
    assert!(calls.len() <= 1);
    if status == 200 {
        let [(params, Ok(given))] = &calls[..] else { panic!("the token was not authorized") };
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(2));
        assert_eq!(answer["type"], "jwt");
        let mut expected = serde_json::to_value(given).expect("JSON");
        for (name, value) in [("iss", json!("issuer")), ("iat", json!(FIXED_TIME - 5)), ("exp", json!(FIXED_TIME + 60))]
        {
            expected[name] = value;
        }
        assert_eq!(claims(answer["token"].as_str().expect("a token")), Some(expected));
        check_params(params, &method, &query, content_type, data);
        return;
    }

    assert!(answer["error"].is_string() && answer.as_object().map(serde_json::Map::len) == Some(1), "{answer}");
    match &calls[..] {
        [(params, result)] => {
            check_params(params, &method, &query, content_type, data);
            match result {
                Err(_) => assert_eq!(status.to_string(), verdict),
                // The signer fails for a registered claim. `authorize` may have made the params too large.
                Ok(given) => match status {
                    400 => assert!(!fits(given)),
                    _ => assert!(status == 500 && verdict == "iss", "{status}"),
                },
            }
        }
        _ => {
            let expected = match method {
                Method::GET => &[400, 413][..],
                Method::POST => &[400, 413, 415],
                _ => &[405],
            };
            assert!(expected.contains(&status), "{status} for {method}");
            // A valid request is not rejected.
            let good = params_of(&method, &query, content_type, data).filter(|_| status != 405);
            assert!(good.is_none(), "{status} for {good:?}: {answer}");
        }
    }
    assert_eq!(headers.contains_key("retry-after"), status == 429);
    assert_eq!(headers.contains_key("allow"), status == 405);
});

/// Checks that `authorize` was called with the params that any reader finds in the request.
fn check_params(params: &AuthParams, method: &Method, query: &str, content_type: &str, body: &[u8]) {
    let expected = params_of(method, query, content_type, body).expect("an unambiguous request");
    assert_eq!(*params, expected);
}

/// Returns the params of a request as `serde_json` and the `url` crate's form parser read them.
fn params_of(method: &Method, query: &str, content_type: &str, body: &[u8]) -> Option<AuthParams> {
    let params = if *method == Method::GET {
        if !body.is_empty() {
            return None;
        }
        let mut params = AuthParams::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            // U+FFFD stands for invalid UTF-8 and for itself.
            if key.contains('\u{fffd}') || value.contains('\u{fffd}') {
                params = strictly(query)?;
                break;
            }
            if !FIELDS.contains(&&*key) || params.get(&key).is_some() {
                return None;
            }
            params = params.with(key, value.into_owned());
        }
        let broken = query
            .split('%')
            .skip(1)
            .any(|after| !after.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)));
        if broken {
            return None;
        }
        params
    } else {
        if !query.is_empty() || content_type.contains('|') || !is_utf8_json(content_type) {
            return None;
        }
        let pairs: Pairs<Value> = serde_json::from_slice(body).ok()?;
        if pairs.0.iter().any(|(key, _)| !FIELDS.contains(&key.as_str())) {
            return None;
        }
        pairs.params(&FIELDS)?
    };
    (!params.is_empty() && fits(&params) && body.len() <= 16 * 1024).then_some(params)
}

/// Returns whether the params fit into a token of 8 KiB. Control characters take six bytes in JSON.
fn fits(params: &AuthParams) -> bool {
    let json = serde_json::to_vec(params).expect("JSON").len();
    size(params) <= 4 * 1024 && json <= (8 * 1024 - 512) / 4 * 3
}

fn is_utf8_json(content_type: &str) -> bool {
    let content_type = content_type.to_lowercase();
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let (kind, subtype) = essence.split_once('/').unwrap_or_default();
    let is_json =
        essence == "application/json" || (!kind.is_empty() && subtype.len() > 5 && subtype.ends_with("+json"));
    let mut charsets = parts.filter_map(|part| part.split_once('=')).filter(|(name, _)| name.trim() == "charset");
    is_json && charsets.all(|(_, charset)| charset.trim().trim_matches('"') == "utf-8")
}

/// Reads a query with a replacement character, which must be encoded as such.
fn strictly(query: &str) -> Option<AuthParams> {
    let mut params = AuthParams::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let [key, value] = [key, value].map(|text| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8().ok().map(|text| text.into_owned())
        });
        let (key, value) = (key?, value?);
        if !FIELDS.contains(&key.as_str()) || params.get(&key).is_some() {
            return None;
        }
        params = params.with(key, value);
    }
    Some(params)
}
