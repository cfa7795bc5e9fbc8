//! Decides whether a request goes to a trusted origin (rule A2). This is the layer's first decision: a request to any
//! other origin is sent without credentials.
//!
//! An origin is a scheme, host and port (RFC 6454 §4, RFC 9110 §4.3.1). Hosts are compared as text, ignoring case. An
//! authority that could be read in more than one way is not trusted.

use std::net::IpAddr;

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};

use crate::error::ConfigError;

/// Whether a request goes to a trusted origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Trusted,
    /// The URI is trusted, but a `Host` header names another host.
    HostMismatch,
    /// The request goes elsewhere, perhaps by mistake.
    Untrusted(Option<Mistake>),
}

/// Why a request that looks as if it should carry a credential does not carry one (rule A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mistake {
    /// The host is trusted with another scheme.
    Scheme,
    /// The host is trusted with another port.
    Port,
    /// The URI is relative, and [`Origins::origin_form`] is false.
    RelativeUri,
    /// The `Host` header names another host than the URI.
    Host,
}

impl Mistake {
    /// The name in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scheme => "scheme",
            Self::Port => "port",
            Self::RelativeUri => "relative_uri",
            Self::Host => "host",
        }
    }
}

/// The origins whose requests are authenticated.
#[derive(Debug)]
pub(crate) struct Origins {
    trusted: Vec<Origin>,
    /// Whether requests in origin-form (RFC 9112 §3.2.1) are trusted. Their URI does not contain an origin.
    origin_form: bool,
}

impl Origins {
    pub(crate) fn new(origins: &[String], origin_form: bool, plaintext: bool) -> Result<Self, ConfigError> {
        if origins.is_empty() {
            return Err(ConfigError::new("origins", "set at least one origin, such as https://api.aiuta.com"));
        }
        let trusted = origins.iter().map(|origin| Origin::parse(origin, plaintext)).collect::<Result<_, _>>()?;
        Ok(Self { trusted, origin_form })
    }

    /// Returns the trusted origins as `scheme://host[:port]`.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.trusted.iter().map(|origin| origin.url.as_str())
    }

    /// Returns whether `request` goes to a trusted origin.
    pub(crate) fn trust<B>(&self, request: &Request<B>) -> Trust {
        let uri = request.uri();
        match (uri.scheme(), uri.authority()) {
            _ if request.method() == Method::CONNECT => Trust::Untrusted(None),
            (Some(scheme), Some(authority)) => match self.find(scheme, authority) {
                Err(mistake) => Trust::Untrusted(mistake),
                Ok(()) if self.trust_hosts(request.headers()) => Trust::Trusted,
                Ok(()) => Trust::HostMismatch,
            },
            (None, None) if is_origin_form(uri.path()) => match self.origin_form {
                true if self.trust_hosts(request.headers()) => Trust::Trusted,
                true => Trust::Untrusted(None),
                false => Trust::Untrusted(Some(Mistake::RelativeUri)),
            },
            _ => Trust::Untrusted(None),
        }
    }

    /// Returns whether every `Host` header names a trusted origin. This is the case if there is no such header.
    fn trust_hosts(&self, headers: &HeaderMap) -> bool {
        headers.get_all(HOST).iter().all(|host| self.trusted.iter().any(|origin| origin.is_named_by(host)))
    }

    /// Finds the trusted origin that a URI has.
    ///
    /// # Errors
    ///
    /// If there is none, returns why the URI is not trusted although its host is, or `None` if its host is not.
    fn find(&self, scheme: &Scheme, authority: &Authority) -> Result<(), Option<Mistake>> {
        // The usual spelling, compared first, so that nothing is parsed.
        let is_canonical = |origin: &Origin| origin.scheme == *scheme && authority.as_str() == origin.canonical;
        if self.trusted.iter().any(is_canonical) {
            return Ok(());
        }
        let host = authority.host();
        let mut mistake = None;
        for origin in self.trusted.iter().filter(|origin| origin.host.eq_ignore_ascii_case(host)) {
            if origin.scheme != *scheme {
                mistake = mistake.or(Some(Mistake::Scheme));
            } else if origin.is_at(authority) {
                return Ok(());
            } else {
                mistake = Some(Mistake::Port);
            }
        }
        Err(mistake)
    }
}

