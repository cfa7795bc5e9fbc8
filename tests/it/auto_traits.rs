//! Rule F4: handles, the service and its future are `Send`, `Sync`, `Unpin` and `'static` exactly when their parts are.

use std::cell::Cell;
use std::future::{Pending, Ready};
use std::marker::{PhantomData, PhantomPinned};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use static_assertions::{assert_impl_all, assert_not_impl_any, assert_obj_safe};
use tower::Service;
use tower_aiuta_auth::*;

type Req = Request<Full<Bytes>>;

/// A service with the auto traits of `T`, whose future has those of `F`.
struct Inner<T, F>(PhantomData<(T, F)>);

impl<T, F> Clone for Inner<T, F> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<T, F: Future<Output = Result<Response<()>, BoxError>>> Service<Req> for Inner<T, F> {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = F;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: Req) -> F {
        unreachable!("only its type is used")
    }
}

/// A future with the auto traits of `T`.
struct Fut<T>(PhantomData<T>);

impl<T> Future for Fut<T> {
    type Output = Result<Response<()>, BoxError>;
    fn poll(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

type Of<T, F> = ResponseFuture<Inner<T, Fut<F>>, Full<Bytes>>;

#[test]
fn f4_handles_and_errors_are_send_and_sync() {
    assert_impl_all!(AiutaAuthLayer: Clone, Send, Sync, Unpin);
    assert_impl_all!(AiutaAuthMiddleware: Clone, Send, Sync, Unpin, std::fmt::Debug, reqwest_middleware::Middleware);
    assert_impl_all!(AiutaRetryableStrategy: Send, Sync, Unpin, reqwest_retry::RetryableStrategy);
    assert_impl_all!(AiutaAuthBuilder: Send, Sync, Unpin);
    assert_impl_all!(TokenCache: Clone, Send, Sync, Unpin);
    assert_impl_all!(AuthParams: Clone, Send, Sync, Unpin, Default, Eq, std::hash::Hash);
    assert_impl_all!(ParamValue: Clone, Send, Sync, Unpin, Eq, std::hash::Hash, serde::Serialize);
    assert_impl_all!(Jwt: Clone, Send, Sync, Unpin);
    assert_impl_all!(JwtSigner: Clone, Send, Sync, Unpin);
    assert_impl_all!(BoxTokenSource: Clone, Send, Sync, Unpin);
    assert_impl_all!(RemoteTokenSource<()>: Clone, Send, Sync, Unpin);
    assert_not_impl_any!(RemoteTokenSource<Rc<()>>: Send, Sync);
    assert_impl_all!(JwtIssuer: Clone, Send, Sync, Unpin);
    assert_impl_all!(IssuerError: Clone, Send, Sync, Unpin);
    assert_impl_all!(TokenRequest: Clone, Send, Sync, Unpin);
    assert_impl_all!(AuthError: std::error::Error, Send, Sync, Unpin);
    assert_impl_all!(TokenError: std::error::Error, Send, Sync, Unpin);
    assert_impl_all!(ConfigError: std::error::Error, Send, Sync, Unpin, Clone, PartialEq);
    assert_impl_all!(InvalidJwt: std::error::Error, Send, Sync, Unpin);
    assert_obj_safe!(Clock);

    fn is_send<T: Send>(_: T) {}
    let layer = AiutaAuthLayer::jwt("id", source_fn(|_| async { Err::<String, _>("none") })).expect("valid settings");
    is_send(layer.token_cache().expect("the JWT scheme").get(&AuthParams::new()));
}

#[test]
fn f4_service_auto_traits_follow_the_inner_service() {
    assert_impl_all!(AiutaAuth<()>: Send, Sync, Unpin);
    assert_impl_all!(AiutaAuth<Cell<()>>: Send);
    assert_not_impl_any!(AiutaAuth<Cell<()>>: Sync);
    assert_not_impl_any!(AiutaAuth<Rc<()>>: Send, Sync);
    assert_not_impl_any!(AiutaAuth<PhantomPinned>: Unpin);
}

#[test]
fn f4_future_auto_traits_follow_its_parts() {
    assert_impl_all!(Of<(), ()>: Send, Sync, Unpin);
    assert_impl_all!(Of<(), Cell<()>>: Send, Unpin);
    assert_not_impl_any!(Of<(), Cell<()>>: Sync);
    assert_not_impl_any!(Of<(), Rc<()>>: Send, Sync);
    assert_not_impl_any!(Of<Rc<()>, ()>: Send, Sync);
    assert_not_impl_any!(Of<(), PhantomPinned>: Unpin);
    assert_impl_all!(ResponseFuture<Inner<(), Ready<Result<Response<()>, BoxError>>>, Full<Bytes>>: Send, Sync, Unpin);
    assert_impl_all!(ResponseFuture<Inner<(), Pending<Result<Response<()>, BoxError>>>, Full<Bytes>>: Send, Sync);
}

#[test]
fn f4_future_borrows_only_what_its_parts_borrow() {
    fn is_static<T: 'static>() {}
    is_static::<Of<(), ()>>();
    is_static::<TokenCache>();
    is_static::<AiutaAuthLayer>();
    // A service that borrows, inside the layer, borrows as well.
    fn borrows<'a>(
        layer: &AiutaAuthLayer,
        inner: Inner<&'a str, Fut<&'a str>>,
    ) -> AiutaAuth<Inner<&'a str, Fut<&'a str>>> {
        tower::Layer::layer(layer, inner)
    }
    let name = String::from("local");
    let mut service = borrows(&AiutaAuthLayer::api_key("key").expect("a valid key"), Inner(PhantomData));
    assert!(service.poll_ready(&mut Context::from_waker(std::task::Waker::noop())).is_ready());
    drop(name);
}
