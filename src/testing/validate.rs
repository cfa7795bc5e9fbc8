//! The bodies that start an operation: `SkuImagesRequest` and `SkuTryOnRequest` of Aiuta's OpenAPI files.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use super::reply::Problem;
use super::routes::Kind;

/// What is to be tried on.
#[derive(Debug, PartialEq)]
pub(super) struct Order {
    pub(super) uploaded_image_id: String,
}

/// Reads the body, or lists everything that is wrong with it.
pub(super) fn order(kind: Kind, headers: &HeaderMap, body: &[u8]) -> Result<Order, Vec<Problem>> {
    if !may_be_json(headers) {
        return Err(vec![not_an_object()]);
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => check(kind, &fields),
        Ok(_) => Err(vec![not_an_object()]),
        Err(_) => Err(vec![Problem { field: None, msg: "JSON decode error", kind: "json_invalid" }]),
    }
}

fn check(kind: Kind, fields: &Map<String, Value>) -> Result<Order, Vec<Problem>> {
    let (most, strings, booleans): (usize, &[_], &[_]) = match kind {
        Kind::SkuImages => {
            (2, &["sku_catalog_name", "model_type", "operation_target"], &["enhanced_quality", "hijab_protection"])
        }
        Kind::SkuTryOn => (5, &[], &[]),
    };
    let given = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let mut problems = Vec::new();
    let image = match fields.get("uploaded_image_id") {
        None => {
            problems.push(Problem::missing("uploaded_image_id"));
            None
        }
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => {
            problems.push(not_a_string("uploaded_image_id"));
            None
        }
    };
    for name in ["sku_id"].iter().chain(strings) {
        if given(name).is_some_and(|value| !value.is_string()) {
            problems.push(not_a_string(name));
        }
    }
    for name in booleans {
        if fields.get(*name).is_some_and(|value| !value.is_boolean()) {
            problems.push(Problem { field: Some(name), msg: "Input should be a valid boolean", kind: "bool_type" });
        }
    }
    problems.extend(given("sku_ids").and_then(|value| check_list(value, most)));
    if problems.is_empty() && given("sku_id").is_some() == given("sku_ids").is_some() {
        let msg = "Value error, Either 'sku_id' or 'sku_ids' must be specified";
        problems.push(Problem { field: None, msg, kind: "value_error" });
    }
    match image {
        Some(uploaded_image_id) if problems.is_empty() => Ok(Order { uploaded_image_id }),
        _ => Err(problems),
    }
}

fn check_list(value: &Value, most: usize) -> Option<Problem> {
    let (msg, kind) = match value.as_array() {
        None => ("Input should be a valid list", "list_type"),
        Some(items) if items.iter().any(|item| !item.is_string()) => ("Input should be a valid string", "string_type"),
        Some(items) if items.is_empty() => ("List should have at least 1 item", "too_short"),
        Some(items) if items.len() > most => ("List has too many items", "too_long"),
        Some(_) => return None,
    };
    Some(Problem { field: Some("sku_ids"), msg, kind })
}

/// A body without a content type is taken for JSON; one that says that it is something else is not.
fn may_be_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
    })
}

fn not_a_string(field: &'static str) -> Problem {
    Problem { field: Some(field), msg: "Input should be a valid string", kind: "string_type" }
}

fn not_an_object() -> Problem {
    Problem { field: None, msg: "Input should be a valid dictionary", kind: "model_attributes_type" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn kinds(kind: Kind, body: &str) -> Vec<(Option<&'static str>, &'static str)> {
        let checked = order(kind, &HeaderMap::new(), body.as_bytes());
        checked.err().unwrap_or_default().iter().map(|problem| (problem.field, problem.kind)).collect()
    }

    #[test]
    fn good_bodies_pass() {
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
    fn bad_bodies_are_told_what_is_wrong() {
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
    fn a_body_of_another_content_type_is_no_json() {
        for (value, good) in
            [("application/json", true), ("Application/JSON; charset=utf-8", true), ("text/plain", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(may_be_json(&headers), good, "{value}");
        }
        assert!(may_be_json(&HeaderMap::new()));
    }
}