/// Returns whether a path is in origin-form, such as `/v1/…`.
///
/// `//host/…` is not: joined with a base URL it leads to another host (RFC 3986 §4.2). Neither is `/\host/…`, because
/// the URL standard treats a backslash as a slash.
fn is_origin_form(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| !path.starts_with(['/', '\\']))
}

fn has_user_info(authority: &Authority) -> bool {
    authority.as_str().contains('@')
}

#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
    /// The host, and the port unless it is the default one.
    canonical: String,
    /// The scheme and `canonical`, for the caller.
    url: String,
}

impl Origin {
    fn parse(origin: &str, plaintext: bool) -> Result<Self, ConfigError> {
        // The value is not shown, because a URL may contain a password or a token.
        let error = |problem: &str| Err(ConfigError::new("origins", problem.to_owned()));
        let Ok(uri) = origin.parse::<Uri>() else {
            return error("an origin is not a URL; use the form https://host or https://host:port");
        };
        let (scheme, authority, port) = match endpoint(&uri) {
            Ok(endpoint) => endpoint,
            Err(problem) => {
                return error(&format!("an origin {problem}; use the form https://host or https://host:port"));
            }
        };
        if uri.path() != "/" || uri.query().is_some() || origin.contains('#') {
            return error(
                "an origin has a path, query or fragment; use the form https://host or https://host:port, \
                 and set a path prefix with `base_path`",
            );
        }
        if authority.host().is_empty() {
            return error("an origin has no host; use the form https://host or https://host:port");
        }
        if authority.host().contains('*') {
            return error("an origin has a wildcard; list every host instead");
        }
        if *scheme == Scheme::HTTP && !plaintext && !is_loopback(authority.host()) {
            return error(
                "an origin uses http to another machine, so others on the network could read the credentials; \
                 use https, or `danger_allow_plaintext_origins` if a proxy on this machine adds TLS",
            );
        }
        let host = authority.host().to_ascii_lowercase();
        let canonical = if default_port(scheme) == Some(port) { host.clone() } else { format!("{host}:{port}") };
        let url = format!("{scheme}://{canonical}");
        Ok(Self { scheme: scheme.clone(), host, port, canonical, url })
    }

    /// Returns whether `authority`, with this origin's scheme, is this origin.
    fn is_at(&self, authority: &Authority) -> bool {
        self.host.eq_ignore_ascii_case(authority.host())
            && default_port(&self.scheme).and_then(|default| port(authority, default)) == Some(self.port)
    }

    /// Returns whether a `Host` header names this origin.
    fn is_named_by(&self, host: &HeaderValue) -> bool {
        host.as_bytes() == self.canonical.as_bytes()
            || Authority::try_from(host.as_bytes()).is_ok_and(|host| !has_user_info(&host) && self.is_at(&host))
    }
}

/// Returns the scheme, authority and effective port of a URL that secrets may be sent to. The error says what is wrong
/// with the URL, as a predicate without a subject: "contains user info".
pub(crate) fn endpoint(uri: &Uri) -> Result<(&Scheme, &Authority, u16), &'static str> {
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err("is not an absolute URL");
    };
    let default_port = default_port(scheme).ok_or("has a scheme that is neither https nor http")?;
    if has_user_info(authority) {
        return Err("contains user info");
    }
    let port = port(authority, default_port).ok_or("has a port that is not a number up to 65535")?;
    Ok((scheme, authority, port))
}

fn default_port(scheme: &Scheme) -> Option<u16> {
    if *scheme == Scheme::HTTPS {
        Some(443)
    } else if *scheme == Scheme::HTTP {
        Some(80)
    } else {
        None
    }
}

/// Returns the effective port, or `None` if the port is invalid. Another parser might accept an invalid port.
fn port(authority: &Authority, default: u16) -> Option<u16> {
    let after_user_info = authority.as_str().rsplit('@').next()?;
    match after_user_info.strip_prefix(authority.host())? {
        "" | ":" => Some(default),
        // `parse` alone would also accept a sign.
        port => port.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok(),
    }
}

/// Returns whether `host` is a loopback address or `localhost`.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}
