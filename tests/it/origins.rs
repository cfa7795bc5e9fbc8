//! Rule A2: which origins are trusted. Requests to all others are sent without a credential.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use tower_aiuta_auth::{AiutaAuthBuilder, AiutaAuthLayer, ConfigError};

use crate::support::*;

/// Returns whether the layer adds a credential to a request. Asserts that both schemes agree, and that a request
/// without a credential is untouched.
async fn trusted(set: impl Fn(AiutaAuthBuilder) -> AiutaAuthBuilder, request: &Request<Full<Bytes>>) -> bool {
    let mut answers = Vec::new();
    for builder in [AiutaAuthLayer::builder().api_key("key"), jwt(Source::new())] {
        let (layer, inner) = (set(builder).build().unwrap(), Recorder::new());
        send(&service(&layer, &inner), request.clone()).await.unwrap();
        let seen = inner.only();
        assert_eq!(seen.uri, *request.uri());
        match seen.credentials().len() {
            0 => assert_eq!(seen.headers, *request.headers()),
            count => assert_eq!(count, 1),
        }
        answers.push(!seen.credentials().is_empty());
    }
    assert_eq!(answers[0], answers[1], "{}", request.uri());
    answers[0]
}

fn with_hosts(mut request: Request<Full<Bytes>>, hosts: &[&[u8]]) -> Request<Full<Bytes>> {
    for host in hosts {
        request.headers_mut().append(HOST, HeaderValue::from_bytes(host).unwrap());
    }
    request
}

#[tokio::test]
async fn a2_scheme_host_and_effective_port_must_match_the_default_origin() {
    for (uri, expected) in [
        ("https://api.aiuta.com/v1/x", true),
        ("https://api.aiuta.com", true),
        ("https://api.aiuta.com?a=b", true),
        ("https://API.Aiuta.COM/v1/x", true),
        ("HTTPS://api.aiuta.com/v1/x", true),
        ("https://api.aiuta.com:443/v1/x", true),
        ("https://api.aiuta.com:/v1/x", true),
        ("https://user:password@api.aiuta.com/v1/x", true),
        ("https://evil.example:443@api.aiuta.com/v1/x", true),
        // Other ports, and ports that clients may read differently.
        ("https://api.aiuta.com:80/v1/x", false),
        ("https://api.aiuta.com:8443/v1/x", false),
        ("https://api.aiuta.com:65979/v1/x", false),
        ("https://api.aiuta.com:4294967739/v1/x", false),
        ("https://api.aiuta.com:https/v1/x", false),
        ("https://api.aiuta.com:-443/v1/x", false),
        ("https://api.aiuta.com:+443/v1/x", false),
        ("https://api.aiuta.com:443abc/v1/x", false),
        ("https://api.aiuta.com:[::1]:443/v1/x", false),
        ("https://api.aiuta.com:[evil.example]:443/v1/x", false),
        // Other schemes.
        ("http://api.aiuta.com/v1/x", false),
        ("http://api.aiuta.com:443/v1/x", false),
        ("ws://api.aiuta.com:443/v1/x", false),
        ("ftp://api.aiuta.com:443/v1/x", false),
        // Other hosts.
        ("https://api.aiuta.com./v1/x", false),
        ("https://aiuta.com/v1/x", false),
        ("https://api.preprod.aiuta.com/v1/x", false),
        ("https://xapi.aiuta.com/v1/x", false),
        ("https://x.api.aiuta.com/v1/x", false),
        ("https://api.aiuta.com.evil.example/v1/x", false),
        ("https://api.aiuta.comx/v1/x", false),
        ("https://api.aiuta.co/v1/x", false),
        ("https://api-aiuta.com/v1/x", false),
        ("https://api.aiuta.com@evil.example/v1/x", false),
        ("https://api.aiuta.com:443@evil.example/v1/x", false),
        ("https://user@api.aiuta.com@evil.example/v1/x", false),
        ("https://evil.example/https://api.aiuta.com/v1/x", false),
        ("https://evil.example?@api.aiuta.com/v1/x", false),
        ("https://evil.example#@api.aiuta.com/v1/x", false),
        ("https://evil.example,api.aiuta.com/v1/x", false),
        ("https://api.aiuta.com,evil.example/v1/x", false),
        ("https://evil.example;api.aiuta.com/v1/x", false),
        ("https://[::1]/v1/x", false),
        ("https://[api.aiuta.com]/v1/x", false),
        ("https://[::ffff:1.2.3.4]:443/v1/x", false),
        ("https://1.2.3.4/v1/x", false),
    ] {
        assert_eq!(trusted(|builder| builder, &get(uri)).await, expected, "{uri}");
    }
}

