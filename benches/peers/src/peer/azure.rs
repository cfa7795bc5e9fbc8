//! `azure_core`: `BearerTokenAuthorizationPolicy` as a per-try policy of a `Pipeline`, where its clients have it. The
//! floor is the same pipeline without the policy. Requests have a type of their own and are built before the timer
//! starts.
//!
//! By default the policy drops its token after a 401 and returns the 401 to the caller. Clients that need more set an
//! `OnChallenge`. In the herds the policy has one that authorizes the request again, and the API sends the challenge
//! that this needs. The refresh window of 5 minutes cannot be set. It is meant for tokens of an hour, so a token of 5 s
//! is fetched for every request.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::Bytes;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::headers::{AUTHORIZATION, Headers, WWW_AUTHENTICATE};
use azure_core::http::policies::Policy;
use azure_core::http::policies::auth::{Authorizer, BearerTokenAuthorizationPolicy, OnChallenge};
use azure_core::http::{
    AsyncRawResponse, ClientOptions, Context, HttpClient, Method, Pipeline, PipelineSendOptions, Request, StatusCode,
    Transport,
};
use azure_core::time::OffsetDateTime;
use futures::FutureExt;

use super::{HEADERS, Herd, Hit, URI, batch, body, client, one_token};
use crate::BoxError;
use crate::authority::{Authority, expiry, now};

const SCOPE: &str = "https://api.aiuta.com/.default";

pub async fn hits() -> Result<Vec<Hit>, BoxError> {
    let until = (now() + Duration::from_secs(3600)).into();
    let token = AccessToken::new(one_token().await?, until);
    let policy = BearerTokenAuthorizationPolicy::new(Arc::new(OneToken(token)), [SCOPE]);
    let floor = pipeline(Arc::new(Counting), vec![]);
    let authenticated = pipeline(Arc::new(Counting), vec![Arc::new(policy)]);
    Ok(vec![Hit {
        name: "azure_core",
        note: "`BearerTokenAuthorizationPolicy` in a `Pipeline`",
        floor: batch(request, move |request| send(&floor, request).now_or_never().expect("the pipeline never waits")),
        authenticated: batch(request, move |request| {
            send(&authenticated, request).now_or_never().expect("a hit never waits")
        }),
    }])
}

pub const HERD: Herd = Herd {
    name: "azure_core",
    client: |authority| {
        Box::pin(async move {
            let policy = BearerTokenAuthorizationPolicy::new(Arc::new(Source(Arc::clone(&authority))), [SCOPE])
                .with_on_challenge(Arc::new(AuthorizeAnew));
            let pipeline = Arc::new(pipeline(Arc::new(Api(authority)), vec![Arc::new(policy)]));
            Ok(client(move || {
                let pipeline = Arc::clone(&pipeline);
                async move {
                    let unchecked = PipelineSendOptions { skip_checks: true, ..Default::default() };
                    let response = pipeline.send(&Context::new(), &mut request(0), Some(unchecked)).await?;
                    Ok(http::StatusCode::from_u16(response.status().into())?)
                }
            }))
        })
    },
};

fn pipeline(client: Arc<dyn HttpClient>, per_try: Vec<Arc<dyn Policy>>) -> Pipeline {
    let options = ClientOptions { transport: Some(Transport::new(client)), ..Default::default() };
    Pipeline::new(Some("bench"), Some("1.0"), options, vec![], per_try, None)
}

async fn send(pipeline: &Pipeline, mut request: Request) -> usize {
    let response = pipeline.send(&Context::new(), &mut request, None).await.expect("a response");
    response.body().len()
}

fn request(number: usize) -> Request {
    let mut request = Request::new(URI.parse().expect("a URL"), Method::Post);
    for (name, value) in HEADERS {
        request.insert_header(name, value);
    }
    request.set_body(body(number));
    request
}

/// Looks at every header.
#[derive(Debug)]
struct Counting;

#[async_trait]
impl HttpClient for Counting {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let bytes: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.as_str().len()).sum();
        std::hint::black_box(bytes);
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, Headers::new(), Bytes::new()))
    }
}

struct Api(Arc<Authority>);

#[async_trait]
impl HttpClient for Api {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let authorization = request.headers().get_optional_str(&AUTHORIZATION).map(str::to_owned);
        let status = self.0.answer(authorization).await;
        let mut headers = Headers::new();
        headers.insert(WWW_AUTHENTICATE, "Bearer");
        Ok(AsyncRawResponse::from_bytes(status.as_u16().into(), headers, Bytes::new()))
    }
}

#[derive(Debug)]
struct AuthorizeAnew;

#[async_trait]
impl OnChallenge for AuthorizeAnew {
    async fn on_challenge(
        &self,
        _: &Context,
        request: &mut Request,
        authorizer: &dyn Authorizer,
        _: &Headers,
    ) -> azure_core::Result<()> {
        authorizer.authorize(request, &[SCOPE], TokenRequestOptions::default()).await
    }
}

#[derive(Debug)]
struct OneToken(AccessToken);

#[async_trait]
impl TokenCredential for OneToken {
    async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        Ok(self.0.clone())
    }
}

struct Source(Arc<Authority>);

#[async_trait]
impl TokenCredential for Source {
    async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        let jwt = self.0.token().await.map_err(|error| azure_core::Error::new(ErrorKind::Credential, error))?;
        Ok(AccessToken::new(jwt.expose().to_owned(), OffsetDateTime::from(expiry(&jwt))))
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}
