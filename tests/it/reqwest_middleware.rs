//! `AiutaAuthMiddleware`: the rules in a client built with reqwest-middleware.

mod aiuta;
mod clocks;
mod errors;
mod lossless;
mod redirects;
mod retries;
mod timeouts;

use std::sync::{Arc, Mutex};

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower_aiuta_auth::AiutaAuthLayer;

const START: &str = "/digital-try-on/v1/sku_images_operations";
const UPLOADS: &str = "/digital-try-on/v1/uploaded_images";
const MODELS: &str = "/digital-try-on/v1/predefined_try_on_models";

fn client(layer: &AiutaAuthLayer) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest()).with(layer.clone().into_middleware()).build()
}

/// Returns a client that ignores the proxy settings of the environment.
fn reqwest() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

type Answer = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// A middleware that records each request, and may respond to it.
#[derive(Clone, Default)]
struct Spy {
    requests: Arc<Mutex<Vec<Request>>>,
    answer: Option<Answer>,
}

impl Spy {
    /// Responds to every request itself.
    fn responding(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self { answer: Some(Arc::new(answer)), ..Self::default() }
    }

    /// Responds to every request with 200.
    fn responding_ok() -> Self {
        Self::responding(|_| http::Response::new("").into())
    }

    /// Returns the only request so far.
    fn only(&self) -> Request {
        let mut requests = self.requests.lock().unwrap();
        assert_eq!(requests.len(), 1, "recorded requests");
        requests.pop().unwrap()
    }

    fn tokens(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|request| request.headers()["authorization"].to_str().unwrap().to_owned()).collect()
    }
}

#[async_trait::async_trait]
impl Middleware for Spy {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        self.requests.lock().unwrap().push(request.try_clone().expect("a request with a stream cannot be recorded"));
        match &self.answer {
            Some(answer) => Ok(answer(&request)),
            None => next.run(request, extensions).await,
        }
    }
}
