//! Measures the time that the layer adds to a request: `cargo bench --bench overhead`. For comparison, the same request
//! is measured through the inner service alone (`floor`), with tower-http's static header, and with only the steps that
//! authentication cannot do without (`parts`).
//!
//! Every number includes the cost of the inner service. Subtract the `floor` of its group to get what a case adds.
//! Requests are built, and results dropped, outside the timed section. `benches/README.md` has the bars.

mod support;

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use divan::{Bencher, black_box};
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request, Response};
use quick_cache::sync::Cache;
use tower::{Layer, Service};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{
    AiutaAuth, AiutaAuthLayer, AuthParams, Clock, Jwt, SystemClock, TokenError, TokenRequest, TokenSource,
};
use tower_http::auth::AddAuthorizationLayer;

use support::{
    Claims, Inner, Req, SUBSCRIPTION_ID, encoder, jwt, params, poll, run, try_on, try_on_with_params, without_replay,
};

const ORIGIN: &str = "https://api.aiuta.com";
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");

fn main() {
    divan::main();
}

/// The layer around the inner service, with a local signer.
fn layer(inner: Inner) -> AiutaAuth<Inner> {
    jwt().build().expect("the settings are valid").layer(inner)
}

/// Times `service` on the requests that `make` builds for the numbers below `keys`. Each request is sent once before.
fn bench<S>(bencher: Bencher<'_, '_>, mut service: S, keys: usize, make: impl Fn(usize) -> Req)
where
    S: Service<Req, Response = Response<usize>>,
{
    for number in 0..keys {
        run(&mut service, make(number));
    }
    let mut next = (0..keys).cycle();
    bencher
        .with_inputs(|| make(next.next().expect("a cycle has no end")))
        .bench_local_values(|request| run(&mut service, request));
}

/// A constant header: `x-user-id` or `x-api-key`.
mod header {
    use super::*;

    #[divan::bench]
    fn floor(bencher: Bencher<'_, '_>) {
        bench(bencher, Inner, 1, |_| poll(ORIGIN));
    }

    /// The insertion of the header, and the two removals of rule A1.
    #[divan::bench]
    fn parts(bencher: Bencher<'_, '_>) {
        // Built at run time, as a secret is, so that clones share one reference-counted value.
        let id = HeaderValue::from_str(SUBSCRIPTION_ID).expect("a valid header value");
        let service = Before(move |request: &mut Req| {
            let headers = request.headers_mut();
            headers.remove(AUTHORIZATION);
            headers.remove(X_API_KEY);
            headers.insert(X_USER_ID, id.clone());
        });
        bench(bencher, service, 1, |_| poll(ORIGIN));
    }

    #[divan::bench]
    fn user_id(bencher: Bencher<'_, '_>) {
        bench(bencher, layer(Inner), 1, |_| poll(ORIGIN));
    }

    #[divan::bench]
    fn api_key(bencher: Bencher<'_, '_>) {
        bench(
            bencher,
            AiutaAuthLayer::api_key("0123456789abcdef0123456789abcdef").expect("the key is valid").layer(Inner),
            1,
            |_| poll(ORIGIN),
        );
    }

    /// tower-http's header, which is set for every host.
    #[divan::bench]
    fn tower_http(bencher: Bencher<'_, '_>) {
        bench(bencher, AddAuthorizationLayer::bearer(TOKEN).layer(Inner), 1, |_| poll(ORIGIN));
    }

    #[divan::bench]
    fn untrusted_origin(bencher: Bencher<'_, '_>) {
        let service = layer(Inner);
        bench(bencher, service, 1, |_| {
            Request::get("https://storage.example/photo.png").body(Default::default()).unwrap()
        });
    }
}

/// A hit with the params in the request's extensions.
mod hit {
    use super::*;

    #[divan::bench]
    fn floor(bencher: Bencher<'_, '_>) {
        bench(bencher, Inner, 1_000, |key| without_replay(ORIGIN, key));
    }

