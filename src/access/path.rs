//! Paths, as those who read them after this layer may (rule A3): percent-decoded, without empty and dot segments.

use crate::percent::triplet;

/// A path in whichever way it is read. Those who may read it after this layer (clients, gateways, Aiuta) do not agree on what
/// `/x%2Fy/..` and `/x//..` lead to.
pub(super) enum Readings<'a> {
    /// It is normal already, however it is read.
    One(&'a str),
    Several([String; 4]),
}

impl<'a> Readings<'a> {
    pub(super) fn of(path: &'a str) -> Self {
        if is_plain(path) {
            Self::One(path)
        } else {
            Self::Several(Reading::ALL.map(|reading| reading.normalize(path)))
        }
    }

    /// Whether it `holds` in all of them.
    pub(super) fn all(&self, holds: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::One(path) => holds(path),
            Self::Several(paths) => paths.iter().all(|path| holds(path)),
        }
    }
}

/// Whether a path has nothing that could be read in more than one way: no escape, no backslash, no empty or dot segment.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let Some((last, rest)) = bytes.split_last() else { return true };
    // Without an early end: most paths are plain, and so the compiler can look at many bytes at once.
    let unusual = rest.iter().zip(&bytes[1..]).fold(false, |found, (&byte, &next)| {
        found | (byte == b'%') | (byte == b'\\') | ((byte == b'/') & ((next == b'/') | (next == b'.')))
    });
    !unusual && !matches!(last, b'%' | b'\\' | b'/')
}

/// How a path is read.
pub(super) struct Reading {
    /// `%2F` separates segments, as a slash does; or else it is a part of one.
    decoded_first: bool,
    /// Empty segments are gone before `..` takes away the one before it; or else it may take an empty one (RFC 3986 §5.2.4).
    merged_first: bool,
}

impl Reading {
    pub(super) const USUAL: Self = Self { decoded_first: true, merged_first: true };

    const ALL: [Self; 4] = [
        Self::USUAL,
        Self { decoded_first: true, merged_first: false },
        Self { decoded_first: false, merged_first: true },
        Self { decoded_first: false, merged_first: false },
    ];

    /// A path percent-decoded, without empty and dot segments, and without a trailing slash: `/v1/%73ku//./x/` is `/v1/sku/x`.
    ///
    /// A backslash counts as a slash, as in the URL standard that browsers and reqwest follow. For comparison only; what is no UTF-8
    /// after decoding is in no table.
    pub(super) fn normalize(&self, path: &str) -> String {
        let separators = ['/', '\\'];
        let path = path.strip_prefix(separators).unwrap_or(path);
        let decoded: Vec<String> = if self.decoded_first {
            percent_decode(path).split(separators).map(str::to_owned).collect()
        } else {
            path.split(separators).map(percent_decode).collect()
        };
        let mut segments: Vec<&str> = Vec::new();
        for segment in &decoded {
            match segment.as_str() {
                "" if self.merged_first => {}
                "." => {}
                ".." => drop(segments.pop()),
                other => segments.push(other),
            }
        }
        let segments = segments.iter().filter(|segment| !segment.is_empty());
        segments.fold(String::with_capacity(path.len() + 1), |path, segment| path + "/" + segment)
    }
}

/// RFC 3986 §2.1, once. A `%` that begins no triplet stays as it is.
fn percent_decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let encoded = triplet(rest);
        decoded.push(encoded.unwrap_or(*byte));
        rest = if encoded.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
