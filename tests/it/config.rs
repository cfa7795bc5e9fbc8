//! Invalid settings fail in `build()` with an error that names the setting and shows no secret.

mod token_url;

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::process::Command;
use std::time::Duration;

use tower_aiuta_auth::{
    AiutaAuthBuilder, AiutaAuthLayer, BoxTokenSource, ConfigError, JwtSigner, TokenRequest, TokenSource,
};

use crate::support::*;

fn api_key() -> AiutaAuthBuilder {
    AiutaAuthLayer::builder().api_key("key")
}

/// Returns the text of the error. Asserts that it starts with the name of the setting and does not contain `hidden`.
fn config_error<T: std::fmt::Debug>(result: Result<T, ConfigError>, setting: &str, hidden: &str) -> String {
    let error = result.expect_err(setting);
    assert_eq!(error.setting(), setting);
    let text = error.to_string();
    assert!(text.starts_with(&format!("{setting}: ")), "{text}");
    for shown in [&text, &format!("{error:?}"), &format!("{error:#?}")] {
        assert!(hidden.is_empty() || !shown.contains(hidden), "the value of {setting} appears in: {shown}");
    }
    text
}

#[test]
fn config_secrets_illegal_in_a_header_are_rejected_and_never_shown() {
    for (value, problem) in [
        ("", "empty"),
        ("s3cr3t\n", "line break"),
        ("s3cr3t\r\nx-evil: 1", "line break"),
        ("s3cr3t\0", "control character"),
        ("\ts3cr3t", "control character"),
        ("s3cr3t\u{7f}", "control character"),
        ("s3cr3t\u{85}", "control character"),
        (" s3cr3t", "whitespace"),
        ("s3cr3t ", "whitespace"),
        ("\n", "line break"),
        ("  ", "whitespace"),
    ] {
        let problem_of = |result, setting| config_error(result, setting, "s3cr3t");
        let text = problem_of(AiutaAuthLayer::api_key(value), "api_key");
        assert!(text.contains(problem), "{value:?}: {text}");
        let text = problem_of(AiutaAuthLayer::jwt(value, Source::new()), "subscription_id");
        assert!(text.contains(problem), "{value:?}: {text}");
        let issuer = JwtSigner::hs256(value, "secret").map(|signer| jwt(signer).build().unwrap());
        assert!(problem_of(issuer, "issuer").contains(problem), "{value:?}");
    }
    let secret = JwtSigner::hs256("issuer", "").map(|signer| jwt(signer).build().unwrap());
    assert!(config_error(secret, "secret", "").contains("empty"));
}

#[test]
fn config_secrets_of_any_other_shape_are_accepted() {
    for value in
        ["x", "demo", "65f0c0ffee65f0c0ffee65f0", "with inner blank", "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", "ключ"]
    {
        assert!(AiutaAuthLayer::api_key(value).is_ok(), "{value}");
        assert!(AiutaAuthLayer::jwt(value, Source::new()).is_ok(), "{value}");
    }
    assert!(JwtSigner::hs256("issuer", b"\0\n any bytes \xff").is_ok());
}

#[test]
fn config_invalid_origins_are_rejected() {
    for origin in [
        "",
        "hidden.example",
        "//hidden.example",
        "/v1",
        "hidden.example:443",
        "https://",
        "https:hidden.example",
        "https://hidden .example",
        "https://hidden.example\n",
        " https://hidden.example",
        "https://hidden.example/v1",
        "https://hidden.example//",
        "https://hidden.example?token=hidden",
        "https://hidden.example/?token=hidden",
        "https://hidden.example#hidden",
        "https://user@hidden.example",
        "https://user:hidden@api.aiuta.com",
        "https://@hidden.example",
        "https://hidden.example:99999",
        "https://hidden.example:port",
        "https://hidden.example:+443",
        "https://:443",
        "https://*.hidden.example",
        "ftp://hidden.example",
        "wss://hidden.example",
        "http://hidden.example",
        "http://hidden.example:443",
        "http://10.0.0.1",
    ] {
        for origins in [vec![origin], vec!["https://api.aiuta.com", origin]] {
            config_error(api_key().origins(origins).build(), "origins", "hidden");
        }
    }
    let none: [&str; 0] = [];
    config_error(api_key().origins(none).build(), "origins", "");
}

