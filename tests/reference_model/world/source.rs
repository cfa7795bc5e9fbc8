//! The token source: it follows the plans of the requests, and tells the model what it sees.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use serde_json::json;
use tower_aiuta_auth::{AuthParams, Jwt, TokenError, TokenRequest, TokenSource};

use super::super::case::{End, Failure, KEYS, Plan, Wait, params};
use super::super::model::{CallId, Planned};
use super::super::support::{self, secs};
use super::{Gates, Shared, hold, lock, millis};

pub struct Source {
    pub model: Shared,
    pub held: Gates,
    /// What the calls do, by request.
    pub plans: super::Plans,
}

/// Returns the key of these params, without relying on the crate's own comparison.
fn key_of(asked: &AuthParams) -> usize {
    let is_same =
        |params: AuthParams| params.to_strings() == asked.to_strings() && params.partition() == asked.partition();
    (0..KEYS).find(|key| is_same(params(*key))).expect("params that nobody asked for")
}

/// Tells the model of a call that is dropped before its end.
struct Running(Shared, Option<CallId>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(call) = self.1.take() {
            lock(&self.0).dropped(call);
        }
    }
}

impl TokenSource for Source {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let (key, now) = (key_of(request.params()), millis(request.now()));
        let Planned { call, by, plan } = lock(&self.model).called(key, &request, now);
        let Plan { wait, end } = lock(&self.plans)[by][plan].clone();
        let mut running = Running(Arc::clone(&self.model), Some(call));
        match wait {
            Wait::No => {}
            Wait::Turns(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
            Wait::Held => hold(&self.held, &self.model).await,
        }
        running.1 = None;
        let made = {
            let mut model = lock(&self.model);
            let made = model.makes(call, &end, now);
            model.ended(call, &end, made);
            made
        };
        if let Some(made) = made {
            let seconds = |millis: Option<i64>| millis.map(|millis| millis / 1_000);
            let claims = json!({ "number": made.token, "exp": seconds(made.exp), "iat": seconds(made.iat) });
            let jwt = Jwt::parse(support::token(&claims))?;
            let age = made.age.map(|age| secs((age / 1_000).unsigned_abs()));
            return Ok(match age {
                Some(age) if made.out_of_cache => jwt.out_of_cache(age),
                Some(age) => jwt.with_age(age),
                None => jwt,
            });
        }
        let End::Failed { how, pause, for_this_key } = end else {
            // Not by `panic!`, whose hook would print each one.
            std::panic::resume_unwind(Box::new("a source's panic"))
        };
        let error = match how {
            Failure::Permanent => TokenError::new("permanent"),
            Failure::Transient => TokenError::transient("transient"),
            Failure::Denied => TokenError::denied("denied"),
        };
        let error = pause.into_iter().fold(error, |error, pause| error.with_retry_after(secs(u64::from(pause))));
        Err(if for_this_key { error.for_this_key() } else { error })
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
