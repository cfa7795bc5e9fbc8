//! Reads params from a JSON body. The layer reads the body of a try-on, the issuer that of a token request.
//!
//! Values are parsed from the raw text of each field, not through `serde_json::Value`. Otherwise, the signed values
//! would depend on features of `serde_json` that another crate may enable (`preserve_order`, `arbitrary_precision`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{AuthParams, ParamValue};
use crate::error::AuthError;

/// Reads `fields` from the top level of `body`. Skips other fields and nulls.
///
/// # Errors
///
/// `MissingParams` if `body` has none of `fields`. `InvalidBody` if `body` is not a JSON object, or if a field occurs
/// twice (in any escaping) or has a value that can't be signed.
pub(crate) fn read(body: &[u8], fields: &[String]) -> Result<AuthParams, AuthError> {
    if body.is_empty() {
        return Err(AuthError::missing_fields(fields));
    }
    let params = parse(body, fields, false).map_err(|error| {
        AuthError::invalid_body(match error {
            ParamsError::Duplicate => "a signed field occurs twice in the body",
            ParamsError::UnsupportedType => {
                "a signed field is not a string, boolean, 64-bit integer or list of strings"
            }
            ParamsError::NotJson | ParamsError::UnknownField => {
                "the body of a request that starts a try-on is not a JSON object; \
                 if it has another format, insert `AuthParams` into the request's extensions"
            }
        })
    })?;
    if params.is_empty() {
        return Err(AuthError::missing_fields(fields));
    }
    Ok(params)
}

/// Returned when params can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParamsError {
    NotJson,
    /// A field occurs twice.
    Duplicate,
    /// A field has a value that is not one of [`ParamValue`]'s types.
    UnsupportedType,
    /// The body has a field that is not one of the expected fields.
    UnknownField,
}

/// Reads `fields` as [`read`] does, and accepts a body without any of them. Other fields are an error if
/// `deny_unknown_fields` is set.
pub(crate) fn parse(body: &[u8], fields: &[String], deny_unknown_fields: bool) -> Result<AuthParams, ParamsError> {
    // serde_json does not check the encoding of strings that it skips.
    let text = std::str::from_utf8(body).map_err(|_| ParamsError::NotJson)?;
    let mut error = ParamsError::NotJson;
    let mut json = serde_json::Deserializer::from_str(text);
    ParamsSeed { fields, deny_unknown_fields, error: &mut error }
        .deserialize(&mut json)
        .and_then(|params| json.end().map(|()| params))
        .map_err(|_| error)
}

/// Deserializes the object.
struct ParamsSeed<'a> {
    fields: &'a [String],
    deny_unknown_fields: bool,
    /// Set on failure. The deserializer's own error may quote the body, so it is dropped.
    error: &'a mut ParamsError,
}

impl ParamsSeed<'_> {
    fn fail<T, E: serde::de::Error>(self, error: ParamsError) -> Result<T, E> {
        *self.error = error;
        Err(E::custom("dropped by `parse`"))
    }
}

impl<'de> DeserializeSeed<'de> for ParamsSeed<'_> {
    type Value = AuthParams;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<AuthParams, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ParamsSeed<'_> {
    type Value = AuthParams;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AuthParams, A::Error> {
        let mut params = AuthParams::new();
        // The fields that were null. Empty for most bodies, so that nothing is allocated.
        let mut nulls: Vec<Cow<'_, str>> = Vec::new();
        while let Some(Text(key)) = map.next_key()? {
            if !self.fields.iter().any(|field| *field == key) {
                if self.deny_unknown_fields {
                    return self.fail(ParamsError::UnknownField);
                }
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if params.get(&key).is_some() || nulls.contains(&key) {
                return self.fail(ParamsError::Duplicate);
            }
            match parse_value(map.next_value::<&RawValue>()?.get()) {
                Ok(Some(value)) => params = params.with(key, value),
                Ok(None) => nulls.push(key),
                Err(error) => return self.fail(error),
            }
        }
        Ok(params)
    }
}

/// Parses the value of one field. Returns `None` for null. `json` is well-formed JSON without surrounding whitespace.
fn parse_value(json: &str) -> Result<Option<ParamValue>, ParamsError> {
    let unsupported = |_| ParamsError::UnsupportedType;
    let value = match json.as_bytes() {
        b"null" => return Ok(None),
        b"true" => ParamValue::Bool(true),
        b"false" => ParamValue::Bool(false),
        [b'"', ..] => ParamValue::String(serde_json::from_str(json).map_err(unsupported)?),
        [b'[', ..] => ParamValue::List(serde_json::from_str(json).map_err(unsupported)?),
        // `i64` has no negative zero: -0 would be signed as 0.
        b"-0" => return Err(ParamsError::UnsupportedType),
        [b'-' | b'0'..=b'9', ..] => ParamValue::Integer(json.parse().map_err(|_| ParamsError::UnsupportedType)?),
        _ => return Err(ParamsError::UnsupportedType),
    };
    Ok(Some(value))
}

/// A JSON string, borrowed from the input if it has no escapes.
#[derive(serde::Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);
