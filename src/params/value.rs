//! [`ParamValue`]: the types of values that can be signed.
//!
//! Floats, objects and nested lists are not supported. One such value can be written in several ways, so the value that
//! was signed and the value that Aiuta compares it with could differ.

use std::fmt;

use serde::Serialize;

/// The value of a param.
///
/// It keeps the JSON type that it has in the request's body, and it has the same type in the token. `"1"` and `1` are
/// different values, with different tokens.
///
/// It converts from strings, `bool`, `i64`, `i32`, `u32`, and vectors, arrays and slices of strings. `Debug` shows the
/// type, never the value.
///
/// ```
/// use tower_aiuta_auth::ParamValue;
///
/// assert_eq!(ParamValue::from("dress-1"), "dress-1");
/// assert_ne!(ParamValue::from("1"), ParamValue::from(1));
/// assert_eq!(ParamValue::from(["dress-1", "belt-7"]), ParamValue::List(vec!["dress-1".into(), "belt-7".into()]));
/// ```
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum ParamValue {
    /// A JSON string.
    String(String),
    /// A JSON boolean.
    Bool(bool),
    /// A JSON number without a fraction or exponent, in the range of `i64`.
    Integer(i64),
    /// A JSON array of strings.
    List(Vec<String>),
}

impl ParamValue {
    /// Returns the value as the official SDKs send it: as one string, with the items of a list joined by `,`. A list
    /// and a string can have the same result.
    pub(crate) fn to_string_lossy(&self) -> String {
        match self {
            Self::String(value) => value.clone(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::List(values) => values.join(","),
        }
    }

    /// Returns the size in bytes. Each item of a list counts 3 bytes for its quotes and comma, so that a long list of
    /// empty strings is not free.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::String(value) => value.len(),
            Self::Bool(_) | Self::Integer(_) => 8,
            Self::List(values) => values.iter().map(|value| value.len() + 3).sum(),
        }
    }
}

impl fmt::Debug for ParamValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::String(_) => "String(..)",
            Self::Bool(_) => "Bool(..)",
            Self::Integer(_) => "Integer(..)",
            Self::List(_) => "List(..)",
        })
    }
}

impl PartialEq<str> for ParamValue {
    fn eq(&self, other: &str) -> bool {
        matches!(self, Self::String(value) if value == other)
    }
}

impl PartialEq<&str> for ParamValue {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl From<String> for ParamValue {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<&str> for ParamValue {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<&String> for ParamValue {
    fn from(value: &String) -> Self {
        Self::String(value.clone())
    }
}

impl From<bool> for ParamValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for ParamValue {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<i32> for ParamValue {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<u32> for ParamValue {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<Vec<String>> for ParamValue {
    fn from(values: Vec<String>) -> Self {
        Self::List(values)
    }
}

impl From<Vec<&str>> for ParamValue {
    fn from(values: Vec<&str>) -> Self {
        values.as_slice().into()
    }
}

impl From<&[&str]> for ParamValue {
    fn from(values: &[&str]) -> Self {
        Self::List(values.iter().map(|value| (*value).to_owned()).collect())
    }
}

impl<const N: usize> From<[&str; N]> for ParamValue {
    fn from(values: [&str; N]) -> Self {
        values.as_slice().into()
    }
}

impl<const N: usize> From<[String; N]> for ParamValue {
    fn from(values: [String; N]) -> Self {
        Self::List(values.into())
    }
}
