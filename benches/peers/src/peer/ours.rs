//! `tower-aiuta-auth`, with the defaults. It is the only one with a token for each set of params: a thousand of them are in use. Each batch is the
//! same requests as its floor, params in their extensions where the layer gets them from there.

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
    // Each has a layer of its own: none finds the processor's caches warm with tokens that another has used.
    Ok(vec![
        hit(
            &warm().await?,
            "ours: JWT, never sent twice",
            "1,000 keys, params in the extensions, `NoReplay`",
            |number| with(with(try_on(number), params(number)), NoReplay),
        ),
        hit(&warm().await?, "ours: JWT, able to replay", "the same, default settings", |number| {
            with(try_on(number), params(number))
        }),
        hit(&warm().await?, "ours: JWT, params from the body", "the same, the JSON body is read", try_on),
        hit(&warm().await?, "ours: subscription id", "`x-user-id` on a request that needs no more", |number| {
            let mut request = try_on(number);
            *request.method_mut() = http::Method::GET;
            let uri = format!("{}/06f5948c-{number:04}", super::URI);
            *request.uri_mut() = uri.parse().expect("a URI");
            request
        }),
        hit(&api_key, "ours: API key", "`x-api-key`", try_on),
    ])
}

/// A layer with all the tokens in its cache.
async fn warm() -> Result<AiutaAuthLayer, BoxError> {
    let layer = AiutaAuthLayer::jwt(ID, signer().lifetime(std::time::Duration::from_secs(3600)))?;
    for number in 0..KEYS {
        layer.token_cache().expect("the Jwt scheme").get(&params(number)).await?;
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
