//! Paths, as those who read them after this layer may (rule A3): percent-decoded, without empty and dot segments.

use crate::params::percent::triplet;

/// A path in whichever way it is read. Those who read it after this layer (clients, gateways, Aiuta) do not agree on what `/x%2Fy/..`,
/// `/x\y/..` and `/x//..` lead to.
pub(crate) enum NormalizedPaths<'a> {
    /// It is normal already, however it is read.
    Plain(&'a str),
    Ambiguous {
        path: &'a str,
        normalized: [String; 8],
    },
}

impl<'a> NormalizedPaths<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        if is_plain(path) {
            return Self::Plain(path);
        }
        Self::Ambiguous { path, normalized: Normalization::ALL.map(|reading| reading.normalize(path)) }
    }

    /// Whether it `holds` in all of them.
    pub(super) fn all(&self, holds: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Plain(path) => holds(path),
            Self::Ambiguous { normalized, .. } => normalized.iter().all(|path| holds(path)),
        }
    }

    /// Whether the last segment is one of `names`, in any way that the path may be read.
    ///
    /// Those who read it may do so one after the other, each by its own rules, and no list of normalized has all that come of it. So where dots
    /// meet something that makes a difference to them (an encoded slash or dot, a backslash, an empty segment), any segment will do.
    pub(super) fn may_end_in(&self, names: &[&str]) -> bool {
        let ends =
            |path: &str| names.iter().any(|name| path.strip_suffix(name).is_some_and(|before| before.ends_with('/')));
        match self {
            Self::Plain(path) => ends(path),
            Self::Ambiguous { path, normalized } => {
                normalized.iter().any(|path| ends(path))
                    || (is_ambiguous(path) && any_segment(path, |segment| names.contains(&segment)))
            }
        }
    }
}

fn is_ambiguous(path: &str) -> bool {
    let marks = |path: &str| path.matches(['/', '\\', '.']).count();
    let has_encoded = marks(&percent_decode(path)) != marks(path);
    (has_encoded || path.contains('\\') || path.contains("//")) && any_segment(path, |segment| segment == "..")
}

fn any_segment(path: &str, is: impl Fn(&str) -> bool) -> bool {
    percent_decode(path).split(['/', '\\']).any(is)
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
pub(super) struct Normalization {
    /// `%2F` separates segments, as a slash does; or else it is a part of one.
    decode_first: bool,
    /// Empty segments are gone before `..` takes away the one before it; or else it may take an empty one (RFC 3986 §5.2.4).
    merge_slashes: bool,
    /// A backslash separates segments too, as in the URL standard that browsers and reqwest follow; or else it is a part of one.
    backslash_is_slash: bool,
}

impl Normalization {
    pub(super) const DEFAULT: Self = Self { decode_first: true, merge_slashes: true, backslash_is_slash: true };

    const ALL: [Self; 8] = [
        Self::DEFAULT,
        Self { merge_slashes: false, ..Self::DEFAULT },
        Self { decode_first: false, ..Self::DEFAULT },
        Self { decode_first: false, merge_slashes: false, ..Self::DEFAULT },
        Self { backslash_is_slash: false, ..Self::DEFAULT },
        Self { merge_slashes: false, backslash_is_slash: false, ..Self::DEFAULT },
        Self { decode_first: false, backslash_is_slash: false, ..Self::DEFAULT },
        Self { decode_first: false, merge_slashes: false, backslash_is_slash: false },
    ];

    /// A path percent-decoded, without empty and dot segments, and without a trailing slash: `/v1/%73ku//./x/` is `/v1/sku/x`.
    ///
    /// For comparison only; what is no UTF-8 after decoding is in no table.
    pub(super) fn normalize(&self, path: &str) -> String {
        let separators: &[char] = if self.backslash_is_slash { &['/', '\\'] } else { &['/'] };
        let path = path.strip_prefix(separators).unwrap_or(path);
        let decoded: Vec<String> = if self.decode_first {
            percent_decode(path).split(separators).map(str::to_owned).collect()
        } else {
            path.split(separators).map(percent_decode).collect()
        };
        let mut segments: Vec<&str> = Vec::new();
        for segment in &decoded {
            match segment.as_str() {
                "" if self.merge_slashes => {}
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