#[tokio::test]
async fn a2_configured_origins_replace_the_default() {
    let set = |builder: AiutaAuthBuilder| {
        builder.origins([
            "https://API.preprod.aiuta.com",
            "https://gateway.example:8443/",
            "http://localhost:3000",
            "http://[::1]",
            "https://[2001:db8::1]:8443",
        ])
    };
    for (uri, expected) in [
        ("https://api.preprod.aiuta.com/v1/x", true),
        ("https://api.preprod.aiuta.com:443/v1/x", true),
        ("https://gateway.example:8443/v1/x", true),
        ("https://GATEWAY.example:08443/v1/x", true),
        ("http://localhost:3000/v1/x", true),
        ("http://[::1]/v1/x", true),
        ("http://[::1]:80/v1/x", true),
        ("https://[2001:DB8::1]:8443/v1/x", true),
        ("https://api.aiuta.com/v1/x", false),
        ("https://gateway.example/v1/x", false),
        ("https://gateway.example:443/v1/x", false),
        ("https://api.preprod.aiuta.com:8443/v1/x", false),
        ("http://gateway.example:8443/v1/x", false),
        ("https://localhost:3000/v1/x", false),
        ("http://localhost/v1/x", false),
        ("http://127.0.0.1:3000/v1/x", false),
        ("http://[::1]:3000/v1/x", false),
        ("https://[2001:db8::1]/v1/x", false),
        ("https://[2001:db8::2]:8443/v1/x", false),
        // Another spelling of the same address. Hosts are compared as text, so it is not trusted.
        ("https://[2001:db8:0::1]:8443/v1/x", false),
    ] {
        assert_eq!(trusted(set, &get(uri)).await, expected, "{uri}");
    }
}

#[tokio::test]
async fn a2_host_header_must_match_the_uri() {
    for (hosts, expected) in [
        (&[b"api.aiuta.com".as_slice()][..], true),
        (&[b"API.aiuta.com:443"], true),
        (&[b"api.aiuta.com:"], true),
        (&[b"api.aiuta.com", b"api.aiuta.com"], true),
        (&[b"evil.example"], false),
        (&[b"api.aiuta.com", b"evil.example"], false),
        (&[b"evil.example", b"api.aiuta.com"], false),
        (&[b"api.aiuta.com:80"], false),
        (&[b"api.aiuta.com:8443"], false),
        (&[b"api.aiuta.com:x"], false),
        (&[b"api.aiuta.com:+443"], false),
        (&[b"api.aiuta.com."], false),
        (&[b"user@api.aiuta.com"], false),
        (&[b"api.aiuta.com@evil.example"], false),
        (&[b"api.aiuta.com, evil.example"], false),
        (&[b"api.aiuta.com,evil.example"], false),
        (&[b"api.aiuta.com/"], false),
        (&[b"https://api.aiuta.com"], false),
        (&[b" api.aiuta.com"], false),
        (&[b"api.aiuta.com\tx"], false),
        (&[b"\xff\xfe"], false),
        (&[b"b\xc3\xbccher.example"], false),
        (&[b""], false),
        (&[b"", b"api.aiuta.com"], false),
    ] {
        let absolute = with_hosts(get("https://api.aiuta.com/v1/x"), hosts);
        assert_eq!(trusted(|builder| builder, &absolute).await, expected, "absolute-form, {hosts:?}");
        let relative = with_hosts(get("/v1/x"), hosts);
        assert_eq!(
            trusted(|builder| builder.trust_origin_form(true), &relative).await,
            expected,
            "origin-form, {hosts:?}"
        );
        assert!(!trusted(|builder| builder, &relative).await, "origin-form is not trusted by default, {hosts:?}");
    }
}

#[tokio::test]
async fn a2_host_header_must_name_the_same_origin_as_the_uri() {
    let set = |builder: AiutaAuthBuilder| {
        builder
            .origins(["https://api.aiuta.com", "https://gateway.example", "http://localhost:3000"])
            .trust_origin_form(true)
    };
    for (uri, hosts, expected) in [
        ("https://gateway.example/v1/x", &["gateway.example"][..], true),
        ("https://gateway.example/v1/x", &["api.aiuta.com"], false),
        ("http://localhost:3000/v1/x", &["localhost:3000"], true),
        ("http://localhost:3000/v1/x", &["localhost"], false),
        ("/v1/x", &["gateway.example"], true),
        ("/v1/x", &["localhost:3000"], true),
        ("/v1/x", &["localhost"], false),
        ("/v1/x", &["gateway.example", "api.aiuta.com"], false),
        ("/v1/x", &[], true),
    ] {
        let hosts_bytes: Vec<_> = hosts.iter().map(|host| host.as_bytes()).collect();
        assert_eq!(trusted(set, &with_hosts(get(uri), &hosts_bytes)).await, expected, "{uri} {hosts:?}");
    }
}

