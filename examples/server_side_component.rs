//! Gives logged-in users tokens for their own images.

use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request};
use tower::ServiceExt;
use tower_aiuta_auth::{AuthParams, BoxError, IssuerError, JwtIssuer, JwtSigner, ParamValue};

/// Returns the params to sign, or an error if this user may not have a token for them.
async fn authorize(head: Parts, params: AuthParams) -> Result<AuthParams, IssuerError> {
    let user = logged_in_user(&head.headers).ok_or(IssuerError::unauthorized())?;
    match params.get("uploaded_image_id") {
        Some(ParamValue::String(image)) if owns(user, image) => Ok(params),
        _ => Err(IssuerError::forbidden()),
    }
}

/// Stands for a lookup in the session store.
fn logged_in_user(headers: &HeaderMap) -> Option<&'static str> {
    (headers.get("x-session")? == "alice-session").then_some("alice")
}

/// Stands for a lookup in the database of images.
fn owns(user: &str, image: &str) -> bool {
    (user, image) == ("alice", "alice-image")
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let issuer = JwtIssuer::new(JwtSigner::hs256("issuer-id", "issuer-secret")?, authorize);
    let app = Router::new().route_service("/aiuta_jwt", issuer);

    // A server passes `app` to `axum::serve`. This program sends it two requests in process.
    for (image, status) in [("bob-image", 403), ("alice-image", 200)] {
        let request = Request::get(format!("/aiuta_jwt?uploaded_image_id={image}"))
            .header("x-session", "alice-session")
            .body(Body::empty())?;
        let response = app.clone().oneshot(request).await?;
        println!("token for {image}: {}", response.status());
        assert_eq!(response.status(), status);
    }
    Ok(())
}
