//! `google-cloud-auth`: user credentials, which fetch their tokens by OAuth 2, here from the authority on loopback.
//! Each request asks for the headers and inserts them, as Google's clients do. (A caller that passes the tag of its
//! last headers could skip the insertion.)
//!
//! Tokens are fetched by a background task: once when the credentials are built, then 4 minutes before the token
//! expires, but at most every 10 s. This is meant for tokens of an hour. A transient failure is kept for 10 s.

use std::sync::Arc;

use futures::FutureExt;
use google_cloud_auth::credentials::{CacheableResource, Credentials, user_account};
use http::{Extensions, HeaderMap};
use serde_json::json;

use super::inner::{authorization, bytes};
use super::{Herd, Hit, Req, batch, client, try_on};
use crate::BoxError;
use crate::authority::{Authority, Behaviour};

pub async fn hits() -> Result<Vec<Hit>, BoxError> {
    let credentials = credentials(&Authority::new(Behaviour::default())).await?;
    headers(&credentials).await?;
    Ok(vec![Hit {
        name: "google-cloud-auth",
        note: "`Credentials::headers`, inserted into the request",
        floor: batch(try_on, |request: Req| bytes(request.headers())),
        authenticated: batch(try_on, move |mut request: Req| {
            let headers = headers(&credentials).now_or_never().expect("a hit never waits");
            request.headers_mut().extend(headers.expect("the token is valid"));
            bytes(request.headers())
        }),
    }])
}

pub const HERD: Herd = Herd {
    name: "google-cloud-auth",
    client: |authority| {
        Box::pin(async move {
            let credentials = credentials(&authority).await?;
            Ok(client(move || {
                let (credentials, authority) = (credentials.clone(), Arc::clone(&authority));
                async move {
                    let mut request = try_on(0);
                    request.headers_mut().extend(headers(&credentials).await?);
                    Ok(authority.answer(authorization(request.headers())).await)
                }
            }))
        })
    },
};

async fn credentials(authority: &Arc<Authority>) -> Result<Credentials, BoxError> {
    let origin = authority.serve().await?;
    let user = json!({
        "type": "authorized_user",
        "client_id": "client",
        "client_secret": "secret",
        "refresh_token": "refresh",
        "token_uri": format!("{origin}/oauth2"),
    });
    Ok(user_account::Builder::new(user).build()?)
}

async fn headers(credentials: &Credentials) -> Result<HeaderMap, BoxError> {
    match credentials.headers(Extensions::new()).await? {
        CacheableResource::New { data, .. } => Ok(data),
        CacheableResource::NotModified => unreachable!("no tag was passed"),
    }
}
