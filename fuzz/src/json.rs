//! JSON as `serde_json` reads it, for comparison. The members of an object keep their order, and duplicates are kept.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tower_aiuta_auth::{AuthParams, ParamValue};

/// The members of an object.
#[derive(Debug)]
pub struct Pairs<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<V>(Vec<(String, V)>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Members<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Pairs<V>, A::Error> {
                while let Some(member) = map.next_entry()? {
                    self.0.push(member);
                }
                Ok(Pairs(self.0))
            }
        }
        deserializer.deserialize_map(Members(Vec::new()))
    }
}

impl Pairs<Value> {
    /// Returns the params in these members: each of `fields` at most once, with a type that can be signed, without
    /// nulls. Returns `None` if a field breaks these rules.
    pub fn params(&self, fields: &[&str]) -> Option<AuthParams> {
        let mut params = AuthParams::new();
        for field in fields {
            let mut values = self.0.iter().filter(|(key, _)| key == field).map(|(_, value)| value);
            let value = values.next();
            if values.next().is_some() {
                return None;
            }
            match value {
                None | Some(Value::Null) => {}
                Some(value) => params = params.with(*field, param_value(value)?),
            }
        }
        Some(params)
    }
}

/// Converts a value, if it can be signed.
fn param_value(value: &Value) -> Option<ParamValue> {
    Some(match value {
        Value::String(text) => ParamValue::String(text.clone()),
        Value::Bool(yes) => ParamValue::Bool(*yes),
        Value::Number(number) => ParamValue::Integer(number.as_i64()?),
        Value::Array(items) => {
            let items = items.iter().map(|item| item.as_str().map(str::to_owned));
            ParamValue::List(items.collect::<Option<_>>()?)
        }
        Value::Null | Value::Object(_) => return None,
    })
}

/// Returns the size that the documented limit of 4 KiB applies to.
pub fn size(params: &AuthParams) -> usize {
    let value = |value: &ParamValue| match value {
        ParamValue::String(text) => text.len(),
        ParamValue::List(items) => items.iter().map(|item| item.len() + 3).sum(),
        _ => 8,
    };
    params.iter().map(|(key, param)| key.len() + value(param)).sum()
}
