//! `tower-aiuta-auth` with default settings. It is the only one with a token per set of params, and uses a thousand of
//! them. Each batch sends the same requests as its floor, with params in their extensions where the case says so.

use std::sync::Arc;

use tower::Layer;
use tower_aiuta_auth::{AiutaAuthLayer, Jwt, NoReplay, TokenError, TokenRequest, TokenSource};

use super::inner::{Api, Counting, run, status};
use super::{Herd, Hit, KEYS, Req, batch, client, try_on};
use crate::BoxError;
use crate::authority::{Authority, params, signer};

const ID: &str = "65f0c0ffee65f0c0ffee65f0";

pub async fn hits() -> Result<Vec<Hit>, BoxError> {
    let api_key = AiutaAuthLayer::api_key("0123456789abcdef0123456789abcdef")?;
    // Each case has a layer of its own, so that no case finds the processor's caches warmed by another.
    Ok(vec![
        hit(&warm().await?, "ours: JWT, no replay", "1,000 keys, params in the extensions, `NoReplay`", |number| {
            with(with(try_on(number), params(number)), NoReplay)
        }),
        hit(&warm().await?, "ours: JWT, with replay", "the same, default settings", |number| {
            with(try_on(number), params(number))
        }),
        hit(
            &warm().await?,
            "ours: JWT, params from the body",
            "the same, with the params only in the JSON body",
            try_on,
        ),
        hit(&warm().await?, "ours: subscription id", "`x-user-id`, for a request that needs no token", |number| {
            let mut request = try_on(number);
            *request.method_mut() = http::Method::GET;
            let uri = format!("{}/06f5948c-{number:04}", super::URI);
            *request.uri_mut() = uri.parse().expect("a URI");
            request
        }),
        hit(&api_key, "ours: API key", "`x-api-key`", try_on),
    ])
}

/// Returns a layer with all tokens in its cache.
async fn warm() -> Result<AiutaAuthLayer, BoxError> {
    let layer = AiutaAuthLayer::jwt(ID, signer().lifetime(std::time::Duration::from_secs(3600)))?;
    for number in 0..KEYS {
        layer.token_cache().expect("the layer uses JWTs").get(&params(number)).await?;
    }
    Ok(layer)
}

fn hit(layer: &AiutaAuthLayer, name: &'static str, note: &'static str, make: fn(usize) -> Req) -> Hit {
    let mut service = layer.layer(Counting);
    Hit {
        name,
        note,
        floor: batch(make, |request| run(&mut Counting, request)),
        authenticated: batch(make, move |request| run(&mut service, request)),
    }
}

fn with<T: Clone + Send + Sync + 'static>(mut request: Req, extension: T) -> Req {
    request.extensions_mut().insert(extension);
    request
}

struct Source(Arc<Authority>);

impl TokenSource for Source {
    async fn token(&self, _: TokenRequest) -> Result<Jwt, TokenError> {
        self.0.token().await.map_err(TokenError::transient)
    }
}

pub const HERD: Herd = Herd {
    name: "tower-aiuta-auth",
    client: |authority| {
        Box::pin(async move {
            let layer = AiutaAuthLayer::jwt(ID, Source(Arc::clone(&authority)))?;
            let service = layer.layer(Api(authority));
            Ok(client(move || status(service.clone())))
        })
    },
};
