//! Fuzzes `Jwt::parse`: it never panics, and a token that it accepts can be sent and has the lifetime of its payload.
//!
//! Input: a line with the form of the rest, `token` or `payload`; then the rest.
#![no_main]

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_aiuta_auth::{AiutaAuthLayer, Jwt, source_fn};
use tower_aiuta_auth_fuzz::{Pairs, line, send, token};

const LATEST: f64 = 253_402_300_799.0;

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let Some(form) = line(&mut data) else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let compact = if form == "payload" { token(text) } else { text.to_owned() };
    let parsed = Jwt::parse(compact.as_str());
    if let Ok(jwt) = &parsed {
        accepted(&compact, jwt);
    }
    if form == "payload" && compact.len() <= 8 * 1024 {
        // serde_json rejects depths and numbers that the layer accepts, because it skips other claims.
        let claims = serde_json::from_str::<Pairs<Value>>(text);
        if let Ok(claims) = claims {
            assert_eq!(parsed.is_ok(), lifetime(&claims).is_some(), "{text}");
        }
    }
});

fn accepted(compact: &str, jwt: &Jwt) {
    assert_eq!(jwt.expose(), compact, "the token is unchanged");
    assert!(compact.len() <= 8 * 1024);
    let parts: Vec<&str> = compact.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("{} parts", parts.len()) };
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    assert!(!signature.is_empty() && signature.bytes().all(base64url));
    let header = URL_SAFE_NO_PAD.decode(header).expect("a header in base64url");
    let header: Value = serde_json::from_slice(&header).expect("a header in JSON");
    assert!(header["alg"].is_string());

    let payload = URL_SAFE_NO_PAD.decode(payload).expect("a payload in base64url");
    if let Ok(claims) = serde_json::from_slice::<Pairs<Value>>(&payload) {
        let [exp, iat] = lifetime(&claims).expect("claims that state a lifetime");
        let times = [jwt.expires_at(), jwt.issued_at()];
        for (time, claimed) in times.into_iter().zip([exp, iat]) {
            let expected = claimed.map(|claimed| Duration::from_secs_f64(claimed.clamp(0.0, LATEST)));
            assert_eq!(time, expected.map(|since| SystemTime::UNIX_EPOCH + since));
        }
    }
    assert!(!format!("{jwt:?}").contains(signature) || signature.len() < 8, "`Debug` contains the signature");

    // The token is sent unchanged, whatever its lifetime, and marked sensitive.
    let given = compact.to_owned();
    let source = source_fn(move |_| std::future::ready(Ok::<_, std::io::Error>(given.clone())));
    let layer = AiutaAuthLayer::builder().jwt("id", source).max_tokens(4).build().expect("a layer");
    let request = http::Request::delete("https://api.aiuta.com/v1/uploaded_images/1");
    let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).expect("a request");
    let seen = send(&layer, request).expect("sent");
    let [("authorization", value)] = seen.credentials()[..] else { panic!("{:?}", seen.credentials()) };
    assert!(value.is_sensitive());
    assert_eq!(value.as_bytes().strip_prefix(b"Bearer "), Some(compact.as_bytes()));
}

/// Returns `exp` and `iat`. Returns `None` if one of them occurs twice or is neither a number nor null.
fn lifetime(claims: &Pairs<Value>) -> Option<[Option<f64>; 2]> {
    let claim = |name| {
        let mut values = claims.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (None | Some(Value::Null), None) => Some(None),
            (Some(value), None) => value.as_f64().map(Some),
            _ => None,
        }
    };
    Some([claim("exp")?, claim("iat")?])
}
