//! Normalizes a request's path in every way in which a later reader may do it (rule A3): percent-decoded, without empty
//! segments and dot segments.
//!
//! Clients, gateways and Aiuta read the path after this layer, and they do not agree on the meaning of `/x%2Fy/..`,
//! `/x\y/..` and `/x//..`.

use std::borrow::Cow;

use crate::params::percent::triplet;

/// Maximum length of a path that is normalized. No path of Aiuta is as long, and a client must not be able to keep a
/// CPU busy with long paths.
const MAX_LENGTH: usize = 2048;

/// A path in every form that a later reader may give it.
pub(crate) enum NormalizedPaths<'a> {
    /// The path is already in normal form, so all readers agree on it.
    Unchanged(&'a str),
    /// The path, and its form under each [`Normalization`].
    Candidates { path: &'a str, candidates: [String; 8] },
    /// The path is not in normal form, and longer than [`MAX_LENGTH`].
    TooLong(&'a str),
}

impl<'a> NormalizedPaths<'a> {
    pub(crate) fn new(path: &'a str) -> Self {
        if is_normal(path) {
            Self::Unchanged(path)
        } else if path.len() > MAX_LENGTH {
            Self::TooLong(path)
        } else {
            let candidates = Normalization::ALL.map(|normalization| normalization.normalize(path));
            Self::Candidates { path, candidates }
        }
    }

    /// Returns whether `predicate` holds for every form of the path. It does not hold for a path that is too long.
    pub(super) fn all(&self, predicate: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Unchanged(path) => predicate(path),
            Self::Candidates { candidates, .. } => candidates.iter().all(|path| predicate(path)),
            Self::TooLong(_) => false,
        }
    }

    /// Returns the last two segments, decoded. Returns `None` if readers may disagree on them, or if they were not
    /// UTF-8.
    pub(super) fn last_two_segments(&self) -> Option<(&str, &str)> {
        match self {
            Self::Unchanged(path) => last_two_segments(path),
            Self::Candidates { path, candidates: [first, others @ ..] } => {
                last_two_segments(first).filter(|segments| {
                    others.iter().all(|other| last_two_segments(other) == Some(*segments))
                        && !first.contains(char::REPLACEMENT_CHARACTER)
                        && !is_ambiguous(path)
                })
            }
            Self::TooLong(_) => None,
        }
    }

    /// Returns whether the last segment is as described, in any form of the path. `ends` gets a whole path, `segment`
    /// gets one segment.
    ///
    /// Several readers may normalize the path one after another, each by its own rules, and the candidates do not cover
    /// every combination. So if the path is [ambiguous](is_ambiguous) or too long, any segment counts.
    pub(super) fn may_end_in(&self, ends: impl Fn(&str) -> bool, segment: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Unchanged(path) => ends(path),
            Self::Candidates { path, candidates } => {
                candidates.iter().any(|path| ends(path)) || (is_ambiguous(path) && any_segment(path, segment))
            }
            Self::TooLong(path) => any_segment(path, segment),
        }
    }
}

fn last_two_segments(path: &str) -> Option<(&str, &str)> {
    let (rest, last) = path.rsplit_once('/')?;
    let (_, before) = rest.rsplit_once('/')?;
    Some((before, last))
}

/// Returns whether readers may disagree on which segment a `..` removes: the path has a `..`, and an encoded slash or
/// dot, a backslash, or an empty segment.
fn is_ambiguous(path: &str) -> bool {
    let count = |path: &str| path.matches(['/', '\\', '.']).count();
    let has_encoded = count(&percent_decode(path)) != count(path);
    (has_encoded || path.contains('\\') || path.contains("//")) && any_segment(path, |segment| segment == "..")
}

fn any_segment(path: &str, predicate: impl Fn(&str) -> bool) -> bool {
    percent_decode(path).split(['/', '\\']).any(predicate)
}

/// Returns whether no [`Normalization`] changes the path: it has no escape, backslash, empty segment or segment that
/// begins with a dot.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    let Some((last, rest)) = bytes.split_last() else { return true };
    // Most paths are normal, so the loop has no early exit. That lets the compiler vectorize it.
    let unusual = rest.iter().zip(&bytes[1..]).fold(false, |found, (&byte, &next)| {
        found | (byte == b'%') | (byte == b'\\') | ((byte == b'/') & ((next == b'/') | (next == b'.')))
    });
    !unusual && !matches!(last, b'%' | b'\\' | b'/')
}

/// One way to normalize a path.
pub(super) struct Normalization {
    /// Whether the path is percent-decoded before it is split, so that `%2F` separates segments.
    decode_first: bool,
    /// Whether empty segments are removed before `..` is resolved. Otherwise `..` may remove an empty segment (RFC 3986
    /// §5.2.4).
    merge_slashes: bool,
    /// Whether a backslash separates segments, as in the URL standard, which browsers and reqwest follow.
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

    /// Percent-decodes the path. Removes empty segments, dot segments and a trailing slash. For example,
    /// `/v1/%73ku//./x/` becomes `/v1/sku/x`.
    ///
    /// Use the result only for comparison, because decoded bytes that are not UTF-8 are replaced.
    pub(super) fn normalize(&self, path: &str) -> String {
        let separators: &[char] = if self.backslash_is_slash { &['/', '\\'] } else { &['/'] };
        let path = path.strip_prefix(separators).unwrap_or(path);
        let whole = if self.decode_first { percent_decode(path) } else { Cow::Borrowed(path) };
        let decoded: Vec<Cow<'_, str>> = if self.decode_first {
            whole.split(separators).map(Cow::Borrowed).collect()
        } else {
            whole.split(separators).map(percent_decode).collect()
        };
        let mut segments: Vec<&str> = Vec::new();
        for segment in &decoded {
            match segment.as_ref() {
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

/// Percent-decodes `text` once (RFC 3986 §2.1). A `%` that does not begin a triplet is kept.
fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let encoded = triplet(rest);
        decoded.push(encoded.unwrap_or(*byte));
        rest = if encoded.is_some() { &rest[3..] } else { tail };
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}
