//! Reads the params in the query of a `GET`, as strictly as [`json`](crate::params::json) reads those in a body.

use crate::params::AuthParams;
use crate::params::json::ParamsError;
use crate::params::percent::triplet;

/// Reads a query in the format of HTML forms and the SDKs: pairs of `name=value`, joined by `&`, percent-encoded, with
/// `+` for a space (URL standard, §5.1). All values are strings. Unlike the URL standard, this returns an error for
/// invalid encoding, because two parsers could decode it differently.
///
/// Fields other than `fields` are an error if `deny_unknown_fields` is set. Otherwise they are ignored.
pub(super) fn read(query: &str, fields: &[String], deny_unknown_fields: bool) -> Result<AuthParams, ParamsError> {
    let mut params = AuthParams::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name).ok_or(ParamsError::UnsupportedType)?;
        if !fields.contains(&name) {
            if deny_unknown_fields {
                return Err(ParamsError::UnknownField);
            }
            continue;
        }
        if params.get(&name).is_some() {
            return Err(ParamsError::Duplicate);
        }
        params = params.with(name, decode(value).ok_or(ParamsError::UnsupportedType)?);
    }
    Ok(params)
}

/// Decodes a name or a value. Returns `None` if a `%` is not followed by two hex digits, or if the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let (value, after) = match byte {
            b'+' => (b' ', tail),
            b'%' => (triplet(rest)?, &tail[2..]),
            _ => (*byte, tail),
        };
        decoded.push(value);
        rest = after;
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamValue;

    #[test]
    fn query_is_read_in_form_encoding() {
        let fields = ["a", "b c", "ü"].map(str::to_owned);
        let of = |pairs: &[(&str, &str)]| {
            Ok(pairs.iter().fold(AuthParams::new(), |all, (key, value)| all.with(*key, *value)))
        };
        for (query, expected) in [
            ("", of(&[])),
            ("&&", of(&[])),
            ("a=1", of(&[("a", "1")])),
            ("a", of(&[("a", "")])),
            ("a==", of(&[("a", "=")])),
            ("a=x+y%2Bz%20&b+c=%F0%9F%91%97", of(&[("a", "x y+z "), ("b c", "👗")])),
            ("%61=1&b%20c=2&%c3%BC=3", of(&[("a", "1"), ("b c", "2"), ("ü", "3")])),
            ("a=x,y&", of(&[("a", "x,y")])),
            ("a=1&a=1", Err(ParamsError::Duplicate)),
            ("a=1&%61=2", Err(ParamsError::Duplicate)),
            ("A=1", Err(ParamsError::UnknownField)),
            ("=1", Err(ParamsError::UnknownField)),
            ("a[]=1", Err(ParamsError::UnknownField)),
            ("exp=9999999999", Err(ParamsError::UnknownField)),
            ("a=%", Err(ParamsError::UnsupportedType)),
            ("a=%2", Err(ParamsError::UnsupportedType)),
            ("a=%zz", Err(ParamsError::UnsupportedType)),
            ("a=%+1", Err(ParamsError::UnsupportedType)),
            ("a=%ff", Err(ParamsError::UnsupportedType)),
            ("%ff=a", Err(ParamsError::UnsupportedType)),
        ] {
            assert_eq!(read(query, &fields, true), expected, "{query}");
        }
        let params = read("a=1", &fields, true).unwrap();
        assert_eq!(params.get("a"), Some(&ParamValue::from("1")));
    }
}
