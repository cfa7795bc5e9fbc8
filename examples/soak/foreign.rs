//! A host that is not Aiuta: no credential may ever get here.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower_aiuta_auth::testing::Credential;

use crate::findings::Invariant;
use crate::gate::{redirect, starts};
use crate::rng::Rng;
use crate::server::{Cut, Host, Reply};
use crate::world::World;

pub(crate) struct Foreign {
    world: Arc<World>,
    rng: Mutex<Rng>,
}

impl Foreign {
    pub(crate) fn new(world: Arc<World>, rng: Rng) -> Self {
        Self { world, rng: Mutex::new(rng) }
    }
}

impl Host for Foreign {
    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Cut> {
        let (head, body) = request.into_parts();
        // Looked at before the body: a request that is given up has brought its credential all the same.
        let credential = Credential::of(&head.headers);
        let (findings, counts) = (&self.world.findings, &self.world.counts);
        findings.check(Invariant::NothingToOthers, credential == Credential::None, || {
            format!("{} {} came with {credential}", head.method, head.uri.path())
        });
        body.collect().await.map_err(|_| Cut)?;
        counts.foreign.add();
        counts.requests.add();
        let sent_here = starts(&head) && head.uri.query().is_some();
        if sent_here && self.rng.lock().unwrap_or_else(PoisonError::into_inner).one_in(2) {
            return Ok(redirect(&self.world.origin, &head.uri));
        }
        Ok(Response::new(Full::default()))
    }
}