#[test]
fn k1_numbers_out_of_range_are_rejected() {
    let ahead = |fraction| api_key().refresh_ahead(fraction).build();
    for fraction in [-0.1, 0.91, 1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -f64::MIN_POSITIVE] {
        config_error(ahead(fraction), "refresh_ahead", "");
    }
    for fraction in [0.0, -0.0, 0.25, 0.9] {
        assert!(ahead(fraction).is_ok(), "{fraction}");
    }
    config_error(api_key().max_tokens(0).build(), "max_tokens", "");
    config_error(api_key().max_concurrent_fetches(0).build(), "max_concurrent_fetches", "");
    config_error(api_key().body_limit(0).build(), "body_limit", "");
    config_error(api_key().fetch_timeout(Duration::ZERO).build(), "fetch_timeout", "");
    config_error(api_key().fetch_timeout(Duration::MAX).build(), "fetch_timeout", "");
    let extreme = jwt(Source::new())
        .max_tokens(1)
        .max_concurrent_fetches(usize::MAX)
        .body_limit(usize::MAX)
        .fallback_lifetime(Duration::MAX)
        .fetch_timeout(Duration::from_nanos(1));
    assert!(extreme.build().is_ok());
}

#[test]
fn k1_debug_of_a_config_error_is_its_text() {
    // A `main` that returns an error prints its `Debug`.
    let error = AiutaAuthLayer::api_key("").unwrap_err();
    let text = "api_key: it must not be empty";
    assert_eq!(
        (error.to_string(), format!("{error:?}"), format!("{error:#?}")),
        (text.into(), text.into(), text.into())
    );
    let boxed: tower_aiuta_auth::BoxError = error.into();
    assert_eq!(format!("{boxed:?}"), text);
}

#[test]
fn k1_settings_of_the_token_source_are_checked_by_build() {
    let signer = |lifetime| JwtSigner::hs256("issuer", "secret").unwrap().lifetime(lifetime);
    let short = signer(Duration::from_millis(999));
    config_error(jwt(short.clone()).build(), "lifetime", "");
    config_error(jwt(std::sync::Arc::new(short.clone())).build(), "lifetime", "");
    config_error(jwt(BoxTokenSource::new(std::sync::Arc::new(BoxTokenSource::new(short)))).build(), "lifetime", "");
    assert!(jwt(BoxTokenSource::new(signer(secs(1)))).build().is_ok());
}

#[test]
fn k1_text_of_a_secret_must_not_have_whitespace_at_its_ends() {
    for end in ["\n", "\r\n", " ", "\t", "\u{2028}"] {
        for secret in [format!("hidden{end}"), format!("{end}hidden")] {
            config_error(JwtSigner::hs256("issuer", &secret), "secret", "hidden");
            config_error(JwtSigner::hs256("issuer", "s").unwrap().rotate("issuer", &secret), "secret", "hidden");
            config_error(JwtSigner::hs256(&secret, "s"), "issuer", "hidden");
        }
    }
    for secret in [&b"a b\nc"[..], b"\xff\n", b"\n\xfe ", b"0"] {
        assert!(JwtSigner::hs256("issuer", secret).is_ok(), "{secret:?}");
    }
}

#[test]
fn config_signed_fields_must_be_valid_param_names() {
    let fields = |fields: &[&str]| jwt(Source::new()).signed_fields(fields.to_vec()).build();
    config_error(fields(&[]), "signed_fields", "");
    config_error(fields(&["sku_id", ""]), "signed_fields", "");
    for claim in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
        assert!(config_error(fields(&["sku_id", claim]), "signed_fields", "").contains(claim));
    }
    assert!(fields(&["sku_id", "ISS", "expires"]).is_ok());
}

#[test]
fn config_base_path_must_be_an_absolute_path() {
    for path in ["aiuta", "aiuta/v1", "https://gateway.example/aiuta", " /aiuta", "?", "/aiuta?x=1", "/aiuta#x"] {
        config_error(api_key().base_path(path).build(), "base_path", "");
    }
    for path in ["", "/", "/aiuta", "/aiuta/", "//a//b"] {
        assert!(api_key().base_path(path).build().is_ok(), "{path}");
    }
}

