//! Rule C7: a token source that needs a token of its own layer fails at once.

use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tower_aiuta_auth::{Access, AiutaAuth, AiutaAuthLayer, AuthError, AuthErrorKind, BoxError, Jwt, TokenError};

use crate::support::*;

/// A source that sends `request(n)` through the client in `client` before it returns token `n`.
fn source_with_client(
    client: &Arc<OnceLock<AiutaAuth<Recorder>>>,
    request: impl Fn(usize) -> http::Request<http_body_util::Full<bytes::Bytes>> + Send + Sync + 'static,
    wrap: fn(BoxError) -> TokenError,
) -> Source {
    let client = Arc::clone(client);
    Source::from_fn(move |number, token_request| {
        let (client, request) = (Arc::clone(&client), request(number));
        async move {
            send(client.get().unwrap(), request).await.map_err(wrap)?;
            Ok(numbered_token(number, &token_request, secs(60)))
        }
    })
}

fn assert_recursive(error: &AuthError) {
    assert_eq!((error.kind(), error.is_transient(), error.retry_after()), (AuthErrorKind::Recursive, false, None));
    assert!(error.to_string().contains("`Access::Anonymous`"), "{error}");
}

#[test]
fn c7_request_of_the_source_fails_at_once() {
    for nested in ["image-1", "image-2"] {
        for wrap in [TokenError::new, TokenError::transient] {
            let client = Arc::default();
            let source = source_with_client(&client, |_| try_on(nested), wrap);
            let inner = Recorder::new();
            assert!(client.set(service(&jwt(source.clone()).build().unwrap(), &inner)).is_ok());
            let send = || send(client.get().unwrap(), try_on("image-1")).now_or_never().expect("the request waits");
            assert_recursive(&auth_error(send()));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _entered = runtime.enter();
            assert_recursive(&auth_error(send()));
            assert_eq!((source.calls(), inner.count()), (2, 0));
        }
    }
}

#[tokio::test]
async fn c7_each_nested_key_is_not_asked_for() {
    let client = Arc::default();
    let source = source_with_client(&client, |number| try_on(&format!("nested-{number}")), TokenError::new);
    assert!(client.set(service(&jwt(source.clone()).build().unwrap(), &Recorder::new())).is_ok());
    assert_recursive(&auth_error(send(client.get().unwrap(), try_on("image-1")).await));
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn c7_cached_token_is_no_exception() {
    // Otherwise the source would work until the other token expires.
    let client = Arc::default();
    let source = source_with_client(
        &client,
        |number| if number == 1 { anonymous() } else { try_on("image-1") },
        TokenError::new,
    );
    let layer = jwt(source).build().unwrap();
    assert!(client.set(service(&layer, &Recorder::new())).is_ok());
    send(client.get().unwrap(), try_on("image-1")).await.unwrap();
    assert_recursive(&auth_error(send(client.get().unwrap(), try_on("image-2")).await));
    send(client.get().unwrap(), try_on("image-1")).await.unwrap();
}

fn anonymous() -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = post("https://api.aiuta.com/aiuta_jwt", "{}");
    request.extensions_mut().insert(Access::Anonymous);
    request
}

#[tokio::test]
async fn c7_anonymous_request_of_the_source_is_sent() {
    let client = Arc::default();
    let layer = jwt(source_with_client(&client, |_| anonymous(), TokenError::new)).build().unwrap();
    let inner = Recorder::new();
    assert!(client.set(service(&layer, &inner)).is_ok());
    send(client.get().unwrap(), try_on("image-1")).await.unwrap();
    let credentials: Vec<_> = inner.requests().iter().map(SentRequest::credentials).collect();
    assert_eq!(credentials, [vec![], vec!["authorization"]]);
}

