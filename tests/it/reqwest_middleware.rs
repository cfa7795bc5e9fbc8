//! `AiutaAuthMiddleware`: the rules, as a client made with reqwest-middleware keeps them on the wire.

mod aiuta;
mod clocks;
mod errors;
mod lossless;
mod redirects;
mod retries;

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

/// Loopback needs no proxy, whatever the environment says.
fn reqwest() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

type Answer = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// A middleware that notes each request on its way, and may answer it.
#[derive(Clone, Default)]
struct Spy {
    requests: Arc<Mutex<Vec<Request>>>,
    answer: Option<Answer>,
}

impl Spy {
    /// Answers everything itself.
    fn answering(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self { answer: Some(Arc::new(answer)), ..Self::default() }
    }

    /// Answers 200 to everything.
    fn at_the_end() -> Self {
        Self::answering(|_| http::Response::new("").into())
    }

    /// The only request so far.
    fn only(&self) -> Request {
        let mut requests = self.requests.lock().unwrap();
        assert_eq!(requests.len(), 1, "requests that came by");
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
        self.requests.lock().unwrap().push(request.try_clone().expect("a stream can't be noted"));
        match &self.answer {
            Some(answer) => Ok(answer(&request)),
            None => next.run(request, extensions).await,
        }
    }
}
