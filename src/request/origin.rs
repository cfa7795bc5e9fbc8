//! Trusted origins: where credentials may go (rule A2).
//!
//! An origin is scheme, host and port (RFC 6454 §4, RFC 9110 §4.3.1). Hosts are compared as text, the case ignored; what can't be read
//! for certain is not trusted.

use std::net::IpAddr;

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Uri};

use crate::error::ConfigError;

/// The origins that get credentials.
#[derive(Debug)]
pub(crate) struct Origins {
    trusted: Vec<Origin>,
    /// Whether requests in origin-form (RFC 9112 §3.2.1), which name no origin, are trusted.
    origin_form: bool,
}

impl Origins {
    pub(crate) fn new(origins: &[String], origin_form: bool, plaintext: bool) -> Result<Self, ConfigError> {
        if origins.is_empty() {
            return Err(ConfigError::new("origins", "at least one is needed, such as https://api.aiuta.com"));
        }
        let trusted = origins.iter().map(|origin| Origin::parse(origin, plaintext)).collect::<Result<_, _>>()?;
        Ok(Self { trusted, origin_form })
    }

    /// Whether `request` goes to one of them.
    pub(crate) fn trust<B>(&self, request: &Request<B>) -> bool {
        if request.method() == Method::CONNECT {
            return false;
        }
        let uri = request.uri();
        match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) => self.trusted.iter().any(|origin| {
                origin.scheme == *scheme && origin.is_at(authority) && origin.agrees_with(request.headers())
            }),
            (None, None) if self.origin_form && is_origin_form(uri.path()) => {
                self.trusted.iter().any(|origin| origin.agrees_with(request.headers()))
            }
            _ => false,
        }
    }
}

/// `/v1/…`, but not `//host/…`: whoever joins that with a base URL goes to another host (RFC 3986 §4.2), and the URL standard takes a
/// backslash for a slash.
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
    /// Host and port as they are usually written: what is the same to the letter need not be taken apart.
    usual: String,
}

impl Origin {
    fn parse(origin: &str, plaintext: bool) -> Result<Self, ConfigError> {
        // The value is not shown: an URL may have a password or a token in it.
        let error = |problem: &str| Err(ConfigError::new("origins", problem.to_owned()));
        let Ok(uri) = origin.parse::<Uri>() else {
            return error("an origin is not a URL; it takes the form https://host or https://host:port");
        };
        let (scheme, authority, port) = match endpoint(&uri) {
            Ok(endpoint) => endpoint,
            Err(problem) => {
                return error(&format!("an origin {problem}; it takes the form https://host or https://host:port"));
            }
        };
        if uri.path() != "/" || uri.query().is_some() || origin.contains('#') {
            return error(
                "an origin has a path; it takes the form https://host or https://host:port (see `base_path` for prefixes)",
            );
        }
        if authority.host().is_empty() {
            return error("an origin names no host; it takes the form https://host or https://host:port");
        }
        if authority.host().contains('*') {
            return error("an origin has a wildcard; every host has to be named");
        }
        if *scheme == Scheme::HTTP && !plaintext && !is_loopback(authority.host()) {
            return error(
                "an origin is http to another machine, where everyone on the way could read the credentials; use https \
                 (or the builder's `danger_allow_plaintext_origins`, if something on this machine adds TLS)",
            );
        }
        let host = authority.host().to_ascii_lowercase();
        let usual = if default_port(scheme) == Some(port) { host.clone() } else { format!("{host}:{port}") };
        Ok(Self { scheme: scheme.clone(), host, port, usual })
    }

    /// Whether `authority`, under this origin's scheme, is this origin.
    fn is_at(&self, authority: &Authority) -> bool {
        authority.as_str() == self.usual
            || (self.host.eq_ignore_ascii_case(authority.host())
                && default_port(&self.scheme).and_then(|default| port(authority, default)) == Some(self.port))
    }

    /// Whether all `Host` headers, if there is one, name this origin.
    fn agrees_with(&self, headers: &HeaderMap) -> bool {
        headers.get_all(HOST).iter().all(|host| {
            host.as_bytes() == self.usual.as_bytes()
                || Authority::try_from(host.as_bytes()).is_ok_and(|host| !has_user_info(&host) && self.is_at(&host))
        })
    }
}

/// Scheme, host and effective port of a URL that a secret may travel to, whatever its path; or what is wrong with it.
pub(crate) fn endpoint(uri: &Uri) -> Result<(&Scheme, &Authority, u16), &'static str> {
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err("is not a whole URL");
    };
    let default_port = default_port(scheme).ok_or("has a scheme that is neither https nor http")?;
    if has_user_info(authority) {
        return Err("has user info");
    }
    let port = port(authority, default_port).ok_or("has a port that is no number up to 65535")?;
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

/// The effective port; `None` if there is one that can't be read, which another reader might read somehow.
fn port(authority: &Authority, default: u16) -> Option<u16> {
    let after_user_info = authority.as_str().rsplit('@').next()?;
    match after_user_info.strip_prefix(authority.host())? {
        "" | ":" => Some(default),
        // Digits only: `parse` alone would take a sign as well.
        port => port.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok(),
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}
