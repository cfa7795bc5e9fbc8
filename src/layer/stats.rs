//! The counters of a layer. [`AuthStats`] contains their values.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use http::Request;

use crate::metrics::{Counter, StripedCounters};
use crate::request::access::Access;
use crate::request::origin::Mistake;
use crate::trace;

/// Statistics of a layer, from [`AiutaAuthLayer::stats`](crate::AiutaAuthLayer::stats).
///
/// All fields are counters since the layer was built. Clones of the layer, and all services made by them, are counted
/// together. The counters are read one after the other, so counters that belong together can differ slightly while
/// requests are running.
///
/// A credential is *withheld* if the request looks as if it should have one: its host is trusted but not its scheme or
/// port, its URI is relative, or its `Host` header contradicts its URI. In the last case the request fails with
/// [`HostMismatch`](crate::AuthErrorKind::HostMismatch). In the other cases it is sent without a credential, and Aiuta
/// answers it with 401. The first such request for each reason and host causes an event at level WARN.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthStats {
    /// Number of requests that needed the API key.
    pub api_key: u64,
    /// Number of requests that needed a JWT, including those that failed because there was none.
    pub jwt: u64,
    /// Number of requests that needed the subscription id.
    pub subscription_id: u64,
    /// Number of requests to a trusted origin that needed no credential.
    pub anonymous: u64,
    /// Number of requests to other origins, including those whose credential was withheld.
    pub untrusted: u64,
    /// Number of requests whose credential was withheld. This is the sum of the next four fields.
    pub withheld: u64,
    /// Number of requests to a trusted host with another scheme, such as `http`.
    pub withheld_for_scheme: u64,
    /// Number of requests to a trusted host with another port.
    pub withheld_for_port: u64,
    /// Number of requests with a relative URI, which
    /// [`trust_origin_form`](crate::AiutaAuthBuilder::trust_origin_form) would trust.
    pub withheld_for_relative_uri: u64,
    /// Number of requests to a trusted origin whose `Host` header named another host.
    pub withheld_for_host: u64,
    /// Number of times that Aiuta rejected a JWT.
    pub rejected: u64,
    /// Number of requests that were sent a second time, with another JWT.
    pub replayed: u64,
}

/// Maximum number of reports of withheld credentials. There is a limit because clients may choose the host.
const MAX_REPORTS: usize = 64;

/// What the layer does with a request.
#[derive(Clone, Copy)]
pub(crate) enum Treatment {
    ApiKey,
    Jwt,
    SubscriptionId,
    Anonymous,
    Untrusted,
}

#[derive(Debug, Default)]
pub(crate) struct AuthCounters {
    by_treatment: StripedCounters<5>,
    scheme: Counter,
    port: Counter,
    relative_uri: Counter,
    host: Counter,
    /// The reasons and hosts that were reported.
    reported: Mutex<HashSet<(Mistake, String)>>,
}

impl AuthCounters {
    pub(crate) fn count(&self, treatment: Treatment) {
        self.by_treatment.add(treatment as usize);
    }

    /// Counts a request to an origin that is not trusted. If its credential was withheld, reports this once for each
    /// reason and host.
    pub(crate) fn count_untrusted<B>(&self, request: &Request<B>, mistake: Option<Mistake>) {
        self.count(Treatment::Untrusted);
        let host = request.uri().host();
        // Such a request needs no credential, so none is withheld.
        let is_anonymous = || request.extensions().get::<Access>() == Some(&Access::Anonymous);
        match mistake {
            Some(mistake) if !is_anonymous() => {
                self.count_withheld(mistake);
                self.report_withheld(mistake, host);
            }
            _ => trace::untrusted(host),
        }
    }

    /// Counts a request whose credential was withheld.
    pub(crate) fn count_withheld(&self, mistake: Mistake) {
        match mistake {
            Mistake::Scheme => &self.scheme,
            Mistake::Port => &self.port,
            Mistake::RelativeUri => &self.relative_uri,
            Mistake::Host => &self.host,
        }
        .add();
    }

    fn report_withheld(&self, mistake: Mistake, host: Option<&str>) {
        let report = (mistake, host.unwrap_or_default().to_ascii_lowercase());
        let is_new = {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            reported.len() < MAX_REPORTS && reported.insert(report)
        };
        // The lock is released, because a tracing subscriber is foreign code.
        if is_new {
            trace::credential_withheld(mistake.name(), host);
        } else {
            trace::untrusted(host);
        }
    }

    /// Returns the statistics without `rejected` and `replayed`, which the token cache counts.
    pub(crate) fn stats(&self) -> AuthStats {
        let treated = |treatment: Treatment| self.by_treatment.get(treatment as usize);
        let (scheme, port) = (self.scheme.get(), self.port.get());
        let (relative_uri, host) = (self.relative_uri.get(), self.host.get());
        AuthStats {
            api_key: treated(Treatment::ApiKey),
            jwt: treated(Treatment::Jwt),
            subscription_id: treated(Treatment::SubscriptionId),
            anonymous: treated(Treatment::Anonymous),
            untrusted: treated(Treatment::Untrusted),
            withheld: scheme + port + relative_uri + host,
            withheld_for_scheme: scheme,
            withheld_for_port: port,
            withheld_for_relative_uri: relative_uri,
            withheld_for_host: host,
            rejected: 0,
            replayed: 0,
        }
    }
}
