//! The inner service: it answers as the request says, and tells the model what it sees.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use tower::Service;
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{BoxError, Clock};

use super::super::case::{Answer, Date};
use super::super::model::RequestId;
use super::super::support;
use super::{Gates, Shared, hold, lock, millis};

/// Which request it is, and how it is answered: in its extensions.
#[derive(Clone)]
pub struct Marked {
    pub id: RequestId,
    pub answers: [Answer; 2],
}

/// What all clones of the inner service share.
pub struct Wire {
    pub model: Shared,
    pub held: Gates,
    pub clock: ManualClock,
    /// Aiuta's clock, which is right.
    pub aiuta: ManualClock,
    /// The request that is being polled.
    pub polled: Mutex<Option<RequestId>>,
    /// Those that wait until the service is not busy.
    pub waiting: Mutex<Vec<Waker>>,
    /// The number of services that are polled ready and not called yet.
    pub ready: AtomicUsize,
}

pub struct Inner {
    wire: Arc<Wire>,
    is_ready: bool,
}

impl Inner {
    pub fn new(wire: Arc<Wire>) -> Self {
        Self { wire, is_ready: false }
    }

    fn take_ready(&mut self) -> bool {
        let was_ready = std::mem::take(&mut self.is_ready);
        self.wire.ready.fetch_sub(usize::from(was_ready), Ordering::SeqCst);
        was_ready
    }
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.wire))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.take_ready();
    }
}

impl Service<Request<Full<Bytes>>> for Inner {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<()>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The test itself never has to wait.
        if let Some(id) = *lock(&self.wire.polled) {
            let mut model = lock(&self.wire.model);
            model.polled_ready(id);
            if model.busy {
                lock(&self.wire.waiting).push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        if !std::mem::replace(&mut self.is_ready, true) {
            self.wire.ready.fetch_add(1, Ordering::SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let Marked { id, answers } = request.extensions().get::<Marked>().unwrap().clone();
        let token = request.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let was_ready = self.take_ready();
        let times = {
            let mut model = lock(&self.wire.model);
            if !was_ready {
                model.wrong.push(format!("f1: request {id} went to a service that was not polled ready"));
            }
            model.sent(id, usize::try_from(support::token_number(token)).unwrap())
        };
        let answer = answers[times.min(1)];
        let wire = Arc::clone(&self.wire);
        Box::pin(async move {
            if answer.held {
                hold(&wire.held, &wire.model).await;
            }
            let date = wire.date(answer.date);
            lock(&wire.model).answered(id, answer.status, date.map(millis));
            let response = Response::builder().status(u16::from(answer.status));
            let response = match date {
                Some(date) => response.header("date", httpdate::fmt_http_date(date)),
                None => response,
            };
            Ok(response.body(()).unwrap())
        })
    }
}

impl Wire {
    fn date(&self, date: Date) -> Option<SystemTime> {
        match date {
            Date::None => None,
            Date::Aiuta => Some(self.aiuta.now()),
            Date::Off(seconds) => {
                let by = Duration::from_secs(seconds.unsigned_abs());
                Some(if seconds < 0 { self.clock.now() - by } else { self.clock.now() + by })
            }
        }
    }
}
