//! Shows what the token cache does, in four steps. Each step is checked in the cache and at the fake API.

use std::time::Duration;

use tokio::task::JoinSet;
use tower_aiuta_auth::testing::{Credential, FakeAiuta};
use tower_aiuta_auth::{Jwt, JwtSigner, TokenCache, TokenError, TokenRequest, TokenSource};

use crate::api::Order;
use crate::client::Client;
use crate::failure::Failure;
use crate::report;

/// Signs tokens after a delay, to simulate a remote token source.
pub(crate) struct SlowSigner(pub(crate) JwtSigner);

impl TokenSource for SlowSigner {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        tokio::time::sleep(Duration::from_millis(150)).await;
        self.0.token(request).await
    }
}

/// A client with its token cache and its server.
pub(crate) struct Demonstration<'a> {
    pub(crate) client: &'a Client,
    pub(crate) tokens: &'a TokenCache,
    pub(crate) aiuta: &'a FakeAiuta,
}

/// The changes in the token cache and at the server during one step.
#[derive(Debug, PartialEq)]
struct Change {
    /// Fetches.
    fetches: u64,
    /// Requests that used a token from the cache or waited for a fetch that another request had started.
    shared: u64,
    /// Requests that were sent a second time after a 401.
    replays: u64,
    /// The status of each response, in order.
    statuses: Vec<u16>,
}

impl Demonstration<'_> {
    /// Runs all steps. An operation for `order` must have been started before.
    pub(crate) async fn show(&self, order: &Order) -> Result<(), Failure> {
        let hit = Change { fetches: 0, shared: 1, replays: 0, statuses: vec![200] };
        let row = self.start(1, order, "same params again").await?;
        row.expect(&hit, "hit: the token was in the cache, no fetch")?;

        let miss = Change { fetches: 1, shared: 0, replays: 0, statuses: vec![200] };
        let row = self.start(1, &order.in_colour("blue"), "other params").await?;
        row.expect(&miss, "miss: 1 fetch of another token")?;

        self.aiuta.revoke_tokens();
        let replayed = Change { fetches: 1, shared: 1, replays: 1, statuses: vec![401, 200] };
        let row = self.start(1, order, "all tokens revoked").await?;
        row.expect(&replayed, "401, 1 fetch of a new token, replayed: the caller saw only success")?;

        let single_flight = Change { fetches: 1, shared: 99, replays: 0, statuses: vec![200; 100] };
        let row = self.start(100, &order.in_colour("red"), "100 at once").await?;
        row.expect(&single_flight, "other params: 1 fetch, shared by all 100 requests")
    }

    /// Starts several operations for the same order at once, each in its own task. Fails if one of them fails.
    async fn start(&self, times: usize, order: &Order, step: &'static str) -> Result<Row, Failure> {
        let before = self.tokens.stats();
        let requests = self.aiuta.requests().len();
        let mut tasks = JoinSet::new();
        for _ in 0..times {
            let (client, order) = (self.client.clone(), order.clone());
            tasks.spawn(async move { client.start(&order).await });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Failure::new("a task panicked").because(error))??;
        }
        let after = self.tokens.stats();
        let change = Change {
            fetches: after.fetches - before.fetches,
            shared: after.hits - before.hits + after.coalesced - before.coalesced,
            replays: after.replays - before.replays,
            statuses: self.aiuta.requests()[requests..].iter().filter_map(|request| request.status).collect(),
        };
        Ok(Row { step, sent: self.client.take_sent(), change })
    }
}

/// The result of a step, which is printed if it is as expected.
struct Row {
    step: &'static str,
    sent: Vec<Credential>,
    change: Change,
}

impl Row {
    fn expect(&self, expected: &Change, text: &str) -> Result<(), Failure> {
        let all_bearer = self.sent.iter().all(|credential| *credential == Credential::Bearer);
        if self.change != *expected || self.sent.len() != expected.statuses.len() || !all_bearer {
            let (step, change, sent) = (self.step, &self.change, report::grouped(&self.sent));
            return Err(Failure::new(format!("{step}: expected {expected:?}, but got {change:?} (sent: {sent})")));
        }
        report::row(self.step, &self.sent, text)
    }
}
