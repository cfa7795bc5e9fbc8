//! `aws-smithy-runtime`: its lazy identity cache with a resolver of bearer tokens, and `BearerAuthScheme` as the
//! signer. These are the steps by which an SDK's orchestrator authenticates a request. The orchestrator's other steps
//! (endpoints, retries, interceptors) would add to the cost and are left out. Requests have a type of their own and are
//! built before the timer starts.
//!
//! Warm hits use the default settings of the cache. Herds use a `buffer_time` of 1 s: by default a token is not used in
//! its last 10 s, so one of 5 s would never be used.

use std::sync::Arc;
use std::time::Duration;

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_runtime::client::auth::http::BearerAuthScheme;
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime::client::orchestrator::endpoints::StaticUriEndpointResolver;
use aws_smithy_runtime::client::retries::strategy::NeverRetryStrategy;
use aws_smithy_runtime_api::client::auth::http::HTTP_BEARER_AUTH_SCHEME_ID;
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::auth::{AuthScheme, AuthSchemeEndpointConfig};
use aws_smithy_runtime_api::client::identity::http::Token;
use aws_smithy_runtime_api::client::identity::{
    Identity, IdentityFuture, ResolveCachedIdentity, ResolveIdentity, SharedIdentityCache, SharedIdentityResolver,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use futures::FutureExt;

use super::{Herd, Hit, batch, body, client, one_token, try_on};
use crate::BoxError;
use crate::authority::{Authority, expiry, now};

pub async fn hits() -> Result<Vec<Hit>, BoxError> {
    let token = Token::new(one_token().await?, Some(now() + Duration::from_secs(3600)));
    let signing = Signing::new(token, IdentityCache::lazy().build())?;
    signing.sign(&mut request(0)).await?;
    Ok(vec![Hit {
        name: "aws-smithy-runtime",
        note: "lazy identity cache and `BearerAuthScheme`",
        floor: batch(request, |request| bytes(&request)),
        authenticated: batch(request, move |mut request| {
            signing.sign(&mut request).now_or_never().expect("a hit never waits").expect("the token is valid");
            bytes(&request)
        }),
    }])
}

pub const HERD: Herd = Herd {
    name: "aws-smithy-runtime",
    client: |authority| {
        Box::pin(async move {
            let cache = IdentityCache::lazy().buffer_time(Duration::from_secs(1)).build();
            let signing = Arc::new(Signing::new(Source(Arc::clone(&authority)), cache)?);
            Ok(client(move || {
                let (signing, authority) = (Arc::clone(&signing), Arc::clone(&authority));
                async move {
                    let mut request = request(0);
                    signing.sign(&mut request).await?;
                    Ok(authority.answer(request.headers().get("authorization").map(str::to_owned)).await)
                }
            }))
        })
    },
};

struct Signing {
    cache: SharedIdentityCache,
    resolver: SharedIdentityResolver,
    scheme: BearerAuthScheme,
    components: RuntimeComponents,
    config: ConfigBag,
}

impl Signing {
    fn new(resolver: impl ResolveIdentity + 'static, cache: SharedIdentityCache) -> Result<Self, BoxError> {
        let resolver = SharedIdentityResolver::new(resolver);
        let options = StaticAuthSchemeOptionResolver::new(vec![HTTP_BEARER_AUTH_SCHEME_ID]);
        let components = RuntimeComponentsBuilder::new("bench")
            .with_auth_scheme(BearerAuthScheme::new())
            .with_auth_scheme_option_resolver(Some(options))
            .with_identity_cache(Some(cache.clone()))
            .with_identity_resolver(HTTP_BEARER_AUTH_SCHEME_ID, resolver.clone())
            .with_endpoint_resolver(Some(StaticUriEndpointResolver::uri(super::URI)))
            .with_retry_strategy(Some(NeverRetryStrategy::new()))
            .with_sleep_impl(Some(TokioSleep::new()))
            .with_time_source(Some(SystemTimeSource::new()))
            .build()?;
        Ok(Self { cache, resolver, scheme: BearerAuthScheme::new(), components, config: ConfigBag::base() })
    }

    async fn sign(&self, request: &mut HttpRequest) -> Result<(), BoxError> {
        let (components, config) = (&self.components, &self.config);
        let identity = self.cache.resolve_cached_identity(self.resolver.clone(), components, config).await?;
        let endpoint = AuthSchemeEndpointConfig::empty();
        self.scheme.signer().sign_http_request(request, &identity, endpoint, components, config)
    }
}

struct Source(Arc<Authority>);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl ResolveIdentity for Source {
    fn resolve_identity<'a>(&'a self, _: &'a RuntimeComponents, _: &'a ConfigBag) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let jwt = self.0.token().await?;
            let until = Some(expiry(&jwt));
            Ok(Identity::new(Token::new(jwt.expose(), until), until))
        })
    }
}

fn request(number: usize) -> HttpRequest {
    try_on(number).map(|_| SdkBody::from(body(number))).try_into().expect("a request")
}

fn bytes(request: &HttpRequest) -> usize {
    request.headers().iter().map(|(name, value)| name.len() + value.len()).sum()
}
