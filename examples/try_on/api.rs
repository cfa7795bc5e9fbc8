//! The four calls of a try-on, as in Aiuta's documentation. The code is the same for both schemes.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tower_aiuta_auth::{AuthError, BoxError};

use tower_aiuta_auth::testing::Credential;

use crate::client::Client;
use crate::failure::Failure;
use crate::photo::Photo;

const BASE_PATH: &str = "/digital-try-on/v1";

const START: &str = "start the try-on";
const MAY_HAVE_STARTED: &str = "It may have been started, and charged, anyway: check that before you start it again";

/// An image stored by Aiuta.
#[derive(Clone, Deserialize)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) url: String,
}

/// The body that starts a try-on. The layer reads the params of the token from it.
#[derive(Clone, Serialize)]
pub(crate) struct Order {
    uploaded_image_id: String,
    #[serde(flatten)]
    what: What,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    SkuId(String),
    SkuIds(Vec<String>),
}

impl Order {
    pub(crate) fn new(image: &Image, skus: &[String]) -> Self {
        let what = match skus {
            [sku] => What::SkuId(sku.clone()),
            skus => What::SkuIds(skus.to_vec()),
        };
        Self { uploaded_image_id: image.id.clone(), what }
    }

    /// Returns an order of another product for the same person.
    pub(crate) fn in_colour(&self, colour: &str) -> Self {
        let sku = match &self.what {
            What::SkuId(sku) => sku.clone(),
            What::SkuIds(skus) => skus.join("-and-"),
        };
        Self { what: What::SkuId(format!("{sku}-in-{colour}")), ..self.clone() }
    }
}

#[derive(Deserialize)]
struct Started {
    operation_id: String,
}

/// The state of a try-on.
#[derive(Deserialize)]
pub(crate) struct Operation {
    pub(crate) status: String,
    pub(crate) error: Option<String>,
    pub(crate) abort_reason: Option<String>,
    #[serde(default)]
    pub(crate) generated_images: Vec<Option<Image>>,
}

impl Client {
    pub(crate) async fn upload(&self, photo: &Photo) -> Result<Image, Failure> {
        let (content_type, form) = photo.to_form();
        let request = Request::post(self.url("uploaded_images")).header(CONTENT_TYPE, content_type).body(form.into());
        self.ask_json("upload the photo", request).await
    }

    /// Starts an operation, which costs money. It is replayed only after a 401, which means that nothing was started.
    pub(crate) async fn start(&self, order: &Order) -> Result<String, Failure> {
        let body = serde_json::to_vec(order)
            .map_err(|error| Failure::new("the order can't be written as JSON").because(error))?;
        let request = Request::post(self.url("sku_images_operations"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body));
        let started: Started = self.ask_json(START, request).await?;
        Ok(started.operation_id)
    }

    pub(crate) async fn operation(&self, id: &str) -> Result<Operation, Failure> {
        let request = Request::get(self.url(&format!("sku_images_operations/{id}"))).body(Full::default());
        self.ask_json("follow the try-on", request).await
    }

    /// Downloads an image from its host. The layer sends no credential there.
    pub(crate) async fn download(&self, url: &str) -> Result<Bytes, Failure> {
        let request = Request::get(url).body(Full::default());
        Ok(self.ask("download the result", request).await?.into_body())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{BASE_PATH}/{path}", self.origin())
    }

    async fn ask_json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        request: Result<Request<Full<Bytes>>, http::Error>,
    ) -> Result<T, Failure> {
        serde_json::from_slice(self.ask(what, request).await?.body()).map_err(|error| {
            let advice = if what == START { MAY_HAVE_STARTED } else { "Check AIUTA_ORIGIN" };
            let text = format!("could not {what}: the response of {} has an unexpected format", self.origin());
            Failure::new(text).because(error).advise(advice)
        })
    }

    /// Sends a request and turns any result except success into a failure with advice.
    async fn ask(
        &self,
        what: &'static str,
        request: Result<Request<Full<Bytes>>, http::Error>,
    ) -> Result<Response<Bytes>, Failure> {
        let request = request.map_err(|error| Failure::new(format!("could not {what}")).because(error))?;
        let origin = origin_of(&request);
        match self.send(request).await {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(error_response(what, &origin, &response, self.take_sent().last().copied())),
            Err(error) => Err(no_response(what, &origin, error)),
        }
    }
}

/// Describes a response with an error status.
fn error_response(what: &str, origin: &str, response: &Response<Bytes>, sent: Option<Credential>) -> Failure {
    let status = response.status();
    let sent = sent.unwrap_or(Credential::None);
    let mut text = format!("could not {what}: {origin} answered {status} (credential: {sent})");
    if let Some(detail) = detail(response.body()) {
        text += &format!(": {detail}");
    }
    let advice = match (status, sent) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Credential::None) => {
            "The link to the image may have expired"
        }
        (StatusCode::UNAUTHORIZED, Credential::ApiKey) => "Check AIUTA_API_KEY",
        (StatusCode::UNAUTHORIZED, Credential::UserId) => "Check AIUTA_SUBSCRIPTION_ID",
        (StatusCode::UNAUTHORIZED, _) => {
            "Check AIUTA_JWT_ISSUER and AIUTA_JWT_SECRET, or AIUTA_TOKEN_URL, and this machine's clock"
        }
        (StatusCode::FORBIDDEN, _) => "Ask Aiuta whether your account has this right",
        (StatusCode::TOO_MANY_REQUESTS, _) => "Try again later",
        (StatusCode::NOT_FOUND, _) => "Check AIUTA_ORIGIN",
        _ if status.is_redirection() => "Check AIUTA_ORIGIN: redirects are not followed",
        _ if status.is_server_error() && what == START => MAY_HAVE_STARTED,
        _ if status.is_server_error() => "The server has a problem: try again later",
        _ => "Check --photo and --sku",
    };
    Failure::new(text).advise(advice)
}

/// Describes an error instead of a response.
fn no_response(what: &str, origin: &str, error: BoxError) -> Failure {
    if error.is::<AuthError>() {
        return Failure::new(format!("could not {what}: the request was not sent")).because(error);
    }
    let never_arrived =
        error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect());
    let advice = if what == START && !never_arrived { MAY_HAVE_STARTED } else { "Check AIUTA_ORIGIN and the network" };
    Failure::new(format!("could not {what}: no response from {origin}")).because(error).advise(advice)
}

/// Returns the details of an error response: the text in `{"detail": "…"}`, or the `msg` of each validation error.
fn detail(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        detail: Detail,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Detail {
        Text(String),
        Errors(Vec<ValidationError>),
    }
    #[derive(Deserialize)]
    struct ValidationError {
        #[serde(default)]
        loc: Vec<serde_json::Value>,
        msg: String,
    }
    let text = match serde_json::from_slice::<Body>(body).ok()?.detail {
        Detail::Text(text) => text,
        Detail::Errors(errors) => {
            let text = |ValidationError { loc, msg }| match loc.last().and_then(|field| field.as_str()) {
                Some(field) if field != "body" => format!("{field}: {msg}"),
                _ => msg,
            };
            errors.into_iter().map(text).collect::<Vec<_>>().join("; ")
        }
    };
    Some(text.chars().take(200).collect())
}

/// Returns the URL without path and query, because the URLs of images are secrets.
fn origin_of(request: &Request<Full<Bytes>>) -> String {
    let uri = request.uri();
    format!("{}://{}", uri.scheme_str().unwrap_or("http"), uri.authority().map_or("", |authority| authority.as_str()))
}
