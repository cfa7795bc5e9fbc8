//! A host that is not Aiuta. No credential may arrive here.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower_aiuta_auth::testing::Credential;

use crate::gate::{redirect, starts};
use crate::invariants::Invariant;
use crate::rng::Rng;
use crate::server::{Cut, Host, Reply};
use crate::shared::Shared;

pub(crate) struct UntrustedHost {
    shared: Arc<Shared>,
    rng: Mutex<Rng>,
}

impl UntrustedHost {
    pub(crate) fn new(shared: Arc<Shared>, rng: Rng) -> Self {
        Self { shared, rng: Mutex::new(rng) }
    }
}

impl Host for UntrustedHost {
    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Cut> {
        let (head, body) = request.into_parts();
        // Checked before the body is read, because a request that is dropped halfway has sent its credential already.
        let credential = Credential::of(&head.headers);
        let (violations, counts) = (&self.shared.violations, &self.shared.counts);
        violations.check(Invariant::NoCredentialLeaked, credential == Credential::None, || {
            format!("{} {} came with {credential}", head.method, head.uri.path())
        });
        body.collect().await.map_err(|_| Cut)?;
        counts.untrusted_requests.add();
        counts.requests.add();
        let redirected_here = starts(&head) && head.uri.query().is_some();
        if redirected_here && self.rng.lock().unwrap_or_else(PoisonError::into_inner).one_in(2) {
            return Ok(redirect(&self.shared.origin, &head.uri));
        }
        Ok(Response::new(Full::default()))
    }
}
