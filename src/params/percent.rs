//! Percent-encoding (RFC 3986 §2.1): decodes paths and queries, and encodes params for a query.

/// Decodes the triplet at the beginning of `text`, such as `%2F`. Returns `None` if `text` does not begin with one.
pub(crate) fn triplet(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let hex = |digit: u8| char::from(digit).to_digit(16);
    hex(*high).zip(hex(*low)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
}

/// Appends `text` to `encoded`. Encodes all but the unreserved characters (§2.3), so that all parsers of a query agree
/// on it.
#[cfg(feature = "remote")]
pub(crate) fn encode_into(encoded: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let digit = |half: u8| char::from(b"0123456789ABCDEF"[usize::from(half)]);
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}
