//! Rule A4: the copies of secrets and tokens that this crate makes are zeroized. The allocator of this process searches
//! every freed block for them.
#![allow(unsafe_code, reason = "implements a global allocator")]
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in their helpers")]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use support::*;
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuthBuilder, AiutaAuthLayer, Jwt, JwtSigner};

/// Maximum number of secrets in all tests of this file.
const MAX_SECRETS: usize = 32;

/// The first sixteen bytes of each secret, inverted. The plain bytes must not be on the stack, because they could then
/// get into the padding of other values.
static SECRETS: [[AtomicU64; 2]; MAX_SECRETS] = [const { [const { AtomicU64::new(0) }; 2] }; MAX_SECRETS];
/// The number of freed blocks in which each secret was found.
static FOUND: [AtomicUsize; MAX_SECRETS] = [const { AtomicUsize::new(0) }; MAX_SECRETS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

struct SearchingAllocator;

#[global_allocator]
static ALLOCATOR: SearchingAllocator = SearchingAllocator;

// SAFETY: this is the system allocator. It zeroes all memory, so that every byte of a block can be read when it is
// freed. The default `realloc` allocates a new block, copies, and frees the old block with `dealloc`.
unsafe impl GlobalAlloc for SearchingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of the method.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller owns the block, which has this size and was initialized by `alloc`.
        search(unsafe { std::slice::from_raw_parts(block, layout.size()) });
        // SAFETY: the caller upholds the contract of the method.
        unsafe { System.dealloc(block, layout) }
    }
}

