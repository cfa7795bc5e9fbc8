//! Trusted origins: nothing that the `url` crate resolves to another scheme, host or port is ever given a credential.
//!
//! Input, a line each: flags (`c` for CONNECT, `o` to trust origin-form, `p` for plaintext origins), origins (blanks between them; none:
//! a fixed set), the request's target, and its `Host` headers.
#![no_main]

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use tower_aiuta_auth::AiutaAuthLayer;
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
    // So that "nowhere" is no answer: each is trusted in the words in which it was given.
    for origin in &origins {
        let request = Request::get(format!("{}/v1/x", origin.trim_end_matches('/'))).body(Full::<Bytes>::default());
        let seen = send(&layer, request.expect("an origin, and a path")).expect("an API key is always at hand");
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

    let seen = send(&layer, request).expect("an API key is always at hand");
    assert_eq!(seen.uri, uri, "sent as it came");
    let trusted = match seen.credentials()[..] {
        [("x-api-key", value)] if value == "the-key" => true,
        _ => {
            assert_eq!(seen.headers, given, "untouched");
            false
        }
    };
    if !trusted {
        return;
    }

    assert!(!connect, "CONNECT names a proxy's destination");
    if uri.authority().is_none() {
        assert!(origin_form && uri.scheme().is_none(), "{uri}");
    }
    // Wherever the `url` crate says that this goes, from whichever origin it is relative to, is one of the origins.
    let mut read = 0;
    for origin in origins.iter().flatten() {
        let Ok(destination) = origin.join(target) else { continue };
        read += 1;
        let home = origins.iter().flatten().any(|origin| origin.origin() == destination.origin());
        assert!(home, "{target} leads to {destination}");
        for host in &hosts {
            let host = std::str::from_utf8(host).expect("text, or it is no host");
            let host = Url::parse(&format!("{}://{host}/", destination.scheme())).expect("a host");
            let named = if uri.authority().is_some() {
                host.origin() == destination.origin()
            } else {
                // Under whichever scheme; but a trusted one.
                let http = |scheme: &str| {
                    let mut host = host.clone();
                    let _ = host.set_scheme(scheme);
                    host.origin()
                };
                origins.iter().flatten().any(|origin| origin.origin() == http(origin.scheme()))
            };
            assert!(named, "the host header {host} is not {destination}");
        }
    }
    // An origin that the `url` crate can't read is compared as text: only the very same text gets there.
    if read == 0 {
        assert!(origins.iter().any(Option::is_none), "{target} is no URL");
    }
});

/// An origin that was accepted is one by the `url` crate's reading, too; `None` if that can't read it at all.
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
