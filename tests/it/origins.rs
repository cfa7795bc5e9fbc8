//! Rules A2 and A6: which origins are trusted. Requests to all others are sent without a credential. If that looks like a
//! mistake, it is counted and reported.

use bytes::Bytes;
use futures::FutureExt;
use http::header::HOST;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use tower::{Service, ServiceExt};
use tower_aiuta_auth::{Access, AiutaAuthBuilder, AiutaAuthLayer, AuthErrorKind, ConfigError};

use crate::support::captured_events::CapturedEvents;
use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Sent with a credential.
    Trusted,
    /// Sent without a credential, and otherwise unchanged.
    Untrusted,
    /// Not sent, because of the `Host` header.
    Mismatch,
}

/// Returns what the layer does with a request. Asserts that both schemes agree.
async fn outcome(set: impl Fn(AiutaAuthBuilder) -> AiutaAuthBuilder, request: &Request<Full<Bytes>>) -> Outcome {
    let mut outcomes = Vec::new();
    for builder in [AiutaAuthLayer::builder().api_key("key"), jwt(Source::new()).allow_unbound_tokens(true)] {
        let (layer, inner) = (set(builder).build().unwrap(), Recorder::new());
        if let Err(error) = send(&service(&layer, &inner), request.clone()).await {
            let error = auth_error(Err::<(), _>(error));
            assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::HostMismatch, false));
            assert_eq!((inner.count(), layer.stats().withheld_for_host, layer.stats().withheld), (0, 1, 1));
            outcomes.push(Outcome::Mismatch);
            continue;
        }
        let seen = inner.only();
        assert_eq!(seen.uri, *request.uri());
        outcomes.push(match seen.credentials().len() {
            0 => Outcome::Untrusted,
            count => {
                assert_eq!(count, 1);
                Outcome::Trusted
            }
        });
        if outcomes.last() == Some(&Outcome::Untrusted) {
            assert_eq!(seen.headers, *request.headers());
        }
    }
    assert_eq!(outcomes[0], outcomes[1], "{}", request.uri());
    outcomes[0]
}

