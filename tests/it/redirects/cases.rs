//! Spellings of `Location`: the rows of the table in docs/SECURITY.md.

use super::net::HOME;

/// A `Location` relative to `https://api.aiuta.com/v1/…`, and the site that it names by the URL standard.
///
/// `PATH` stands for a path that Aiuta has, so that only the origin differs.
pub(crate) const LOCATIONS: [(&str, &str); 33] = [
    // Within the origin.
    ("/PATH", HOME),
    ("//api.aiuta.com/PATH", HOME),
    ("https://api.aiuta.com/PATH", HOME),
    ("https://api.aiuta.com:443/PATH", HOME),
    ("https://api.aiuta.com:/PATH", HOME),
    ("HTTPS://API.Aiuta.COM/PATH", HOME),
    ("https://user:password@api.aiuta.com/PATH", HOME),
    ("https://evil.example@api.aiuta.com/PATH", HOME),
    ("https://api.aiuta.com/PATH?@evil.example/", HOME),
    ("https://api.aiuta.com/PATH#@evil.example/", HOME),
    ("https://api%2Eaiuta%2ecom/PATH", HOME),
    ("https:\\\\api.aiuta.com\\PATH", HOME),
    ("https:/PATH", HOME),
    // Another port, or a trailing dot.
    ("https://api.aiuta.com:8443/PATH", "https://api.aiuta.com:8443"),
    ("https://api.aiuta.com./PATH", "https://api.aiuta.com.:443"),
    // A downgrade.
    ("http://api.aiuta.com/PATH", "http://api.aiuta.com:80"),
    ("http://api.aiuta.com:443/PATH", "http://api.aiuta.com:443"),
    // Another host.
    ("https://storage.example/PATH", "https://storage.example:443"),
    ("//storage.example/PATH", "https://storage.example:443"),
    ("/\\storage.example/PATH", "https://storage.example:443"),
    ("\\\\storage.example\\PATH", "https://storage.example:443"),
    ("https://127.0.0.1/PATH", "https://127.0.0.1:443"),
    ("https://[::1]/PATH", "https://[::1]:443"),
    ("https://[0:0::0:1]:443/PATH", "https://[::1]:443"),
    ("https://2130706433/PATH", "https://127.0.0.1:443"),
    // A host that resembles Aiuta's.
    ("https://api.aiuta.com.evil.example/PATH", "https://api.aiuta.com.evil.example:443"),
    ("https://xapi.aiuta.com/PATH", "https://xapi.aiuta.com:443"),
    ("https://aiuta.com/PATH", "https://aiuta.com:443"),
    ("https://api.aiuta.com@evil.example/PATH", "https://evil.example:443"),
    ("https://api.aiuta.com:443@evil.example/PATH", "https://evil.example:443"),
    ("https://evil.example\\@api.aiuta.com/PATH", "https://evil.example:443"),
    ("https://evil.example#@api.aiuta.com/PATH", "https://evil.example:443"),
    ("https://api.aiuta.com\t.evil.example/PATH", "https://api.aiuta.com.evil.example:443"),
];

/// All redirect statuses. The last two keep the method.
pub(crate) const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// Invalid URLs.
pub(crate) const INVALID: [&str; 4] =
    ["https://", "https://[::1", "https://api.aiuta.com:65979/", "https://api.aiuta.com:443abc/"];