#[tokio::test]
async fn a2_origin_form_is_trusted_only_if_configured() {
    for uri in ["/v1/x", "/", "/v1/x?url=https://evil.example"] {
        assert!(!trusted(|builder| builder, &get(uri)).await, "{uri}");
        assert!(!trusted(|builder| builder.trust_origin_form(false), &get(uri)).await, "{uri}");
        assert!(trusted(|builder| builder.trust_origin_form(true), &get(uri)).await, "{uri}");
    }
    let elsewhere = get("https://evil.example/v1/x");
    assert!(
        !trusted(|builder| builder.trust_origin_form(true), &elsewhere).await,
        "the setting applies to origin-form only"
    );
}

#[tokio::test]
async fn a2_network_path_reference_is_never_trusted() {
    // RFC 3986 §4.2: relative to a base URL, `//evil.example/x` names the host evil.example. The `url` crate reads a
    // backslash as a slash.
    for uri in ["//evil.example/v1/x", "//api.aiuta.com/v1/x", "///evil.example/v1/x", "/\\evil.example/v1/x"] {
        assert!(!trusted(|builder| builder.trust_origin_form(true), &get(uri)).await, "{uri}");
    }
}

#[tokio::test]
async fn a2_connect_authority_form_and_asterisk_form_are_never_trusted() {
    let mut requests = vec![get("api.aiuta.com:443"), get("api.aiuta.com"), get("*")];
    requests.push(Request::options("*").body(Full::default()).unwrap());
    for uri in ["api.aiuta.com:443", "https://api.aiuta.com/v1/x", "/v1/x"] {
        requests.push(Request::builder().method(Method::CONNECT).uri(uri).body(Full::default()).unwrap());
    }
    for request in requests {
        for request in [request.clone(), with_hosts(request, &[b"api.aiuta.com"])] {
            let description = format!("{} {}", request.method(), request.uri());
            assert!(!trusted(|builder| builder, &request).await, "{description}");
            assert!(!trusted(|builder| builder.trust_origin_form(true), &request).await, "{description}");
        }
    }
}

fn build(origin: &str, dangerous: bool) -> Result<AiutaAuthLayer, ConfigError> {
    AiutaAuthLayer::builder().api_key("key").origins([origin]).danger_allow_plaintext_origins(dangerous).build()
}

#[tokio::test]
async fn a2_plaintext_origin_must_be_loopback_unless_allowed() {
    for origin in [
        "http://localhost",
        "http://LOCALHOST:3000",
        "http://127.0.0.1",
        "http://127.0.0.1:8080",
        "http://127.8.9.10",
        "http://[::1]",
        "http://[::1]:8080",
    ] {
        assert!(build(origin, false).is_ok(), "{origin}");
        assert!(trusted(|builder| builder.origins([origin]), &get(&format!("{origin}/v1/x"))).await, "{origin}");
    }
    for origin in [
        "http://api.aiuta.com",
        "http://api.aiuta.com:443",
        "http://aiuta.mesh.svc:8080",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://[::]",
        "http://[2001:db8::1]",
        "http://[::ffff:10.0.0.1]",
        "http://localhost.",
        "http://localhost.evil.example",
        "http://xlocalhost",
        "http://127.0.0.1.evil.example",
        "http://127.evil.example",
        "http://127.1",
        "http://2130706433",
    ] {
        assert_eq!(build(origin, false).unwrap_err().setting(), "origins", "{origin}");
        assert!(build(origin, true).is_ok(), "{origin}");
        let set = |builder: AiutaAuthBuilder| builder.origins([origin]).danger_allow_plaintext_origins(true);
        assert!(trusted(set, &get(&format!("{origin}/v1/x"))).await, "{origin}");
    }
    let set = |builder: AiutaAuthBuilder| builder.danger_allow_plaintext_origins(true);
    assert!(!trusted(set, &get("http://api.aiuta.com/v1/x")).await, "the setting does not add an origin");
}