#[test]
fn config_exactly_one_credential_is_required() {
    let text = config_error(AiutaAuthLayer::builder().build(), "credential", "");
    assert!(text.contains("api_key") && text.contains("jwt"), "{text}");
    let builder = AiutaAuthLayer::builder;
    for both in [
        builder().api_key("s3cr3t").jwt("s3cr3t", Source::new()),
        builder().jwt("s3cr3t", Source::new()).api_key("s3cr3t"),
        builder().api_key("s3cr3t").jwt("s3cr3t", Source::new()).api_key("s3cr3t"),
        builder().jwt("s3cr3t", Source::new()).api_key("s3cr3t").jwt("s3cr3t", Source::new()),
    ] {
        let text = config_error(both.build(), "credential", "s3cr3t");
        assert!(text.contains("api_key") && text.contains("jwt"), "{text}");
    }
}

#[tokio::test]
async fn config_last_value_of_a_repeated_setting_wins() {
    let layer =
        api_key().api_key("other").origins(["http://10.0.0.1"]).origins(["https://api.aiuta.com"]).build().unwrap();
    let inner = Recorder::new();
    send(&service(&layer, &inner), get("https://api.aiuta.com/v1/x")).await.unwrap();
    assert_eq!(inner.only().header("x-api-key"), "other");
}

/// Runs [`from_env_child`] in a process with these environment variables, and returns its output.
fn from_env(variables: &[(&str, &str)]) -> String {
    child("config::from_env_child", variables)
}

/// Runs a test of this file in a process with these variables. Returns the lines that it printed after `> `.
fn child(test: &str, variables: &[(&str, &str)]) -> String {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env_clear()
        .envs(variables.iter().copied())
        .env("FROM_ENV_CHILD", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|line| line.strip_prefix("> ")).map(|line| format!("{line}\n")).collect()
}

/// Runs in the process that [`from_env`] starts, and passes otherwise. Setting a variable in the own process is
/// `unsafe`.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "the parent process reads the output")]
async fn from_env_child() {
    if env::var_os("FROM_ENV_CHILD").is_none() {
        return;
    }
    println!();
    let layer = match AiutaAuthLayer::from_env() {
        Ok(layer) => layer,
        Err(error) => return println!("> {}\n> {error}\n> {error:?}", error.setting()),
    };
    println!("> built");
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    for origin in ["https://api.aiuta.com", "https://gateway.example"] {
        for request in [get(&format!("{origin}/v1/try_on_models")), with_params(params("image-1"))] {
            let mut request = request;
            let path = request.uri().path().to_owned();
            *request.uri_mut() = format!("{origin}{path}").parse().unwrap();
            if let Err(error) = send(&service, request).await {
                println!("> failed: {}", chain(&*error));
            }
        }
    }
    for seen in inner.requests() {
        let shown: BTreeMap<_, _> = seen.credentials().into_iter().map(|name| (name, seen.header(name))).collect();
        println!("> {} {} {shown:?}", seen.uri.host().unwrap(), seen.method);
    }
}

/// Returns the error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let cause = error.source().map_or(String::new(), |cause| format!(", caused by {}", chain(cause)));
    format!("{error} {error:?}{cause}")
}

const JWT: [(&str, &str); 3] =
    [("AIUTA_SUBSCRIPTION_ID", "id-s3cr3t"), ("AIUTA_JWT_ISSUER", "issuer-1"), ("AIUTA_JWT_SECRET", "jwt-s3cr3t")];

#[test]
fn config_from_env_builds_an_api_key() {
    let credential = r#"{"x-api-key": "key-1"}"#;
    let expected = format!(
        "built\napi.aiuta.com GET {credential}\napi.aiuta.com POST {credential}\n\
         gateway.example GET {{}}\ngateway.example POST {{}}\n"
    );
    assert_eq!(from_env(&[("AIUTA_API_KEY", "key-1")]), expected);
    let replaced = from_env(&[("AIUTA_API_KEY", "key-1"), ("AIUTA_ORIGIN", "https://gateway.example")]);
    let expected = format!(
        "built\napi.aiuta.com GET {{}}\napi.aiuta.com POST {{}}\n\
         gateway.example GET {credential}\ngateway.example POST {credential}\n"
    );
    assert_eq!(replaced, expected);
}