fn search(block: &[u8]) {
    let count = NEXT.load(Ordering::SeqCst);
    for ([first, second], found) in SECRETS.iter().zip(&FOUND).take(count) {
        let (first, second) = (first.load(Ordering::SeqCst), second.load(Ordering::SeqCst));
        if first != 0 && block.windows(16).any(|bytes| inverted(bytes) == first && inverted(&bytes[8..]) == second) {
            found.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Returns the first eight bytes as an inverted number.
fn inverted(bytes: &[u8]) -> u64 {
    bytes[..8].iter().fold(0, |number, byte| number << 8 | u64::from(!byte))
}

/// A secret to search for, by its first sixteen bytes. A test must not free a copy of it.
struct Secret {
    number: usize,
    text: &'static str,
}

impl Secret {
    fn new(text: &'static str) -> Self {
        let number = watch(text.as_bytes());
        Self { number, text }
    }

    /// Returns it in a new string with spare capacity.
    fn string(&self) -> String {
        self.join("")
    }

    fn join(&self, before: &str) -> String {
        let mut string = String::with_capacity(200);
        string.push_str(before);
        string.push_str(self.text);
        string
    }

    /// Returns a token without claims whose signature is the secret.
    fn token(&self) -> String {
        self.join("eyJhbGciOiJIUzI1NiJ9.e30.")
    }

    fn assert_zeroized(&self) {
        assert_eq!(FOUND[self.number].load(Ordering::SeqCst), 0, "{} was freed without being zeroized", self.text);
    }
}

fn watch(secret: &[u8]) -> usize {
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    SECRETS[number][1].store(inverted(&secret[8..]), Ordering::SeqCst);
    SECRETS[number][0].store(inverted(secret), Ordering::SeqCst);
    number
}

/// Returns a source whose n-th token contains the n-th secret, or the last secret after that.
fn secret_source(secrets: &[&'static Secret]) -> Source {
    let secrets = secrets.to_vec();
    Source::from_fn(move |number, _| {
        let secret = secrets[(number - 1).min(secrets.len() - 1)];
        async move { Ok(Jwt::parse(secret.token())?) }
    })
}

fn leak(text: &'static str) -> &'static Secret {
    Box::leak(Box::new(Secret::new(text)))
}

#[test]
fn a4_search_finds_a_string_that_is_not_zeroized() {
    let secret = Secret::new("unzeroed-101234567");
    drop(secret.string());
    assert_eq!(FOUND[secret.number].load(Ordering::SeqCst), 1);
    let mut grown = secret.string();
    grown.reserve(10_000);
    assert_eq!(FOUND[secret.number].load(Ordering::SeqCst), 2, "a string that grows frees its old block");
}

/// Builds a layer, sends a request of each kind, and drops everything.
async fn build_send_and_drop(builder: AiutaAuthBuilder) {
    let layer = builder.build().unwrap();
    let (service, other) = (service(&layer, &Recorder::new()), service(&layer.clone(), &Recorder::new()));
    for request in [try_on("image-1"), get("https://api.aiuta.com/v1/try_on_models"), try_on("image-1")] {
        send(&service, request.clone()).await.unwrap();
        send(&other, request).await.unwrap();
    }
}

#[tokio::test]
async fn a4_api_keys_and_subscription_ids_are_zeroized() {
    let (key, id) = (Secret::new("key-0123456789-01234567"), Secret::new("subscription-0123"));
    build_send_and_drop(AiutaAuthLayer::builder().api_key(key.text)).await;
    build_send_and_drop(AiutaAuthLayer::builder().api_key(key.string())).await;
    build_send_and_drop(AiutaAuthLayer::builder().jwt(id.text, Source::new())).await;
    build_send_and_drop(AiutaAuthLayer::builder().jwt(id.string(), Source::new())).await;
    key.assert_zeroized();
    id.assert_zeroized();
}

#[test]
fn a4_secrets_of_a_dropped_or_failed_builder_are_zeroized() {
    let (key, id) = (Secret::new("k3y-0123456789-01234567"), Secret::new("5ubscription-0123"));
    let builder = AiutaAuthLayer::builder;
    drop(builder().api_key(key.string()));
    drop(builder().api_key(key.string()).api_key(key.string()));
    drop(builder().jwt(id.string(), Source::new()).jwt(id.string(), Source::new()));
    for both in [
        builder().api_key(key.string()).jwt(id.string(), Source::new()).api_key(key.string()),
        builder().jwt(id.string(), Source::new()).api_key(key.string()).jwt(id.string(), Source::new()),
    ] {
        both.build().unwrap_err();
    }
    builder().api_key(key.string()).max_tokens(0).build().unwrap_err();
    builder().api_key(key.string()).origins(["x"]).build().unwrap_err();
    builder().jwt(id.string(), Source::new()).base_path("x").build().unwrap_err();
    builder().api_key(key.join("\n")).build().unwrap_err();
    builder().jwt(id.join("\n"), Source::new()).build().unwrap_err();
    key.assert_zeroized();
    id.assert_zeroized();
}

#[tokio::test]
async fn a4_signer_secret_and_tokens_are_zeroized() {
    let secret = Secret::new("signers-0123456789abcdef01234567");
    let signer = || JwtSigner::hs256("issuer", secret.text).unwrap().lifetime(secs(60));
    let layer = || jwt(signer()).clock(ManualClock::default());
    // Signing is deterministic, so the tokens of the next layer have the same signature. It is searched for as text and
    // as bytes.
    let signature = {
        let layer = layer().build().unwrap();
        let token = layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
        <[u8; 43]>::try_from(token.expose().rsplit('.').next().unwrap().as_bytes()).unwrap()
    };
    let mut bytes = [0; 32];
    URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes).unwrap();
    let watched = [watch(&signature), watch(&bytes)];

    build_send_and_drop(layer()).await;
    drop(signer().clone());
    secret.assert_zeroized();
    for (number, what) in watched.into_iter().zip(["the signature in base64url", "the decoded signature"]) {
        assert_eq!(FOUND[number].load(Ordering::SeqCst), 0, "{what} was freed without being zeroized");
    }
}

#[test]
fn a4_replaced_secrets_are_zeroized() {
    let (key, secret) = (Secret::new("r0tated-out-key-0123456789"), Secret::new("r0tated-out-secret-01234"));
    let layer = AiutaAuthLayer::api_key(key.string()).unwrap();
    layer.set_api_key("another-key").unwrap();
    layer.set_api_key(key.join("\n")).unwrap_err();
    let signer = JwtSigner::hs256("issuer", secret.text).unwrap();
    signer.rotate("issuer", "another-secret").unwrap();
    key.assert_zeroized();
    secret.assert_zeroized();
}

#[test]
fn a4_parsed_strings_are_zeroized() {
    let secret = Secret::new("pars3d-t0ken-01234567");
    let token: &str = secret.token().leak();
    drop(Jwt::parse(token).unwrap().clone());
    drop(Jwt::parse(secret.token()).unwrap());
    for before in ["", "a.b.", "eyJhbGciOiJIUzI1NiJ9.e30.\n", "eyJhbGciOiJIUzI1NiJ9.W10.", "e30.e30."] {
        Jwt::parse(secret.join(before)).unwrap_err();
    }
    secret.assert_zeroized();
}

#[tokio::test]
async fn a4_sent_tokens_are_zeroized() {
    let (at_once, awaited) = (leak("at-0nce-t0ken-01234567"), leak("await3d-t0ken-01234567"));
    build_send_and_drop(jwt(secret_source(&[at_once]))).await;

    let gate = Gate::closed();
    let source_gate = gate.clone();
    let source = Source::from_fn(move |_, _| {
        let gate = source_gate.clone();
        async move {
            gate.pass().await;
            Ok(Jwt::parse(awaited.token())?)
        }
    });
    let layer = jwt(source).build().unwrap();
    let service = service(&layer, &Recorder::new());
    let caller = tokio::spawn(async move { send(&service, try_on("image-1")).await });
    settle().await;
    gate.open(1);
    caller.await.unwrap().unwrap();
    drop(layer);
    at_once.assert_zeroized();
    awaited.assert_zeroized();
}

#[tokio::test]
async fn a4_rejected_and_replayed_tokens_are_zeroized() {
    let (first, second) = (leak("f1rst-t0ken-01234567"), leak("s3cond-t0ken-01234567"));
    let layer = jwt(secret_source(&[first, second])).build().unwrap();
    let inner = Recorder::with_status(|seen| match seen.token().contains("f1rst") && seen.header("x-late") == "yes" {
        true => http::StatusCode::UNAUTHORIZED,
        false => http::StatusCode::OK,
    });
    let service = service(&layer, &inner);
    send(&service, try_on("image-1")).await.unwrap();
    let mut late = try_on("image-1");
    late.headers_mut().insert("x-late", "yes".parse().unwrap());
    assert_eq!(send(&service, late).await.unwrap(), 200);
    assert_eq!(inner.count(), 3);
    drop((layer, service, inner));
    first.assert_zeroized();
    second.assert_zeroized();
}

#[tokio::test]
async fn a4_tokens_removed_from_the_cache_are_zeroized() {
    let of = |secrets: &[&'static Secret]| jwt(secret_source(secrets)).max_tokens(1);
    let image = |number: usize| params(&format!("image-{number}"));

    let secrets = [leak("evict3d-t0ken-01234567"), leak("evict3d-2-t0ken-01234567"), leak("evict3d-3-t0ken-01234567")];
    let layer = of(&secrets).build().unwrap();
    for number in 0..3 {
        drop(layer.token_cache().unwrap().get(&image(number)).await.unwrap());
    }
    assert_eq!(layer.token_cache().unwrap().stats().entries, 1);
    drop(layer);

    let (replaced, clock) = (leak("r3placed-t0ken-01234567"), ManualClock::default());
    let layer = of(&[replaced, leak("any-t0ken-01234567")]).clock(clock.clone()).build().unwrap();
    drop(layer.token_cache().unwrap().get(&image(0)).await.unwrap());
    clock.advance(Duration::from_secs(600));
    drop(layer.token_cache().unwrap().get(&image(0)).await.unwrap());
    assert_eq!(layer.token_cache().unwrap().stats().fetches, 2);
    drop(layer);

    let (cleared, invalidated) = (leak("cl3ared-t0ken-01234567"), leak("inval1d-t0ken-01234567"));
    let layer = of(&[cleared, invalidated]).build().unwrap();
    drop(layer.token_cache().unwrap().get(&image(0)).await.unwrap());
    layer.token_cache().unwrap().clear();
    drop(layer.token_cache().unwrap().get(&image(0)).await.unwrap());
    assert!(layer.token_cache().unwrap().invalidate(&image(0)));
    drop(layer);

    for secret in secrets.into_iter().chain([replaced, cleared, invalidated]) {
        secret.assert_zeroized();
    }
}

/// Runs in the process that the next test starts with secrets in its environment, and passes otherwise.
#[tokio::test]
async fn zeroize_child() {
    if std::env::var_os("ZEROIZE_CHILD").is_none() {
        return;
    }
    let secrets = [leak("env-0123456789-key"), leak("3nv-0123456789-secret"), leak("e-nv-0123456789-id")];
    drop(AiutaAuthLayer::from_env());
    secrets.iter().for_each(|secret| secret.assert_zeroized());
}

#[test]
fn a4_secrets_from_the_environment_are_zeroized() {
    let key = ("AIUTA_API_KEY", "env-0123456789-key");
    let (secret, id) = (("AIUTA_JWT_SECRET", "3nv-0123456789-secret"), ("AIUTA_SUBSCRIPTION_ID", "e-nv-0123456789-id"));
    let issuer = ("AIUTA_JWT_ISSUER", "issuer");
    for variables in [
        &[key][..],
        &[id, issuer, secret],
        &[key, secret],
        &[key, id, issuer, secret],
        &[id, secret],
        &[id, secret, ("AIUTA_JWT_ISSUER", "")],
        &[id, secret, ("AIUTA_JWT_ISSUER", "x\n")],
        &[key, id, ("AIUTA_JWT_SECRET", "")],
        &[key, ("AIUTA_ORIGIN", "x")],
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "zeroize_child"])
            .env_clear()
            .envs(variables.iter().copied())
            .env("ZEROIZE_CHILD", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{variables:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
