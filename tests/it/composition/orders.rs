//! Limits, `LoadShed`, `Buffer` and boxes on either side of the layer, over every transport: what order gives what behaviour. `Retry`, `Timeout`
//! and `FollowRedirect` are in `composition.rs`.

use futures::FutureExt;
use tower::buffer::Buffer;
use tower::limit::{ConcurrencyLimit, RateLimitLayer};
use tower::load_shed::{LoadShed, error::Overloaded};
use tower::util::BoxCloneService;
use tower_aiuta_auth::{JwtSigner, TokenSource};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A transport, and at its end a stand-in for Aiuta with a source of tokens for it, behind a gate.
struct Set {
    name: &'static str,
    transport: Transport,
    aiuta: FakeAiuta,
    server: FakeServer,
    image: String,
    gate: Gate,
    source: Source,
    layer: AiutaAuthLayer,
}

impl Set {
    async fn new(at: usize) -> Self {
        let (aiuta, server, image) = aiuta().await;
        let (name, transport) = transports(&aiuta)[at].clone();
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

    /// Needs no token.
    fn models(&self) -> Req {
        get(&format!("{}{MODELS}", self.server.origin()))
    }

    /// Starts a try-on, and waits until it waits for its token.
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

    /// Two try-ons, of which the second has a token that was revoked.
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
    for at in 0..4 {
        let set = Set::new(at).await;
        let mut client = ConcurrencyLimit::new(set.layer.layer(set.transport.clone()), 1);
        let waiting = set.waiting_for_a_token(client.clone()).await;
        assert!(ServiceExt::<Req>::ready(&mut client).now_or_never().is_none(), "{}", set.name);
        set.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", set.name);
        assert_eq!(client.oneshot(set.models()).await.unwrap().status(), 200, "{}", set.name);
    }
}

#[tokio::test]
async fn concurrency_limit_inside_the_layer_counts_only_sent_requests() {
    for at in 0..4 {
        let set = Set::new(at).await;
        let client = set.layer.layer(ConcurrencyLimit::new(set.transport.clone(), 1));
        let waiting = set.waiting_for_a_token(client.clone()).await;
        assert_eq!(client.oneshot(set.models()).await.unwrap().status(), 200, "{}", set.name);
        set.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", set.name);
    }
}

#[tokio::test]
async fn rate_limit_outside_the_layer_counts_calls() {
    for at in 0..4 {
        let set = Set::new(at).await;
        let mut client = RateLimitLayer::new(3, HOUR).layer(set.layer.layer(set.transport.clone()));
        set.two_try_ons(&mut client).await;
        assert_eq!(client.ready().await.unwrap().call(set.models()).await.unwrap().status(), 200, "{}", set.name);
        assert!(ServiceExt::<Req>::ready(&mut client).now_or_never().is_none(), "{}", set.name);
    }
}

#[tokio::test]
async fn rate_limit_inside_the_layer_counts_replays() {
    for at in 0..4 {
        let set = Set::new(at).await;
        // It is no service that can be cloned, so a Buffer goes around it.
        let limited = ServiceBuilder::new().load_shed().rate_limit(3, HOUR).service(set.transport.clone());
        let mut client = set.layer.layer(Buffer::new(limited, 1));
        set.two_try_ons(&mut client).await;
        let error = client.oneshot(set.models()).await.unwrap_err();
        assert!(error.is::<Overloaded>(), "{}: {error}", set.name);
    }
}

#[tokio::test]
async fn load_shed_outside_the_layer_rejects_before_the_fetch() {
    for at in 0..4 {
        let set = Set::new(at).await;
        set.gate.open(9);
        let client = LoadShed::new(set.layer.layer(ConcurrencyLimit::new(set.transport.clone(), 1)));
        let hold = set.aiuta.hold();
        let sent = set.waiting_for_a_token(client.clone()).await;
        set.aiuta.wait_for(1).await;
        let error = client.oneshot(start(set.server.origin(), "image-2")).await.unwrap_err();
        assert!(error.is::<Overloaded>(), "{}: {error}", set.name);
        assert_eq!(set.source.calls(), 1, "{}", set.name);
        hold.release();
        assert_eq!(sent.await.unwrap(), 200, "{}", set.name);
    }
}

#[tokio::test]
async fn load_shed_inside_the_layer_rejects_after_the_fetch_and_keeps_the_token() {
    for at in 0..4 {
        let set = Set::new(at).await;
        set.gate.open(9);
        let client = set.layer.layer(LoadShed::new(ConcurrencyLimit::new(set.transport.clone(), 1)));
        let hold = set.aiuta.hold();
        let sent = set.waiting_for_a_token(client.clone()).await;
        set.aiuta.wait_for(1).await;
        let other = || start(set.server.origin(), "image-2");
        let error = client.clone().oneshot(other()).await.unwrap_err();
        assert!(error.is::<Overloaded>(), "{}: {error}", set.name);
        hold.release();
        assert_eq!(sent.await.unwrap(), 200, "{}", set.name);
        // Aiuta knows no such image: the token was right.
        assert_eq!(client.oneshot(other()).await.unwrap().status(), 400, "{}", set.name);
        assert_eq!(set.source.calls(), 2, "{}", set.name);
    }
}

#[tokio::test]
async fn buffer_outside_the_layer_is_not_blocked_while_a_token_is_fetched() {
    for at in 0..4 {
        let set = Set::new(at).await;
        let client = Buffer::new(set.layer.layer(set.transport.clone()), 1);
        let waiting = set.waiting_for_a_token(client.clone()).await;
        assert_eq!(client.oneshot(set.models()).await.unwrap().status(), 200, "{}", set.name);
        set.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", set.name);
    }
}

#[tokio::test]
async fn buffer_inside_the_layer_reserves_no_slot_while_a_token_is_fetched() {
    for at in 0..4 {
        let set = Set::new(at).await;
        let client = set.layer.layer(Buffer::new(set.transport.clone(), 1));
        let waiting = set.waiting_for_a_token(client.clone()).await;
        assert_eq!(client.oneshot(set.models()).await.unwrap().status(), 200, "{}", set.name);
        set.gate.open(1);
        assert_eq!(waiting.await.unwrap(), 200, "{}", set.name);
    }
}

#[tokio::test]
async fn boxing_on_either_side_changes_nothing() {
    for at in 0..4 {
        let set = Set::new(at).await;
        set.two_try_ons(&mut BoxCloneService::new(set.layer.layer(set.transport.clone()))).await;
        let set = Set::new(at).await;
        set.two_try_ons(&mut set.layer.layer(BoxCloneService::new(set.transport.clone()))).await;
    }
}
