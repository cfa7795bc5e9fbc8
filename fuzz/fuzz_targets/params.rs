//! Fuzzes params in a body: the signed params are those that `serde_json` reads there, or the request is not sent.
//!
//! Input: a line with the size of the body's chunks (one chunk if empty), then the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use tower_aiuta_auth::{AiutaAuthLayer, AuthErrorKind, AuthParams};
use tower_aiuta_auth_fuzz::{FixedClock, Pairs, ParamsInToken, body, line, send, size};

const URI: &str = "https://api.aiuta.com/v1/sku_try_on_operations";
const FIELDS: [&str; 5] = ["uploaded_image_id", "sku_id", "sku_ids", "sku_catalog_name", "product_id"];
const BODY_LIMIT: usize = 6 * 1024;
const PARAMS_LIMIT: usize = 4 * 1024;
const JSON_LIMIT: usize = (8 * 1024 - 512) / 4 * 3;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data;
    let Some(chunk) = line(&mut bytes) else { return };
    let chunk = chunk.parse().unwrap_or(0);
    let layer =
        AiutaAuthLayer::builder().jwt("id", ParamsInToken).clock(FixedClock).body_limit(BODY_LIMIT).max_tokens(16);
    let layer = layer.build().expect("a layer");
    let request = || http::Request::post(URI).body(body(bytes, chunk)).expect("a request");

    // Caches tokens for params that differ in type or partition only. The body must not get one of those.
    let reference = reference(bytes);
    if let Some(params) = reference.as_ref().ok().and_then(|params| params.as_ref()) {
        let tokens = layer.token_cache().expect("tokens");
        let strings = params.to_strings().into_iter();
        let strings = strings.fold(AuthParams::new(), |params, (key, value)| params.with(key, value));
        for other in [strings, params.clone().with_partition("p")] {
            let _ = futures::FutureExt::now_or_never(tokens.get(&other));
        }
    }

    let first = send(&layer, request());
    let again = send(&layer, request());
    match (&first, &again) {
        (Ok(first), Ok(again)) => {
            assert_eq!(first.credentials(), again.credentials(), "the same body got another token")
        }
        (Err(first), Err(again)) => assert_eq!(first.kind(), again.kind()),
        _ => panic!("the same body got two different results: {first:?} {again:?}"),
    }
    let sent = match first {
        Ok(seen) => {
            assert_eq!(seen.body, bytes, "the body is unchanged");
            if let Some(body) = with_duplicate_field(bytes) {
                let request = http::Request::post(URI).body(self::body(&body, chunk)).expect("a request");
                let kind = send(&layer, request).map_err(|error| error.kind()).map(|seen| seen.body);
                let expected =
                    if body.len() > BODY_LIMIT { AuthErrorKind::BodyTooLarge } else { AuthErrorKind::InvalidBody };
                assert_eq!(kind, Err(expected), "a field occurs twice");
            }
            Ok(seen.claims().expect("one token")["params"].clone())
        }
        Err(error) => Err(error.kind()),
    };

    let expected = match (bytes.len(), reference) {
        (0, _) => Err(AuthErrorKind::MissingParams),
        (BODY_LIMIT.., _) if bytes.len() > BODY_LIMIT => Err(AuthErrorKind::BodyTooLarge),
        (_, Ok(Some(params))) if params.is_empty() => Err(AuthErrorKind::MissingParams),
        (_, Ok(Some(params))) if size(&params) > PARAMS_LIMIT => Err(AuthErrorKind::InvalidBody),
        // Control characters take six bytes in JSON. A token of 8 KiB has to contain it.
        (_, Ok(Some(params))) if serde_json::to_vec(&params).expect("JSON").len() > JSON_LIMIT => {
            Err(AuthErrorKind::InvalidBody)
        }
        (_, Ok(Some(params))) => Ok(serde_json::to_value(params).expect("JSON")),
        (_, Ok(None)) => Err(AuthErrorKind::InvalidBody),
        // serde_json may reject the depth, lone surrogates or numbers of other fields, which the layer skips. It must
        // still find the signed fields.
        (_, Err(())) => match sent {
            Ok(params) => return check_raw(bytes, &params),
            Err(kind) => {
                return assert!(matches!(kind, AuthErrorKind::InvalidBody | AuthErrorKind::MissingParams), "{kind:?}");
            }
        },
    };
    assert_eq!(sent, expected);
});

/// Returns the body with one of its signed fields repeated under an escaped name, which readers may treat differently.
fn with_duplicate_field(bytes: &[u8]) -> Option<Vec<u8>> {
    let pairs: Pairs<Box<RawValue>> = serde_json::from_slice(bytes).ok()?;
    let (key, _) = pairs.0.iter().find(|(key, _)| FIELDS.contains(&key.as_str()))?;
    let (before, after) = key.split_at(bytes.len() % key.len());
    let mut after = after.chars();
    let escaped = format!("{before}\\u{:04x}{}", u32::from(after.next()?), after.as_str());
    let end = bytes.trim_ascii_end().strip_suffix(b"}")?;
    Some([end, format!(r#","{escaped}":null}}"#).as_bytes()].concat())
}

/// Returns the params in a body, `None` if a field cannot be signed, or an error if the body is not a JSON object.
fn reference(bytes: &[u8]) -> Result<Option<AuthParams>, ()> {
    let pairs: Pairs<Value> = serde_json::from_slice(bytes).map_err(drop)?;
    Ok(pairs.params(&FIELDS))
}

/// Checks that the params are exactly the signed fields of the body, each of which occurs once.
fn check_raw(bytes: &[u8], params: &Value) {
    let pairs: Pairs<Box<RawValue>> = serde_json::from_slice(bytes).expect("an object");
    let signed: Vec<_> = pairs.0.into_iter().filter(|(key, _)| FIELDS.contains(&key.as_str())).collect();
    let signed = signed.into_iter().map(|(key, raw)| (key, serde_json::from_str(raw.get()).expect("a plain value")));
    let expected = Pairs(signed.collect()).params(&FIELDS).expect("plain values, each once");
    assert_eq!(*params, serde_json::to_value(expected).expect("JSON"));
}