#[tokio::test]
async fn c7_direct_use_of_the_cache_fails_at_once() {
    let layer: Arc<OnceLock<AiutaAuthLayer>> = Arc::default();
    let source = Source::from_fn({
        let layer = Arc::clone(&layer);
        move |_, request| {
            let layer = Arc::clone(&layer);
            async move {
                // Before and after the first wait.
                let before = layer.get().unwrap().token_cache().unwrap().get(request.params()).await;
                assert_recursive(&before.unwrap_err());
                tokio::task::yield_now().await;
                let nested: Result<Jwt, AuthError> =
                    layer.get().unwrap().token_cache().unwrap().get(request.params()).await;
                nested.map_err(TokenError::new)
            }
        }
    });
    assert!(layer.set(jwt(source).build().unwrap()).is_ok());
    let error = layer.get().unwrap().token_cache().unwrap().get(&params("image-1")).await.unwrap_err();
    assert_recursive(&error);
}

#[tokio::test]
async fn c7_source_may_use_another_layer_but_not_in_a_circle() {
    // The source of the first layer uses the second one, whose source uses the first one for every other token.
    let (first, second): (Arc<OnceLock<_>>, Arc<OnceLock<_>>) = (Arc::default(), Arc::default());
    let of_first = source_with_client(&second, |number| try_on(&format!("second-{number}")), TokenError::new);
    let of_second = source_with_client(
        &first,
        |number| if number % 2 == 1 { anonymous() } else { try_on("image-1") },
        TokenError::new,
    );
    assert!(first.set(service(&jwt(of_first).build().unwrap(), &Recorder::new())).is_ok());
    assert!(second.set(service(&jwt(of_second).build().unwrap(), &Recorder::new())).is_ok());
    send(first.get().unwrap(), try_on("image-1")).await.unwrap();
    assert_recursive(&auth_error(send(first.get().unwrap(), try_on("image-2")).await));
    send(first.get().unwrap(), try_on("image-3")).await.unwrap();
}

/// A waker that polls a request.
struct PollsRequest(Mutex<Option<BoxFuture<'static, Result<http::StatusCode, BoxError>>>>);

impl Wake for PollsRequest {
    fn wake(self: Arc<Self>) {
        let request = self.0.lock().unwrap().take();
        if let Some(request) = request {
            request.now_or_never().expect("the request waits").unwrap();
        }
    }
}

#[test]
fn c7_waker_that_the_source_wakes_may_send_a_request() {
    let source = Source::from_fn(|number, request| {
        let mut polls = 0;
        std::future::poll_fn(move |cx| {
            polls += 1;
            if polls == 3 {
                cx.waker().wake_by_ref();
            }
            match number {
                1 if polls < 4 => Poll::Pending,
                _ => Poll::Ready(Ok(numbered_token(number, &request, secs(60)))),
            }
        })
    });
    let inner = Recorder::new();
    let service = service(&jwt(source.clone()).build().unwrap(), &inner);
    let mut first = {
        let service = service.clone();
        async move { send(&service, try_on("image-1")).await }.boxed()
    };
    // This polls the source twice: the waker is registered between the two polls.
    assert!(first.poll_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
    let other = async move { send(&service, try_on("image-2")).await }.boxed();
    let waker = Waker::from(Arc::new(PollsRequest(Mutex::new(Some(other)))));
    assert!(first.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!((source.calls(), inner.count()), (2, 1), "the other request was sent by the waker");
    let Poll::Ready(result) = first.poll_unpin(&mut Context::from_waker(&waker)) else { panic!("the request waits") };
    assert_eq!(result.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn c7_request_in_a_task_of_its_own_ends_at_the_timeout() {
    // A documented limit: the layer can't see that the task works for the source.
    let client: Arc<OnceLock<AiutaAuth<Recorder>>> = Arc::default();
    let source = Source::from_fn({
        let client = Arc::clone(&client);
        move |number, request| {
            let client = Arc::clone(&client);
            async move {
                let nested = tokio::spawn(async move { send(client.get().unwrap(), try_on("image-1")).await });
                nested.await.unwrap().map_err(TokenError::new)?;
                Ok(numbered_token(number, &request, secs(60)))
            }
        }
    });
    let layer = jwt(source).fetch_timeout(secs(3)).build().unwrap();
    assert!(client.set(service(&layer, &Recorder::new())).is_ok());
    let began = Instant::now();
    let error = auth_error(send(client.get().unwrap(), try_on("image-1")).await);
    assert_eq!((error.kind(), began.elapsed()), (AuthErrorKind::FetchTimeout, secs(3)));
}
