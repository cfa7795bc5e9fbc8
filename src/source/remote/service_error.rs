//! Converts an error of the service of a [`RemoteTokenSource`](super::RemoteTokenSource) to a [`TokenError`] that shows
//! no URL.

use std::error::Error;
#[cfg(feature = "reqwest-middleware")]
use std::fmt;

use http::Uri;
use http::uri::Scheme;

use crate::error::{BoxError, TokenError};

/// Converts the error of a request to `url`. The connection may work later, so it is transient.
pub(super) fn convert(error: BoxError, url: &Uri) -> TokenError {
    if url.scheme() == Some(&Scheme::HTTPS) && lacks_tls(&*error) {
        return TokenError::new(
            "the backend's URL has the scheme https, but the HTTP client is built without TLS; enable the feature \
             `rustls` or `native-tls` of reqwest, or use a connector with TLS",
        );
    }
    #[cfg(feature = "reqwest-middleware")]
    let error = without_urls(error);
    TokenError::transient(error)
}

/// Returns whether the error is the one of hyper-util's `HttpConnector` for an `https` URL. reqwest uses that
/// connector, and has no other error for this case.
fn lacks_tls(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.to_string().ends_with("scheme is not http"))
}

/// Returns the error and its causes.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Removes the URL from errors of reqwest. The query of a URL may contain params or a secret (rule A4).
#[cfg(feature = "reqwest-middleware")]
fn without_urls(error: BoxError) -> BoxError {
    let error = match error.downcast::<reqwest::Error>() {
        Ok(error) => return Box::new(error.without_url()),
        Err(error) => error,
    };
    let mut urls = Vec::new();
    collect_urls(&*error, &mut urls);
    if urls.is_empty() {
        return error;
    }
    // An error inside another one can't be changed. So the texts are copied.
    let texts = causes(&*error).map(|cause| {
        urls.iter()
            .fold(cause.to_string(), |text, url| text.replace(&format!(" for url ({url})"), "").replace(url, "…"))
    });
    let texts: Vec<String> = texts.collect();
    let copy = texts.into_iter().rev().fold(None, |source, text| Some(Box::new(ErrorText { text, source })));
    copy.map_or(error, |copy| copy as BoxError)
}

/// Collects the URLs of the errors of reqwest among the error and its causes.
#[cfg(feature = "reqwest-middleware")]
fn collect_urls(error: &(dyn Error + 'static), urls: &mut Vec<String>) {
    let mut add = |error: &reqwest::Error| urls.extend(error.url().map(ToString::to_string));
    let mut inner = Vec::new();
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref() {
            add(error);
        }
        // Its `source` is that of the error inside, which is skipped.
        match cause.downcast_ref() {
            Some(reqwest_middleware::Error::Reqwest(error)) => add(error),
            Some(reqwest_middleware::Error::Middleware(error)) => inner.push(error),
            None => {}
        }
    }
    inner.into_iter().for_each(|error| collect_urls(&**error, urls));
}

/// The text of an error, and that of its cause.
#[cfg(feature = "reqwest-middleware")]
struct ErrorText {
    text: String,
    source: Option<Box<Self>>,
}

#[cfg(feature = "reqwest-middleware")]
impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(feature = "reqwest-middleware")]
impl fmt::Debug for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(std::iter::successors(Some(self), |error| error.source.as_deref()).map(|e| &e.text))
            .finish()
    }
}

#[cfg(feature = "reqwest-middleware")]
impl Error for ErrorText {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