#[tokio::test]
async fn config_from_env_builds_a_signer() {
    let shown = from_env(&JWT);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[..2], ["built", r#"api.aiuta.com GET {"x-user-id": "id-s3cr3t"}"#]);
    assert_eq!(lines[3..], ["gateway.example GET {}", "gateway.example POST {}"]);

    let token = lines[2].strip_prefix(r#"api.aiuta.com POST {"authorization": "Bearer "#).unwrap();
    let token = token.strip_suffix("\"}").unwrap();
    // HS256 is deterministic: another signer with this issuer and secret makes the same token at the same time.
    let signer = JwtSigner::hs256("issuer-1", "jwt-s3cr3t").unwrap().backdate(Duration::ZERO);
    let (iat, exp) = (claims(token)["iat"].as_u64().unwrap(), claims(token)["exp"].as_u64().unwrap());
    let at = std::time::SystemTime::UNIX_EPOCH + secs(iat);
    let again = signer.lifetime(secs(exp - iat)).token(TokenRequest::new(params("image-1"), at)).await.unwrap();
    assert_eq!(again.expose(), token);
}

#[test]
fn config_from_env_errors_name_the_variables() {
    let key = ("AIUTA_API_KEY", "key-s3cr3t");
    let half = |left_out: usize| JWT.into_iter().enumerate().filter(move |(i, _)| *i != left_out).map(|(_, each)| each);
    let schemes = ["AIUTA_API_KEY", "AIUTA_SUBSCRIPTION_ID", "AIUTA_JWT_ISSUER", "AIUTA_JWT_SECRET"];
    let all = [&schemes[..], &["AIUTA_TOKEN_URL"]].concat();
    let url = ("AIUTA_TOKEN_URL", "https://s3cr3t.example/s3cr3t");
    let at = |url| vec![JWT[0], ("AIUTA_TOKEN_URL", url)];
    let mut cases = vec![
        (vec![], "AIUTA_API_KEY", all.clone()),
        ([key].into_iter().chain(JWT).collect(), "AIUTA_API_KEY", schemes.to_vec()),
        (vec![key, JWT[2]], "AIUTA_API_KEY", vec!["AIUTA_JWT_SECRET"]),
        (vec![JWT[0]], "AIUTA_JWT_ISSUER, AIUTA_JWT_SECRET", vec!["AIUTA_SUBSCRIPTION_ID", "AIUTA_TOKEN_URL"]),
        (vec![url], "AIUTA_SUBSCRIPTION_ID", vec!["missing", "AIUTA_TOKEN_URL"]),
        (vec![key, url], "AIUTA_API_KEY", vec!["AIUTA_TOKEN_URL"]),
        (vec![key, JWT[0], url], "AIUTA_API_KEY", vec!["AIUTA_SUBSCRIPTION_ID, AIUTA_TOKEN_URL"]),
        ([url].into_iter().chain(JWT).collect(), "AIUTA_TOKEN_URL", vec!["AIUTA_JWT_ISSUER, AIUTA_JWT_SECRET"]),
        (vec![url, JWT[0], JWT[1]], "AIUTA_TOKEN_URL", vec!["together with AIUTA_JWT_ISSUER;"]),
        (vec![url, JWT[0], JWT[2]], "AIUTA_TOKEN_URL", vec!["together with AIUTA_JWT_SECRET;"]),
        (vec![url, JWT[2]], "AIUTA_TOKEN_URL", vec!["together with AIUTA_JWT_SECRET;"]),
        (at(""), "AIUTA_TOKEN_URL", vec!["empty"]),
        (at("s3cr3t.example/aiuta_jwt"), "AIUTA_TOKEN_URL", vec!["https://host/path"]),
        (at("http://s3cr3t.example/aiuta_jwt"), "AIUTA_TOKEN_URL", vec!["http to another machine"]),
        (at("https://u:s3cr3t@shop.example/"), "AIUTA_TOKEN_URL", vec!["user info"]),
        (vec![("AIUTA_SUBSCRIPTION_ID", "s3cr3t\n"), url], "AIUTA_SUBSCRIPTION_ID", vec!["line break"]),
        (vec![("AIUTA_API_KEY", "")], "AIUTA_API_KEY", vec!["empty"]),
        (vec![("AIUTA_API_KEY", "s3cr3t\n")], "AIUTA_API_KEY", vec!["line break"]),
        (vec![key, ("AIUTA_ORIGIN", "")], "AIUTA_ORIGIN", vec!["empty"]),
        (vec![key, ("AIUTA_ORIGIN", "s3cr3t.example")], "AIUTA_ORIGIN", vec!["https://host"]),
        (vec![key, ("AIUTA_ORIGIN", "http://s3cr3t.example")], "AIUTA_ORIGIN", vec!["https"]),
        (vec![key, ("AIUTA_ORIGIN", "https://u:s3cr3t@api.aiuta.com")], "AIUTA_ORIGIN", vec!["user info"]),
        (vec![("AIUTA_ORIGIN", "https://api.aiuta.com")], "AIUTA_API_KEY", all),
    ];
    for (number, (variable, _)) in JWT.into_iter().enumerate() {
        cases.push((half(number).collect(), variable, vec!["missing"]));
        let with = |value| half(number).chain([(variable, value)]).collect();
        cases.push((with(""), variable, vec!["empty"]));
        if variable != "AIUTA_JWT_SECRET" {
            cases.push((with("s3cr3t\r\n"), variable, vec!["line break"]));
        }
    }
    for (variables, setting, expected) in cases {
        let shown = from_env(&variables);
        assert_eq!(shown.lines().next(), Some(setting), "{variables:?}: {shown}");
        assert!(expected.iter().all(|text| shown.contains(text)), "{variables:?}: {shown}");
        assert!(!shown.contains("s3cr3t"), "{variables:?}: {shown}");
    }
}

#[test]
fn config_origins_are_returned_normalized() {
    let of = |builder: AiutaAuthBuilder| {
        let layer = builder.build().unwrap();
        layer.origins().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of(api_key()), ["https://api.aiuta.com"]);
    assert_eq!(of(jwt(Source::new())), ["https://api.aiuta.com"]);
    let given = [
        "HTTPS://Gateway.Example:443/",
        "https://gateway.example:08443",
        "http://localhost:80",
        "http://127.0.0.1:3000/",
        "https://[2001:DB8::1]:8443",
    ];
    let normalized = [
        "https://gateway.example",
        "https://gateway.example:8443",
        "http://localhost",
        "http://127.0.0.1:3000",
        "https://[2001:db8::1]:8443",
    ];
    assert_eq!(of(api_key().origins(given)), normalized);
    assert_eq!(of(api_key().origins(normalized)), normalized);
}

/// Not a test by itself: [`config_setters_replace_values_from_env`] runs it in another process.
#[test]
#[allow(clippy::print_stdout, reason = "its output is its result")]
fn builder_from_env_child() {
    if env::var_os("FROM_ENV_CHILD").is_none() {
        return;
    }
    println!();
    let from_env = || AiutaAuthBuilder::from_env().unwrap();
    if let Err(error) = AiutaAuthBuilder::from_env() {
        return println!("> {}", error.setting());
    }
    for builder in [
        from_env(),
        from_env().base_path("no slash"),
        from_env().origins(["http://localhost:3000"]).api_key("key-2"),
        from_env().origins(["no origin"]),
        from_env().api_key(""),
        from_env().jwt("id-1", Source::new()),
    ] {
        match builder.build() {
            Ok(layer) => println!("> {:?}", layer.origins().collect::<Vec<_>>()),
            Err(error) => println!("> {}", error.setting()),
        }
    }
}

#[test]
fn config_setters_replace_values_from_env() {
    let run = |variables: &[(&str, &str)]| child("config::builder_from_env_child", variables);
    let (key, origin) = (("AIUTA_API_KEY", "key-1"), ("AIUTA_ORIGIN", "https://gateway.example"));
    let set_later = "base_path\n[\"http://localhost:3000\"]\norigins\napi_key\ncredential\n";
    assert_eq!(run(&[key]), format!("[\"https://api.aiuta.com\"]\n{set_later}"));
    assert_eq!(run(&[key, origin]), format!("[\"https://gateway.example\"]\n{set_later}"));
    assert_eq!(run(&[origin]), "AIUTA_API_KEY\n");
    assert_eq!(run(&[("AIUTA_API_KEY", "key\n")]), format!("AIUTA_API_KEY\n{set_later}"));
    let bad_origin = run(&[key, ("AIUTA_ORIGIN", "gateway.example")]);
    let (name, replaced) = ("AIUTA_ORIGIN", "[\"http://localhost:3000\"]");
    assert_eq!(bad_origin, format!("{name}\n{name}\n{replaced}\norigins\n{name}\n{name}\n"));
}
