//! Limits, `LoadShed`, `Buffer` and boxes on either side of the layer, over every transport. `composition.rs` has
//! `Retry`, `Timeout` and `FollowRedirect`.

use futures::FutureExt;
use tower::buffer::Buffer;
use tower::limit::{ConcurrencyLimit, RateLimitLayer};
use tower::load_shed::{LoadShed, error::Overloaded};
use tower::util::BoxCloneService;
use tower_aiuta_auth::{JwtSigner, TokenSource};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A transport to a fake Aiuta, and a layer whose token source waits for a gate.
struct Setup {
    name: &'static str,
    transport: Transport,
    aiuta: FakeAiuta,
    server: FakeServer,
    image: String,
    gate: Gate,
    source: Source,
    layer: AiutaAuthLayer,
}

impl Setup {
    async fn new(index: usize) -> Self {
        let (aiuta, server, image) = aiuta().await;
        let (name, transport) = transports(&aiuta)[index].clone();
        let gate = Gate::closed();
        let source = Source::from_fn({
            let (gate, signer) = (gate.clone(), JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap());
            move |_, request| {
                let (gate, signer) = (gate.clone(), signer.clone());
                async move {
                    gate.pass().await;
                    signer.token(request).await
                }
            }
        });
        let builder = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), source.clone());
        let layer = builder.origins([server.origin()]).build().unwrap();
        Self { name, transport, aiuta, server, image, gate, source, layer }
    }

    fn start(&self) -> Req {
        start(self.server.origin(), &self.image)
    }

    /// Returns a request that needs no token.
    fn models(&self) -> Req {
        get(&format!("{}{MODELS}", self.server.origin()))
    }

    /// Starts a try-on, and returns once it waits for its token.
    async fn waiting_for_a_token<S>(&self, client: S) -> tokio::task::JoinHandle<StatusCode>
    where
        S: Service<Req, Response = Res, Error = BoxError, Future: Send> + Send + 'static,
    {
        let started = client.oneshot(self.start()).map(|answer| answer.unwrap().status());
        let started = tokio::spawn(started.boxed());
        while self.source.calls() == 0 {
            tokio::task::yield_now().await;
        }
        started
    }

    /// Sends two try-ons. The token is revoked before the second.
    async fn two_try_ons<S>(&self, client: &mut S)
    where
        S: Service<Req, Response = Res, Error = BoxError>,
    {
        self.gate.open(2);
        for _ in 0..2 {
            let answer = client.ready().await.unwrap().call(self.start()).await.unwrap();
            assert_eq!(answer.status(), 200, "{}", self.name);
            self.aiuta.revoke_tokens();
        }
        assert_eq!(statuses(&self.aiuta), [200, 401, 200].map(Some), "{}", self.name);
    }
}

#[tokio::test]
async fn concurrency_limit_outside_the_layer_counts_requests_waiting_for_a_token() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        let mut client = ConcurrencyLimit::new(setup.layer.layer(setup.transport.clone()), 1);
        let waiting = setup.waiting_for_a_token(client.clone()).await;
        assert!(ServiceExt::<Req>::ready(&mut client).now_or_never().is_none(), "{}", setup.name);
        setup.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", setup.name);
        assert_eq!(client.oneshot(setup.models()).await.unwrap().status(), 200, "{}", setup.name);
    }
}

#[tokio::test]
async fn concurrency_limit_inside_the_layer_counts_only_sent_requests() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        let client = setup.layer.layer(ConcurrencyLimit::new(setup.transport.clone(), 1));
        let waiting = setup.waiting_for_a_token(client.clone()).await;
        assert_eq!(client.oneshot(setup.models()).await.unwrap().status(), 200, "{}", setup.name);
        setup.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", setup.name);
    }
}