    /// One reading of the clock, one lookup in a bare store, the insertion of the header, and the two removals of rule
    /// A1.
    #[divan::bench(args = [1, 1_000, 10_000])]
    fn parts(bencher: Bencher<'_, '_>, keys: usize) {
        let store = Cache::with(
            20_000,
            20_000,
            quick_cache::UnitWeighter,
            RandomState::new(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        for number in 0..keys {
            store.insert(params(number), Arc::new(HeaderValue::from_str(TOKEN).expect("a valid header value")));
        }
        let service = Before(move |request: &mut Req| {
            black_box(SystemClock.now());
            let params = request.extensions().get::<AuthParams>().expect("they are there");
            let token: Arc<HeaderValue> = store.get(params).expect("it is there");
            let headers = request.headers_mut();
            headers.remove(X_USER_ID);
            headers.remove(X_API_KEY);
            headers.insert(AUTHORIZATION, HeaderValue::clone(&token));
        });
        bench(bencher, service, keys, |key| without_replay(ORIGIN, key));
    }

    #[divan::bench(args = [1, 1_000, 10_000])]
    fn without_replay_kept(bencher: Bencher<'_, '_>, keys: usize) {
        bench(bencher, layer(Inner), keys, |key| without_replay(ORIGIN, key));
    }

    #[divan::bench(args = [1, 1_000, 10_000])]
    fn able_to_replay(bencher: Bencher<'_, '_>, keys: usize) {
        bench(bencher, layer(Inner), keys, |key| try_on_with_params(ORIGIN, key));
    }

    /// The token is about to expire and is being refreshed.
    #[divan::bench]
    fn in_refresh_window(bencher: Bencher<'_, '_>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let _entered = runtime.enter();
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
        let layer = AiutaAuthLayer::builder()
            .jwt(SUBSCRIPTION_ID, OnceOnly::default())
            .clock(clock.clone())
            .build()
            .expect("the settings are valid");
        let mut service = layer.layer(Inner);
        run(&mut service, without_replay(ORIGIN, 0));
        clock.advance(Duration::from_secs(50));
        bench(bencher, service, 1, |key| without_replay(ORIGIN, key));
        assert_eq!(layer.token_cache().expect("it is there").stats().refreshes, 1);
    }
}

/// A hit with the params in the JSON body.
mod hit_by_body {
    use super::*;

    #[divan::bench]
    fn floor(bencher: Bencher<'_, '_>) {
        bench(bencher, Inner, 1_000, |key| try_on(ORIGIN, key));
    }

    #[divan::bench]
    fn able_to_replay(bencher: Bencher<'_, '_>) {
        bench(bencher, layer(Inner), 1_000, |key| try_on(ORIGIN, key));
    }

    #[divan::bench]
    fn without_replay_kept(bencher: Bencher<'_, '_>) {
        let layer = jwt().replay_unauthorized(false);
        bench(bencher, layer.build().expect("the settings are valid").layer(Inner), 1_000, |key| try_on(ORIGIN, key));
    }
}

/// A miss, for which a token is signed.
mod miss {
    use super::*;

    const KEYS: std::ops::RangeFrom<usize> = 0..;

    #[divan::bench]
    fn floor(bencher: Bencher<'_, '_>) {
        let mut next = KEYS;
        bencher
            .with_inputs(|| without_replay(ORIGIN, next.next().expect("enough")))
            .bench_local_values(|request| run(&mut Inner, request));
    }

    #[divan::bench]
    fn with_signer(bencher: Bencher<'_, '_>) {
        let mut service = layer(Inner);
        let mut next = KEYS;
        bencher
            .with_inputs(|| without_replay(ORIGIN, next.next().expect("enough")))
            .bench_local_values(|request| run(&mut service, request));
    }

    /// jsonwebtoken signs the same claims without the layer.
    #[divan::bench]
    fn jsonwebtoken_alone(bencher: Bencher<'_, '_>) {
        let encode = encoder();
        let mut next = KEYS;
        bencher
            .with_inputs(|| Claims::new(next.next().expect("enough")))
            .bench_local_values(|claims| encode(&claims).len());
    }
}

/// Scaling from one thread to two: hits of 10,000 keys in a cache of 20,000, and a loop that shares no data.
mod threads {
    use super::*;

    const KEYS: usize = 10_000;

    #[divan::bench(threads = [1, 2])]
    fn hit(bencher: Bencher<'_, '_>) {
        let layer = jwt().max_tokens(2 * KEYS);
        let service = layer.build().expect("the settings are valid").layer(Inner);
        for number in 0..KEYS {
            run(&mut service.clone(), without_replay(ORIGIN, number));
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
        bencher
            .with_inputs(|| {
                let number = next.fetch_add(1, Ordering::Relaxed).wrapping_mul(7919) % KEYS;
                (service.clone(), Some(without_replay(ORIGIN, number)))
            })
            .bench_refs(|(service, request)| run(service, request.take().expect("it is sent once")));
    }

    #[divan::bench(threads = [1, 2])]
    fn arithmetic(bencher: Bencher<'_, '_>) {
        // Each step depends on the previous one and uses no memory.
        let step = |x: u64, n: u64| (x ^ (x >> 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(n);
        bencher.bench(|| (0..black_box(500)).fold(black_box(1), step));
    }
}

/// A token of typical length.
const TOKEN: &str =
    concat!("Bearer eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQwMDAwMDAwMDB9.", "ccccccccccccccccccccccccccccccccccccccccccc",);

/// Modifies each request before it goes on to [`Inner`].
struct Before<F>(F);

impl<F: FnMut(&mut Req)> Service<Req> for Before<F> {
    type Response = Response<usize>;
    type Error = Infallible;
    type Future = <Inner as Service<Req>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        self.0(&mut request);
        Inner.call(request)
    }
}

/// Returns a token for 60 seconds at the first call. Later calls never complete.
#[derive(Default)]
struct OnceOnly(AtomicBool);

impl TokenSource for OnceOnly {
    async fn token(&self, _: TokenRequest) -> Result<Jwt, TokenError> {
        if self.0.swap(true, Ordering::Relaxed) {
            pending::<()>().await;
        }
        // {"iat":1767225600,"exp":1767225660}
        Ok(Jwt::parse("eyJhbGciOiJIUzI1NiJ9.eyJpYXQiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNTY2MH0.c2ln")?)
    }
}
