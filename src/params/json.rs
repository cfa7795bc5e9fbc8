//! Reading params from the JSON body of a try-on request.
//!
//! The values are taken from the raw text of each field, never through `serde_json::Value`: what is signed must not depend on the
//! features (`preserve_order`, `arbitrary_precision`) that `serde_json` has elsewhere in the build.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{AuthParams, ParamValue};
use crate::error::AuthError;

/// The `fields` that `body` has at its top level, nulls left out. Other fields may be anything.
///
/// # Errors
///
/// `MissingParams` when there is none, `InvalidBody` when the body is no JSON object, or a field occurs twice (however its name
/// is escaped) or has a value that can't be signed.
pub(crate) fn read(body: &[u8], fields: &[String]) -> Result<AuthParams, AuthError> {
    if body.is_empty() {
        return Err(AuthError::missing_params());
    }
    let params = top_level(body, fields, false).map_err(|problem| {
        AuthError::invalid_body(match problem {
            ParamsError::Duplicate => "a signed field occurs twice in the body",
            ParamsError::UnsupportedType => "a signed field is no string, boolean, 64-bit integer or list of strings",
            ParamsError::NotJson | ParamsError::UnknownField => {
                "the body of a request that starts a try-on is not a JSON object; \
                 put `AuthParams` into the request's extensions if it has another form"
            }
        })
    })?;
    if params.is_empty() {
        return Err(AuthError::missing_params());
    }
    Ok(params)
}

/// As [`read`], but `body` may have no other fields than `fields`; and it may have none of them.
#[cfg(feature = "issuer")]
pub(crate) fn read_all(body: &[u8], fields: &[String]) -> Result<AuthParams, ParamsError> {
    top_level(body, fields, true)
}

/// Why params can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParamsError {
    NotJson,
    Duplicate,
    UnsupportedType,
    /// A field is not one of those that are asked for, and no other may be there.
    UnknownField,
}

fn top_level(body: &[u8], fields: &[String], strict: bool) -> Result<AuthParams, ParamsError> {
    // serde_json does not check the encoding of strings it skips.
    let text = std::str::from_utf8(body).map_err(|_| ParamsError::NotJson)?;
    let mut problem = ParamsError::NotJson;
    let mut json = serde_json::Deserializer::from_str(text);
    TopLevel { fields, strict, problem: &mut problem }
        .deserialize(&mut json)
        .and_then(|params| json.end().map(|()| params))
        .map_err(|_| problem)
}

/// Reads the object; `problem` says more than the parser's error, which may quote the body and is dropped.
struct TopLevel<'a> {
    fields: &'a [String],
    /// Whether other fields are refused, instead of skipped.
    strict: bool,
    problem: &'a mut ParamsError,
}

impl TopLevel<'_> {
    fn fail<T, E: serde::de::Error>(self, problem: ParamsError) -> Result<T, E> {
        *self.problem = problem;
        Err(E::custom("see `problem`"))
    }
}

impl<'de> DeserializeSeed<'de> for TopLevel<'_> {
    type Value = AuthParams;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<AuthParams, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = AuthParams;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AuthParams, A::Error> {
        let mut params = AuthParams::new();
        let mut seen = vec![false; self.fields.len()];
        while let Some(Text(key)) = map.next_key()? {
            let Some(field) = self.fields.iter().position(|field| *field == key) else {
                if self.strict {
                    return self.fail(ParamsError::UnknownField);
                }
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if std::mem::replace(&mut seen[field], true) {
                return self.fail(ParamsError::Duplicate);
            }
            match param(map.next_value::<&RawValue>()?.get()) {
                Ok(Some(value)) => params = params.with(key, value),
                Ok(None) => {}
                Err(UnsupportedType) => return self.fail(ParamsError::UnsupportedType),
            }
        }
        Ok(params)
    }
}

/// A value that is not one of [`ParamValue`]'s.
struct UnsupportedType;

/// What a field's JSON text means; `None` for null. The text is well-formed JSON without surrounding blanks.
fn param(json: &str) -> Result<Option<ParamValue>, UnsupportedType> {
    let value = match json.as_bytes() {
        b"null" => return Ok(None),
        b"true" => ParamValue::Bool(true),
        b"false" => ParamValue::Bool(false),
        [b'"', ..] => ParamValue::String(serde_json::from_str(json).map_err(|_| UnsupportedType)?),
        [b'[', ..] => ParamValue::List(serde_json::from_str(json).map_err(|_| UnsupportedType)?),
        // JSON tells no integers from other numbers, and -0 is none: it would come out as 0.
        b"-0" => return Err(UnsupportedType),
        [b'-' | b'0'..=b'9', ..] => ParamValue::Integer(json.parse().map_err(|_| UnsupportedType)?),
        _ => return Err(UnsupportedType),
    };
    Ok(Some(value))
}

/// A JSON string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);
