//! Handles a request from arrival to response: record it, hold or delay it, apply a fault, authenticate it, answer it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{DATE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, request};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use super::FakeAiuta;
use super::auth::authenticate;
use super::dates::http_date;
use super::faults::Fault;
use super::record::{CREDENTIALS, Listener, RecordedRequest};
use super::reply::{self, Reply};
use super::routes::{NotFound, Route, route};
use super::{upload, validate};
use crate::BoxError;

impl<B> Service<Request<B>> for FakeAiuta
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    /// The error of the request's body, or the error for a [`Fault::Disconnect`].
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let aiuta = self.clone();
        Box::pin(async move {
            let listener = aiuta.listener_of(request.uri(), request.headers());
            aiuta.answer(listener, request).await
        })
    }
}

/// A request that has arrived and was recorded.
struct Arrived {
    /// How often the records had been cleared when the request arrived, and the index of its record.
    record: (u64, usize),
    fault: Option<Fault>,
    delay: Option<Duration>,
}

impl FakeAiuta {
    /// Handles one request.
    pub(super) async fn answer<B>(self, listener: Listener, request: Request<B>) -> Result<Reply, BoxError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(Into::into)?.to_bytes();
        let arrived = self.arrive(listener, &head, &body);
        let (mut reply, refusal) = match listener {
            Listener::Storage => (self.storage(&head), None),
            Listener::Api => {
                // Only fails if the sender is dropped, and `aiuta` owns it.
                let _ = self.shared.holds.subscribe().wait_for(|holds| *holds == 0).await;
                if let Some(delay) = arrived.delay {
                    tokio::time::sleep(delay).await;
                }
                match arrived.fault {
                    Some(fault) => (fault_reply(fault).ok_or(Disconnected)?, None),
                    None => self.api(&head, body).await,
                }
            }
        };
        if let Ok(date) = HeaderValue::try_from(http_date(self.now())) {
            reply.headers_mut().insert(DATE, date);
        }
        self.record_outcome(&arrived, &reply, refusal);
        Ok(reply)
    }

    /// Returns the host of a request that arrived without a network, where one service represents both hosts.
    fn listener_of(&self, uri: &Uri, headers: &HeaderMap) -> Listener {
        let named = headers.get(HOST).and_then(|host| host.to_str().ok());
        let Some(host) = uri.authority().map(|authority| authority.as_str()).or(named) else { return Listener::Api };
        let is_at = |origin: &str| origin.strip_prefix("http://").is_some_and(|it| it.eq_ignore_ascii_case(host));
        match is_at(Self::STORAGE_ORIGIN) || is_at(self.state().store.storage_origin()) {
            true => Listener::Storage,
            false => Listener::Api,
        }
    }

    /// Records a request and takes its fault and delay from the queues.
    fn arrive(&self, listener: Listener, head: &request::Parts, body: &Bytes) -> Arrived {
        let state = &mut *self.state();
        let record = (state.cleared, state.requests.len());
        state.requests.push(RecordedRequest {
            listener,
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            headers: head.headers.clone(),
            body: body.clone(),
            status: None,
            refusal: None,
        });
        if listener == Listener::Storage {
            return Arrived { record, fault: None, delay: None };
        }
        // Under the lock, so that `clear_requests` never runs between the record and the count.
        self.shared.arrived.send_modify(|arrived| *arrived += 1);
        Arrived { record, fault: state.faults.next(), delay: state.delays.next() }
    }

    /// Adds the outcome to the record, unless the records were cleared.
    fn record_outcome(&self, arrived: &Arrived, reply: &Reply, refusal: Option<String>) {
        let state = &mut *self.state();
        let (cleared, index) = arrived.record;
        if let Some(record) = state.requests.get_mut(index).filter(|_| cleared == state.cleared) {
            record.status = Some(reply.status().as_u16());
            record.refusal = refusal;
        }
    }

    /// Returns the API's response and, for a 401, the reason.
    async fn api(&self, head: &request::Parts, body: Bytes) -> (Reply, Option<String>) {
        let route = match route(&head.method, head.uri.path()) {
            Ok(route) => route,
            Err(NotFound::Path) => return (reply::not_found(), None),
            Err(NotFound::Method(allow)) => return (reply::method_not_allowed(allow), None),
        };
        let now = self.now();
        let admitted =
            authenticate(&self.config, &route, &head.headers, &body, now).and_then(|token| self.admit(token));
        match admitted {
            Ok(()) => (self.operation(route, &head.headers, body, now).await, None),
            Err(reason) => (reply::unauthorized(), Some(reason)),
        }
    }

    /// Rejects a revoked token. Remembers any other token, so that `revoke_tokens` can revoke it.
    fn admit(&self, token: Option<String>) -> Result<(), String> {
        let Some(token) = token else { return Ok(()) };
        let mut state = self.state();
        if state.revoked.contains(&token) {
            return Err("the token was revoked".to_owned());
        }
        state.accepted.insert(token);
        Ok(())
    }

    async fn operation(&self, route: Route, headers: &HeaderMap, body: Bytes, now: SystemTime) -> Reply {
        match route {
            Route::Upload => match upload::image_data(headers, body).await {
                Ok(data) => self.state().store.upload(data, now),
                Err(problem) => reply::invalid(&[problem]),
            },
            Route::UploadedImage(id) => self.state().store.uploaded_image(&id),
            Route::DeleteUploadedImage(id) => self.state().store.delete_uploaded(&id),
            Route::DeleteGeneratedImage(id) => self.state().store.delete_generated(&id),
            Route::Start(kind) => match validate::order(kind, headers, &body) {
                Ok(order) => self.state().store.start(kind, &order),
                Err(problems) => reply::invalid(&problems),
            },
            Route::Operation(kind, id) => self.state().store.poll(kind, &id, now),
            Route::Models => self.state().store.models(headers),
            Route::SubscriptionDetails | Route::SizeAndFit | Route::Analytics => reply::ok(&serde_json::json!({})),
        }
    }

    /// Returns the storage host's response. A credential that arrives here was leaked.
    fn storage(&self, head: &request::Parts) -> Reply {
        let leaked: Vec<_> = CREDENTIALS.into_iter().filter(|name| head.headers.contains_key(name)).collect();
        let mut state = self.state();
        if !leaked.is_empty() {
            let names: Vec<_> = leaked.iter().map(|name| name.as_str()).collect();
            let (method, path, names) = (&head.method, head.uri.path(), names.join(", "));
            state.violations.push(format!("{method} {path} at the storage host came with {names}"));
            return reply::empty(StatusCode::BAD_REQUEST);
        }
        match head.method {
            Method::GET => state.store.download(head.uri.path()),
            _ => reply::method_not_allowed("GET"),
        }
    }

    fn now(&self) -> SystemTime {
        self.config.clock.now()
    }
}

/// Returns `None` if the request gets no response.
fn fault_reply(fault: Fault) -> Option<Reply> {
    match fault {
        Fault::Unauthorized => Some(reply::unauthorized()),
        Fault::TooManyRequests { retry_after } => Some(reply::too_many_requests(retry_after)),
        Fault::Unavailable => Some(reply::empty(StatusCode::SERVICE_UNAVAILABLE)),
        Fault::Disconnect => None,
    }
}

/// The error for [`Fault::Disconnect`].
#[derive(Debug)]
struct Disconnected;

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was closed without a response, as requested by `Fault::Disconnect`")
    }
}

impl std::error::Error for Disconnected {}
