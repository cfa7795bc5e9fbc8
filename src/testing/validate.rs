//! Validates the bodies that start an operation: `SkuImagesRequest` and `SkuTryOnRequest` in Aiuta's OpenAPI files.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use super::reply::ValidationError;
use super::routes::Kind;

/// The validated body. The other fields do not affect the fake operation.
#[derive(Debug, PartialEq)]
pub(super) struct Order {
    pub(super) uploaded_image_id: String,
}

/// Validates the body and returns all its errors.
pub(super) fn order(kind: Kind, headers: &HeaderMap, body: &[u8]) -> Result<Order, Vec<ValidationError>> {
    if !may_be_json(headers) {
        return Err(vec![not_an_object()]);
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => check(kind, &fields),
        Ok(_) => Err(vec![not_an_object()]),
        Err(_) => Err(vec![ValidationError { field: None, msg: "JSON decode error", kind: "json_invalid" }]),
    }
}

fn check(kind: Kind, fields: &Map<String, Value>) -> Result<Order, Vec<ValidationError>> {
    let (max_skus, strings, booleans): (usize, &[_], &[_]) = match kind {
        Kind::SkuImages => {
            (2, &["sku_catalog_name", "model_type", "operation_target"], &["enhanced_quality", "hijab_protection"])
        }
        Kind::SkuTryOn => (5, &[], &[]),
    };
    let given = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let mut errors = Vec::new();
    let image = match fields.get("uploaded_image_id") {
        None => {
            errors.push(ValidationError::missing("uploaded_image_id"));
            None
        }
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => {
            errors.push(not_a_string("uploaded_image_id"));
            None
        }
    };
    for name in ["sku_id"].iter().chain(strings) {
        if given(name).is_some_and(|value| !value.is_string()) {
            errors.push(not_a_string(name));
        }
    }
    for name in booleans {
        if fields.get(*name).is_some_and(|value| !value.is_boolean()) {
            errors.push(ValidationError {
                field: Some(name),
                msg: "Input should be a valid boolean",
                kind: "bool_type",
            });
        }
    }
    errors.extend(given("sku_ids").and_then(|value| check_list(value, max_skus)));
    if errors.is_empty() && given("sku_id").is_some() == given("sku_ids").is_some() {
        let msg = "Value error, Either 'sku_id' or 'sku_ids' must be specified";
        errors.push(ValidationError { field: None, msg, kind: "value_error" });
    }
    match image {
        Some(uploaded_image_id) if errors.is_empty() => Ok(Order { uploaded_image_id }),
        _ => Err(errors),
    }
}

fn check_list(value: &Value, max: usize) -> Option<ValidationError> {
    let (msg, kind) = match value.as_array() {
        None => ("Input should be a valid list", "list_type"),
        Some(items) if items.iter().any(|item| !item.is_string()) => ("Input should be a valid string", "string_type"),
        Some(items) if items.is_empty() => ("List should have at least 1 item", "too_short"),
        Some(items) if items.len() > max => ("List has too many items", "too_long"),
        Some(_) => return None,
    };
    Some(ValidationError { field: Some("sku_ids"), msg, kind })
}

/// Returns whether the content type is JSON or missing.
fn may_be_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
    })
}

fn not_a_string(field: &'static str) -> ValidationError {
    ValidationError { field: Some(field), msg: "Input should be a valid string", kind: "string_type" }
}

fn not_an_object() -> ValidationError {
    ValidationError { field: None, msg: "Input should be a valid dictionary", kind: "model_attributes_type" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn kinds(kind: Kind, body: &str) -> Vec<(Option<&'static str>, &'static str)> {
        let checked = order(kind, &HeaderMap::new(), body.as_bytes());
        checked.err().unwrap_or_default().iter().map(|error| (error.field, error.kind)).collect()
    }

    #[test]
    fn valid_bodies_pass() {
        for body in [
            r#"{"uploaded_image_id":"a","sku_id":"x"}"#,
            r#"{"uploaded_image_id":"a","sku_id":"x","sku_ids":null,"unknown":[{}]}"#,
            r#"{"uploaded_image_id":"a","sku_ids":["x","y"],"sku_id":null}"#,
        ] {
            for kind in [Kind::SkuImages, Kind::SkuTryOn] {
                assert_eq!(kinds(kind, body), [], "{body}");
            }
        }
        assert_eq!(kinds(Kind::SkuTryOn, r#"{"uploaded_image_id":"a","sku_ids":["1","2","3","4","5"]}"#), []);
        let options = r#"{"uploaded_image_id":"a","sku_id":"x","sku_catalog_name":null,"hijab_protection":true}"#;
        assert_eq!(kinds(Kind::SkuImages, options), []);
    }

    #[test]
    fn invalid_bodies_report_each_error() {
        for (body, expected) in [
            ("", vec![(None, "json_invalid")]),
            ("null", vec![(None, "model_attributes_type")]),
            ("[]", vec![(None, "model_attributes_type")]),
            (r#"{"sku_id":"x"}"#, vec![(Some("uploaded_image_id"), "missing")]),
            (r#"{"uploaded_image_id":"a"}"#, vec![(None, "value_error")]),
            (r#"{"uploaded_image_id":"a","sku_id":"x","sku_ids":["y"]}"#, vec![(None, "value_error")]),
            (
                r#"{"uploaded_image_id":null,"sku_id":1}"#,
                vec![(Some("uploaded_image_id"), "string_type"), (Some("sku_id"), "string_type")],
            ),
            (r#"{"uploaded_image_id":"a","sku_ids":"x"}"#, vec![(Some("sku_ids"), "list_type")]),
            (r#"{"uploaded_image_id":"a","sku_ids":[1]}"#, vec![(Some("sku_ids"), "string_type")]),
            (r#"{"uploaded_image_id":"a","sku_ids":[]}"#, vec![(Some("sku_ids"), "too_short")]),
            (r#"{"uploaded_image_id":"a","sku_ids":["1","2","3"]}"#, vec![(Some("sku_ids"), "too_long")]),
            (
                r#"{"uploaded_image_id":"a","sku_id":"x","hijab_protection":"yes"}"#,
                vec![(Some("hijab_protection"), "bool_type")],
            ),
            (
                r#"{"uploaded_image_id":"a","sku_id":"x","sku_catalog_name":7}"#,
                vec![(Some("sku_catalog_name"), "string_type")],
            ),
        ] {
            assert_eq!(kinds(Kind::SkuImages, body), expected, "{body}");
        }
        let six = r#"{"uploaded_image_id":"a","sku_ids":["1","2","3","4","5","6"]}"#;
        assert_eq!(kinds(Kind::SkuTryOn, six), [(Some("sku_ids"), "too_long")]);
    }

    #[test]
    fn other_content_types_are_not_json() {
        for (value, good) in
            [("application/json", true), ("Application/JSON; charset=utf-8", true), ("text/plain", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(may_be_json(&headers), good, "{value}");
        }
        assert!(may_be_json(&HeaderMap::new()));
    }
}
