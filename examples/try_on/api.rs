//! The four calls of the story, as Aiuta's documentation has them. Nothing here knows how they are authenticated.

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
const MAY_HAVE_STARTED: &str = "It may have been started all the same, and be charged: look before you start it again";

/// An image that Aiuta keeps.
#[derive(Clone, Deserialize)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) url: String,
}

/// What a try-on is started with. The token is made for exactly these values.
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

    /// Something else for the same person.
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

/// How far a try-on is.
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

    /// Starts an operation, which costs money: it is sent again after a 401 only, when nothing was started.
    pub(crate) async fn start(&self, order: &Order) -> Result<String, Failure> {
        let body = serde_json::to_vec(order).map_err(|error| Failure::new("the order is no JSON").because(error))?;
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

    /// The image itself lies on another host, which must not see a credential.
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
            let advice = if what == START { MAY_HAVE_STARTED } else { "Is AIUTA_ORIGIN right?" };
            let text = format!("could not {what}: {} answered in another form than the documented one", self.origin());
            Failure::new(text).because(error).advise(advice)
        })
    }

    /// Sends a request; anything but success is a failure that says what to do.
    async fn ask(
        &self,
        what: &'static str,
        request: Result<Request<Full<Bytes>>, http::Error>,
    ) -> Result<Response<Bytes>, Failure> {
        let request = request.map_err(|error| Failure::new(format!("could not {what}")).because(error))?;
        let origin = origin_of(&request);
        match self.send(request).await {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(refused(what, &origin, &response, self.take_sent().last().copied())),
            Err(error) => Err(unanswered(what, &origin, error)),
        }
    }
}

/// There is an answer, and it is no.
fn refused(what: &str, origin: &str, response: &Response<Bytes>, sent: Option<Credential>) -> Failure {
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
        (StatusCode::FORBIDDEN, _) => "Ask Aiuta whether the account may do this",
        (StatusCode::TOO_MANY_REQUESTS, _) => "Come back a little later",
        (StatusCode::NOT_FOUND, _) => "Is AIUTA_ORIGIN right?",
        _ if status.is_redirection() => "Is AIUTA_ORIGIN right? Redirects are not followed",
        _ if status.is_server_error() && what == START => MAY_HAVE_STARTED,
        _ if status.is_server_error() => "The trouble is there, not here: come back later",
        _ => "Check --photo and --sku",
    };
    Failure::new(text).advise(advice)
}

/// There is no answer.
fn unanswered(what: &str, origin: &str, error: BoxError) -> Failure {
    if error.is::<AuthError>() {
        return Failure::new(format!("could not {what}: it was not sent")).because(error);
    }
    let never_arrived =
        error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect());
    let advice = if what == START && !never_arrived { MAY_HAVE_STARTED } else { "Check AIUTA_ORIGIN and the network" };
    Failure::new(format!("could not {what}: no answer from {origin}")).because(error).advise(advice)
}

/// What Aiuta says about it: `{"detail": "…"}`, or a list of problems with one `msg` each.
fn detail(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        detail: Detail,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Detail {
        Text(String),
        Problems(Vec<ParamsError>),
    }
    #[derive(Deserialize)]
    struct ParamsError {
        #[serde(default)]
        loc: Vec<serde_json::Value>,
        msg: String,
    }
    let text = match serde_json::from_slice::<Body>(body).ok()?.detail {
        Detail::Text(text) => text,
        Detail::Problems(problems) => {
            let problem = |ParamsError { loc, msg }| match loc.last().and_then(|field| field.as_str()) {
                Some(field) if field != "body" => format!("{field}: {msg}"),
                _ => msg,
            };
            problems.into_iter().map(problem).collect::<Vec<_>>().join("; ")
        }
    };
    Some(text.chars().take(200).collect())
}

/// Without path and query: the addresses of images are secrets, too.
fn origin_of(request: &Request<Full<Bytes>>) -> String {
    let uri = request.uri();
    format!("{}://{}", uri.scheme_str().unwrap_or("http"), uri.authority().map_or("", |authority| authority.as_str()))
}
