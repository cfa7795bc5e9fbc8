//! [`same_origin_redirects`]: reqwest follows redirects where no middleware sees them, so it has to be told how far.

use reqwest::redirect::Policy;

/// As many as reqwest's own policy follows.
const MAX_REDIRECTS: usize = 10;

/// Redirects for a [`reqwest::Client`] beneath this crate: at most 10, each within one origin.
///
/// reqwest follows redirects beneath any layer and any middleware. On the way to another host it drops `authorization` but carries `x-api-key` and
/// `x-user-id` along. With this policy a redirect to another scheme, host or port is not followed, nor is the eleventh: the caller gets the
/// 3xx as it came, with its `location`, and can send a request there that is authenticated afresh, or not at all.
///
/// Within the origin every hop carries the credential of the first request.
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
        // All before the last one were of its origin, or they had not been followed.
        let same_origin = attempt.previous().last().is_some_and(|last| last.origin() == attempt.url().origin());
        // The first of `previous` is no redirect.
        let few = attempt.previous().len() <= MAX_REDIRECTS;
        if same_origin && few { attempt.follow() } else { attempt.stop() }
    })
}