/// Returns whether the layer adds a credential to a request. Asserts that it sends the request.
async fn trusted(set: impl Fn(AiutaAuthBuilder) -> AiutaAuthBuilder, request: &Request<Full<Bytes>>) -> bool {
    let outcome = outcome(set, request).await;
    assert_ne!(outcome, Outcome::Mismatch, "{}", request.uri());
    outcome == Outcome::Trusted
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
async fn a2_host_header_must_name_a_trusted_origin() {
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
        let by_uri = if expected { Outcome::Trusted } else { Outcome::Mismatch };
        assert_eq!(outcome(|builder| builder, &absolute).await, by_uri, "absolute-form, {hosts:?}");
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
async fn a2_host_header_may_name_any_trusted_origin() {
    let set = |builder: AiutaAuthBuilder| {
        builder
            .origins(["https://api.aiuta.com", "https://gateway.example", "http://localhost:3000"])
            .trust_origin_form(true)
    };
    for (uri, hosts, expected) in [
        ("https://gateway.example/v1/x", &["gateway.example"][..], Outcome::Trusted),
        ("https://gateway.example/v1/x", &["api.aiuta.com"], Outcome::Trusted),
        ("https://gateway.example/v1/x", &["gateway.example", "api.aiuta.com"], Outcome::Trusted),
        ("https://gateway.example/v1/x", &["gateway.example", "evil.example"], Outcome::Mismatch),
        ("http://localhost:3000/v1/x", &["localhost:3000"], Outcome::Trusted),
        ("http://localhost:3000/v1/x", &["localhost"], Outcome::Mismatch),
        ("https://evil.example/v1/x", &["api.aiuta.com"], Outcome::Untrusted),
        ("/v1/x", &["gateway.example"], Outcome::Trusted),
        ("/v1/x", &["localhost:3000"], Outcome::Trusted),
        ("/v1/x", &["localhost"], Outcome::Untrusted),
        ("/v1/x", &["gateway.example", "api.aiuta.com"], Outcome::Trusted),
        ("/v1/x", &["gateway.example", "evil.example"], Outcome::Untrusted),
        ("/v1/x", &[], Outcome::Trusted),
    ] {
        let hosts_bytes: Vec<_> = hosts.iter().map(|host| host.as_bytes()).collect();
        assert_eq!(outcome(set, &with_hosts(get(uri), &hosts_bytes)).await, expected, "{uri} {hosts:?}");
    }
}

#[tokio::test]
async fn a2_host_header_of_an_anonymous_request_is_not_checked() {
    let anonymous = |_: &Method, uri: &http::Uri| (uri.path() == "/healthz").then_some(Access::Anonymous);
    let set = |builder: AiutaAuthBuilder| builder.access_rule(anonymous);
    let request = |uri: &str| with_hosts(get(uri), &[b"shop.example"]);
    assert_eq!(outcome(set, &request("https://api.aiuta.com/healthz")).await, Outcome::Untrusted);
    assert_eq!(outcome(set, &request("https://api.aiuta.com/v1/x")).await, Outcome::Mismatch);
    let mut by_extension = request("https://api.aiuta.com/v1/x");
    by_extension.extensions_mut().insert(Access::Anonymous);
    assert_eq!(outcome(|builder| builder, &by_extension).await, Outcome::Untrusted);
}

#[tokio::test]
async fn a2_host_mismatch_says_what_to_do() {
    let layer = jwt(Source::new()).build().unwrap();
    let result = send(&service(&layer, &Recorder::new()), with_hosts(try_on("image-1"), &[b"shop.example"])).await;
    let text = auth_error(result).to_string();
    assert!(text.contains("`Host`") && text.contains("remove") && !text.contains("shop.example"), "{text}");
}

#[tokio::test]
async fn a2_host_mismatch_releases_the_ready_service() {
    let layer = jwt(Source::new()).build().unwrap();
    let limited = tower::limit::ConcurrencyLimit::new(Recorder::new(), 1);
    let mut service = tower::Layer::layer(&layer, limited);
    for _ in 0..2 {
        ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap();
        let call = service.call(with_hosts(try_on("image-1"), &[b"shop.example"]));
        // The permit is released before the future is polled.
        let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).now_or_never();
        assert!(ready.is_some_and(|ready| ready.is_ok()));
        assert_eq!(error_kind(call.await), AuthErrorKind::HostMismatch);
    }
}

#[tokio::test]
async fn a6_withheld_credential_is_counted_by_reason_and_reported_once() {
    let events = CapturedEvents::start();
    for (uri, reason, host) in [
        ("http://api.aiuta.com/v1/x", "scheme", Some("api.aiuta.com")),
        ("http://api.aiuta.com:443/v1/x", "scheme", Some("api.aiuta.com")),
        ("ws://API.aiuta.com/v1/x", "scheme", Some("API.aiuta.com")),
        ("https://api.aiuta.com:8443/v1/x", "port", Some("api.aiuta.com")),
        ("https://api.aiuta.com:x/v1/x", "port", Some("api.aiuta.com")),
        ("/v1/x?token=secret", "relative_uri", None),
    ] {
        for layer in [AiutaAuthLayer::api_key("key").unwrap(), jwt(Source::new()).build().unwrap()] {
            for times in 1..=3 {
                assert_eq!(send(&service(&layer, &Recorder::new()), get(uri)).await.unwrap(), 200);
                let stats = layer.stats();
                let by_reason = [
                    ("scheme", stats.withheld_for_scheme),
                    ("port", stats.withheld_for_port),
                    ("relative_uri", stats.withheld_for_relative_uri),
                    ("host", stats.withheld_for_host),
                ];
                let expected = by_reason.map(|(name, _)| (name, if name == reason { times } else { 0 }));
                assert_eq!((by_reason, stats.withheld, stats.untrusted), (expected, times, times), "{uri}");
            }
            let host = host.map_or(String::new(), |host| format!("  host=\"{host}\"\n"));
            let event = |message: &str| format!("event in tower_aiuta_auth\n  message={message}\n");
            let warning = event("credential withheld from a request that looks like a mistake");
            let untrusted = event("credential withheld from an untrusted origin");
            let expected = format!("{warning}  reason=\"{reason}\"\n{host}{untrusted}{host}{untrusted}{host}");
            assert_eq!(events.take(), expected, "{uri}");
        }
    }
}

#[tokio::test]
async fn a6_reports_are_bounded_and_one_per_reason_and_host() {
    let events = CapturedEvents::start();
    let warnings = || events.take().matches("looks like a mistake").count();
    let hosts: Vec<_> = (0..100).map(|number| format!("host-{number}.example")).collect();
    let layer = jwt(Source::new()).origins(hosts.iter().map(|host| format!("https://{host}"))).build().unwrap();
    let service = service(&layer, &Recorder::new());
    for uri in
        ["http://host-1.example/", "http://host-2.example/", "https://host-1.example:1/", "http://HOST-1.example/"]
    {
        send(&service, get(uri)).await.unwrap();
    }
    assert_eq!(warnings(), 3);
    for host in &hosts {
        send(&service, get(&format!("http://{host}/"))).await.unwrap();
    }
    assert_eq!((warnings(), layer.stats().withheld), (64 - 3, 104));
}

#[tokio::test]
async fn a6_requests_that_need_no_credential_are_not_counted() {
    let layer = jwt(Source::new()).trust_origin_form(true).build().unwrap();
    let service = service(&layer, &Recorder::new());
    let mut anonymous = get("http://api.aiuta.com/v1/x");
    anonymous.extensions_mut().insert(Access::Anonymous);
    let foreign = with_hosts(get("/v1/x"), &[b"shop.example"]);
    let connect = Request::connect("http://api.aiuta.com/").body(Full::default()).unwrap();
    for request in [anonymous, foreign, connect, get("https://storage.example/image.jpg"), get("api.aiuta.com:80")] {
        send(&service, request).await.unwrap();
    }
    assert_eq!((layer.stats().withheld, layer.stats().untrusted), (0, 5));
}

#[tokio::test]
async fn a6_requests_are_counted_by_credential() {
    let layer = jwt(Source::new()).build().unwrap();
    let rejected = RejectedTokens::default();
    let inner = Recorder::with_status({
        let rejected = rejected.clone();
        move |request| match rejected.contains(request.header("authorization").trim_start_matches("Bearer ")) {
            true => http::StatusCode::UNAUTHORIZED,
            false => http::StatusCode::OK,
        }
    });
    let service_of = |layer: &AiutaAuthLayer| service(layer, &inner);
    send(&service_of(&layer), try_on("image-1")).await.unwrap();
    rejected.add(inner.last().token());
    send(&service_of(&layer.clone()), try_on("image-1")).await.unwrap();
    send(&service_of(&layer), post(TRY_ON, "{}")).await.unwrap_err();
    send(&service_of(&layer), get("https://api.aiuta.com/v1/try_on_models")).await.unwrap();
    send(&service_of(&layer), Request::options(TRY_ON).body(Full::default()).unwrap()).await.unwrap();
    let stats = layer.stats();
    assert_eq!((stats.jwt, stats.subscription_id, stats.anonymous, stats.api_key), (3, 1, 1, 0));
    assert_eq!((stats.rejected, stats.replayed, stats.untrusted, stats.withheld), (1, 1, 0, 0));

    let layer = AiutaAuthLayer::api_key("key").unwrap();
    send(&service_of(&layer), try_on("image-1")).await.unwrap();
    let mut anonymous = try_on("image-1");
    anonymous.extensions_mut().insert(Access::Anonymous);
    send(&service_of(&layer), anonymous).await.unwrap();
    let stats = layer.stats();
    assert_eq!((stats.api_key, stats.anonymous, stats.jwt, stats.subscription_id), (1, 1, 0, 0));
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
