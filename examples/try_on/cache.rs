//! What the cache of tokens is for: four demonstrations, each checked at both ends.

use std::time::Duration;

use tokio::task::JoinSet;
use tower_aiuta_auth::testing::{Credential, FakeAiuta};
use tower_aiuta_auth::{Jwt, JwtSigner, TokenCache, TokenError, TokenRequest, TokenSource};

use crate::api::Order;
use crate::client::Client;
use crate::failure::Failure;
use crate::report;

/// Signs after a moment, as a source does that has to ask another server.
pub(crate) struct DistantSigner(pub(crate) JwtSigner);

impl TokenSource for DistantSigner {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        tokio::time::sleep(Duration::from_millis(150)).await;
        self.0.token(request).await
    }
}

/// Both ends of a client: the cache of tokens here, Aiuta there.
pub(crate) struct Demonstration<'a> {
    pub(crate) client: &'a Client,
    pub(crate) tokens: &'a TokenCache,
    pub(crate) aiuta: &'a FakeAiuta,
}

/// What changed at both ends.
#[derive(Debug, PartialEq)]
struct Change {
    /// Calls of the source.
    fetches: u64,
    /// Requests that shared a token: it was in the cache, or the source was being called for it already.
    shared: u64,
    /// Requests that were sent a second time.
    replays: u64,
    /// What Aiuta answered, in order.
    answers: Vec<u16>,
}

impl Demonstration<'_> {
    /// All of them, after an operation was started for `order`.
    pub(crate) async fn show(&self, order: &Order) -> Result<(), Failure> {
        let hit = Change { fetches: 0, shared: 1, replays: 0, answers: vec![200] };
        let row = self.start(1, order, "same params again").await?;
        row.must_be(&hit, "hit: the token was in the cache, no call of the source")?;

        let miss = Change { fetches: 1, shared: 0, replays: 0, answers: vec![200] };
        let row = self.start(1, &order.in_colour("blue"), "other params").await?;
        row.must_be(&miss, "miss: a token of their own, 1 call of the source")?;

        self.aiuta.revoke_tokens();
        let replayed = Change { fetches: 1, shared: 1, replays: 1, answers: vec![401, 200] };
        let row = self.start(1, order, "all tokens revoked").await?;
        row.must_be(&replayed, "401, 1 new token, sent again: the caller saw only success")?;

        let one_for_all = Change { fetches: 1, shared: 99, replays: 0, answers: vec![200; 100] };
        let row = self.start(100, &order.in_colour("red"), "100 at once").await?;
        row.must_be(&one_for_all, "new params: 1 call of the source, shared by the other 99")
    }

    /// Starts operations for the same order, all at once, each from a task of its own. They all have to succeed.
    async fn start(&self, times: usize, order: &Order, step: &'static str) -> Result<Row, Failure> {
        let before = self.tokens.stats();
        let requests = self.aiuta.requests().len();
        let mut tasks = JoinSet::new();
        for _ in 0..times {
            let (client, order) = (self.client.clone(), order.clone());
            tasks.spawn(async move { client.start(&order).await });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Failure::new("a task ended early").because(error))??;
        }
        let after = self.tokens.stats();
        let change = Change {
            fetches: after.fetches - before.fetches,
            shared: after.hits - before.hits + after.coalesced - before.coalesced,
            replays: after.replays - before.replays,
            answers: self.aiuta.requests()[requests..].iter().filter_map(|request| request.status).collect(),
        };
        Ok(Row { step, sent: self.client.take_sent(), change })
    }
}

/// A row that is printed if it is true.
struct Row {
    step: &'static str,
    sent: Vec<Credential>,
    change: Change,
}

impl Row {
    fn must_be(&self, expected: &Change, text: &str) -> Result<(), Failure> {
        let all_bearer = self.sent.iter().all(|credential| *credential == Credential::Bearer);
        if self.change != *expected || self.sent.len() != expected.answers.len() || !all_bearer {
            let (step, change, sent) = (self.step, &self.change, report::grouped(&self.sent));
            return Err(Failure::new(format!("{step}: {change:?} (sent: {sent}), and it should be {expected:?}")));
        }
        report::row(self.step, &self.sent, text)
    }
}
