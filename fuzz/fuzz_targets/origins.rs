//! Fuzzes trusted origins: no credential is sent to a URL that the `url` crate resolves to another scheme, host or
//! port.
//!
//! Input, one per line: flags (`c` for CONNECT, `o` to trust origin-form, `p` for plaintext origins); the origins,
//! separated by blanks (a fixed set if empty); the request's target; its `Host` headers.
#![no_main]

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use tower_aiuta_auth::{AiutaAuthLayer, AuthErrorKind};
use tower_aiuta_auth_fuzz::{CREDENTIALS, line, send};
use url::{Host, Url};

const ORIGINS: &str =
    "https://api.aiuta.com http://127.0.0.1:8080 https://[2001:db8::1]:8443 https://gateway.example:443";

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let (Some(flags), Some(origins), Some(target)) = (line(&mut data), line(&mut data), line(&mut data)) else {
        return;
    };
    let [connect, origin_form, plaintext] = ['c', 'o', 'p'].map(|flag| flags.contains(flag));
    let origins: Vec<&str> = if origins.is_empty() { ORIGINS } else { origins }.split(' ').collect();
    let layer = AiutaAuthLayer::builder().api_key("the-key").origins(origins.iter().copied());
    let layer = layer.trust_origin_form(origin_form).danger_allow_plaintext_origins(plaintext).build();
    let Ok(layer) = layer else { return };
    // Each origin must be trusted in the form in which it was given. Otherwise a layer that trusts nothing would pass.
    for origin in &origins {
        let request = Request::get(format!("{}/v1/x", origin.trim_end_matches('/'))).body(Full::<Bytes>::default());
        let seen = send(&layer, request.expect("an origin, and a path")).expect("an API key never fails");
        assert_eq!(seen.credentials().len(), 1, "{origin}");
    }
    let origins: Vec<Option<Url>> = origins.iter().map(|origin| accepted(origin, plaintext)).collect();

    let Ok(uri) = target.parse::<Uri>() else { return };
    let mut request = Request::new(Full::<Bytes>::default());
    *request.method_mut() = if connect { Method::CONNECT } else { Method::GET };
    *request.uri_mut() = uri.clone();
    for name in CREDENTIALS {
        request.headers_mut().append(name, HeaderValue::from_static("the caller's own"));
    }
    let mut hosts = Vec::new();
    for host in data.split(|byte| *byte == b'\n').filter(|host| !host.is_empty()) {
        let Ok(value) = HeaderValue::from_bytes(host) else { return };
        request.headers_mut().append("host", value);
        hosts.push(host);
    }
    let given = request.headers().clone();

    // The scheme of a `Host` header may be any, as long as it names an origin.
    let names_an_origin = |host: &&[u8]| {
        let named = |origin: &Url| {
            let host = std::str::from_utf8(host).ok().map(|host| Url::parse(&format!("{}://{host}/", origin.scheme())));
            host.is_some_and(|host| host.is_ok_and(|host| host.origin() == origin.origin()))
        };
        origins.iter().flatten().any(named)
    };
    let seen = match send(&layer, request) {
        Ok(seen) => seen,
        Err(error) => {
            assert_eq!(error.kind(), AuthErrorKind::HostMismatch);
            assert!(!connect && uri.authority().is_some() && !hosts.is_empty(), "{uri}");
            return;
        }
    };
    assert_eq!(seen.uri, uri, "the URI is unchanged");
    let trusted = match seen.credentials()[..] {
        [("x-api-key", value)] if value == "the-key" => true,
        _ => {
            assert_eq!(seen.headers, given, "the headers are unchanged");
            false
        }
    };
    if !trusted {
        return;
    }

    assert!(!connect, "CONNECT is never trusted");
    if uri.authority().is_none() {
        assert!(origin_form && uri.scheme().is_none(), "{uri}");
    }
    // The destination according to the `url` crate, relative to any origin, must be one of the origins.
    let mut parsed = 0;
    for origin in origins.iter().flatten() {
        let Ok(destination) = origin.join(target) else { continue };
        parsed += 1;
        let is_trusted = origins.iter().flatten().any(|origin| origin.origin() == destination.origin());
        assert!(is_trusted, "{target} leads to {destination}");
        assert!(hosts.iter().all(names_an_origin), "a host header of {hosts:?} names no origin");
    }
    // An origin that the `url` crate cannot parse is compared as text, so only the same text is trusted.
    if parsed == 0 {
        assert!(origins.iter().any(Option::is_none), "{target} is not a URL");
    }
});

/// Checks that the `url` crate also reads an accepted origin as one. Returns `None` if it cannot parse the origin.
fn accepted(origin: &str, plaintext: bool) -> Option<Url> {
    let url = Url::parse(origin).ok()?;
    assert!(matches!(url.scheme(), "https" | "http"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert!(url.path() == "/" && url.query().is_none() && url.fragment().is_none(), "{url}");
    if url.scheme() == "http" && !plaintext {
        let loopback = match url.host().expect("a host") {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        assert!(loopback, "{url} is another machine");
    }
    Some(url)
}
