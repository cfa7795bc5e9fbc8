//! A thousand generated requests, most of them malformed. Every run generates the same ones.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::{RecordingIssuer, recording_issuer, request_token, signed};

const FIELDS: [&str; 5] = ["uploaded_image_id", "sku_id", "sku_ids", "sku_catalog_name", "product_id"];

/// A xorshift64 random number generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    /// Returns one of the words, which are separated by single spaces and may be empty.
    fn pick<'a>(&mut self, words: &'a str) -> &'a str {
        let words: Vec<&str> = words.split(' ').collect();
        words[self.below(words.len())]
    }
}

fn malformed(random: &mut Random) -> Request<Full<Bytes>> {
    let mut query = String::new();
    let mut body = String::from(random.pick("{ { { { { [ "));
    for number in 0..random.below(4) {
        let known = "uploaded_image_id sku_id sku_ids sku_catalog_name product_id";
        let names = [known, known, known, r"exp iss role SKU_ID sku%5Fid sku\u005fid "][random.below(4)];
        let values = r#""a" 7 true null ["a","b"] [] a+b 1.5 {"sub":1} [{}] "\ud800" " 1e999 %00 %zz "#;
        let (name, value) = (random.pick(names), random.pick(values));
        let in_query = value.replace(['"', '{', '}', '\\'], "");
        query += &format!("{}{name}{}{in_query}", random.pick("& & & ; ?"), random.pick("= = "));
        body += &format!("{}\"{name}\":{value}", if number == 0 { "" } else { random.pick(", , , ") });
    }
    body += random.pick("} } } } } ] }x ");
    if random.below(20) == 0 {
        body += &" ".repeat(17 * 1024);
    }
    let mut body = body.into_bytes();
    if random.below(4) == 0 && !body.is_empty() {
        let place = random.below(body.len());
        body[place] = u8::try_from(random.below(256)).unwrap();
    }
    let method = random.pick("GET GET GET GET POST POST POST POST POST POST HEAD");
    // A query together with a body is rejected, so most requests have only one of them.
    if method == "GET" && random.below(20) > 0 {
        body.clear();
    } else if random.below(20) > 0 {
        query.clear();
    }
    let content_type = match random.below(10) {
        0 => random.pick("text/plain json application/json,text/plain "),
        _ => "application/json",
    };
    let request = Request::builder().method(method).uri(format!("/?{query}")).header("content-type", content_type);
    request.body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn issuer_signs_only_authorized_params_for_a_thousand_malformed_requests() {
    let mut random = Random(0x5eed_cafe);
    let RecordingIssuer { issuer, params } = recording_issuer();
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for _ in 0..1000 {
        let request = malformed(&mut random);
        let name = format!("{request:?}");
        let (status, _, answer) = request_token(&issuer, request).await;
        *statuses.entry(status).or_default() += 1;
        let authorized = std::mem::take(&mut *params.lock().unwrap());
        if status == 200 {
            assert_eq!(signed(&answer), serde_json::to_value(&authorized[0]).unwrap(), "{name}");
            assert!(!authorized[0].is_empty() && authorized[0].iter().all(|(key, _)| FIELDS.contains(&key)), "{name}");
        } else {
            assert!([400, 405, 413, 415].contains(&status), "{status} for {name}");
            assert!(authorized.is_empty() && answer["error"].is_string() && answer.get("token").is_none(), "{name}");
        }
    }
    let enough = [200, 400, 405, 413, 415].iter().all(|status| statuses.get(status).is_some_and(|count| *count >= 20));
    assert!(enough, "the generator does not reach every status: {statuses:?}");
}
