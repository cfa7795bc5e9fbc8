//! `tower-http`: `AddAuthorizationLayer`, a constant header. It has no token source, and shows the minimum cost of a
//! header.

use tower::Layer;
use tower_http::auth::AddAuthorizationLayer;

use super::inner::{Counting, run};
use super::{Hit, batch, one_token, try_on};
use crate::BoxError;

pub async fn hits() -> Result<Vec<Hit>, BoxError> {
    let mut service = AddAuthorizationLayer::bearer(&one_token().await?).layer(Counting);
    Ok(vec![Hit {
        name: "tower-http",
        note: "`AddAuthorizationLayer::bearer`, a static header",
        floor: batch(try_on, |request| run(&mut Counting, request)),
        authenticated: batch(try_on, move |request| run(&mut service, request)),
    }])
}