#[tokio::test]
async fn rate_limit_outside_the_layer_counts_calls() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        let mut client = RateLimitLayer::new(3, HOUR).layer(setup.layer.layer(setup.transport.clone()));
        setup.two_try_ons(&mut client).await;
        assert_eq!(client.ready().await.unwrap().call(setup.models()).await.unwrap().status(), 200, "{}", setup.name);
        assert!(ServiceExt::<Req>::ready(&mut client).now_or_never().is_none(), "{}", setup.name);
    }
}

#[tokio::test]
async fn rate_limit_inside_the_layer_counts_replays() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        // `RateLimit` is not `Clone`, so it needs a `Buffer`.
        let limited = ServiceBuilder::new().load_shed().rate_limit(3, HOUR).service(setup.transport.clone());
        let mut client = setup.layer.layer(Buffer::new(limited, 1));
        setup.two_try_ons(&mut client).await;
        let error = client.oneshot(setup.models()).await.unwrap_err();
        assert!(error.is::<Overloaded>(), "{}: {error}", setup.name);
    }
}

#[tokio::test]
async fn load_shed_outside_the_layer_rejects_before_the_fetch() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        setup.gate.open(9);
        let client = LoadShed::new(setup.layer.layer(ConcurrencyLimit::new(setup.transport.clone(), 1)));
        let hold = setup.aiuta.hold();
        let sent = setup.waiting_for_a_token(client.clone()).await;
        setup.aiuta.wait_for(1).await;
        let error = client.oneshot(start(setup.server.origin(), "image-2")).await.unwrap_err();
        assert!(error.is::<Overloaded>(), "{}: {error}", setup.name);
        assert_eq!(setup.source.calls(), 1, "{}", setup.name);
        hold.release();
        assert_eq!(sent.await.unwrap(), 200, "{}", setup.name);
    }
}

#[tokio::test]
async fn load_shed_inside_the_layer_rejects_after_the_fetch_and_keeps_the_token() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        setup.gate.open(9);
        let client = setup.layer.layer(LoadShed::new(ConcurrencyLimit::new(setup.transport.clone(), 1)));
        let hold = setup.aiuta.hold();
        let sent = setup.waiting_for_a_token(client.clone()).await;
        setup.aiuta.wait_for(1).await;
        let other = || start(setup.server.origin(), "image-2");
        let error = client.clone().oneshot(other()).await.unwrap_err();
        assert!(error.is::<Overloaded>(), "{}: {error}", setup.name);
        hold.release();
        assert_eq!(sent.await.unwrap(), 200, "{}", setup.name);
        // The image is unknown, so the token was accepted.
        assert_eq!(client.oneshot(other()).await.unwrap().status(), 400, "{}", setup.name);
        assert_eq!(setup.source.calls(), 2, "{}", setup.name);
    }
}

#[tokio::test]
async fn buffer_outside_the_layer_is_not_blocked_while_a_token_is_fetched() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        let client = Buffer::new(setup.layer.layer(setup.transport.clone()), 1);
        let waiting = setup.waiting_for_a_token(client.clone()).await;
        assert_eq!(client.oneshot(setup.models()).await.unwrap().status(), 200, "{}", setup.name);
        setup.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", setup.name);
    }
}

#[tokio::test]
async fn buffer_inside_the_layer_reserves_no_slot_while_a_token_is_fetched() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        let client = setup.layer.layer(Buffer::new(setup.transport.clone(), 1));
        let waiting = setup.waiting_for_a_token(client.clone()).await;
        assert_eq!(client.oneshot(setup.models()).await.unwrap().status(), 200, "{}", setup.name);
        setup.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", setup.name);
    }
}

#[tokio::test]
async fn boxing_on_either_side_changes_nothing() {
    for index in 0..4 {
        let setup = Setup::new(index).await;
        setup.two_try_ons(&mut BoxCloneService::new(setup.layer.layer(setup.transport.clone()))).await;
        let setup = Setup::new(index).await;
        setup.two_try_ons(&mut setup.layer.layer(BoxCloneService::new(setup.transport.clone()))).await;
    }
}
