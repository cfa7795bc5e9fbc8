//! [`same_origin_redirects`]: limits the redirects that reqwest follows, which no layer or middleware sees.

use reqwest::redirect::Policy;

/// The same limit as in reqwest's default policy.
const MAX_REDIRECTS: usize = 10;

/// Returns a redirect policy that keeps credentials within one origin. Use it for every [`reqwest::Client`] inside this
/// crate's layer or middleware.
///
/// reqwest follows redirects internally, where no layer or middleware sees them. When a redirect leads to another host,
/// reqwest removes `authorization` but sends `x-api-key` and `x-user-id`.
///
/// This policy follows at most 10 redirects, each only if scheme, host and port stay the same. Each of these requests
/// carries the credential of the first one. Any other redirect is not followed: the caller receives the 3xx response
/// with its `location`. If the caller sends a new request there, it is authenticated like any other request.
///
/// ```
/// use tower_aiuta_auth::same_origin_redirects;
///
/// # fn main() -> Result<(), reqwest::Error> {
/// let client = reqwest::Client::builder().redirect(same_origin_redirects()).build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn same_origin_redirects() -> Policy {
    Policy::custom(|attempt| {
        // Comparing with the last URL is enough: all URLs before it have the same origin.
        let same_origin = attempt.previous().last().is_some_and(|last| last.origin() == attempt.url().origin());
        // The first entry of `previous` is the original request.
        let within_limit = attempt.previous().len() <= MAX_REDIRECTS;
        if same_origin && within_limit { attempt.follow() } else { attempt.stop() }
    })
}
