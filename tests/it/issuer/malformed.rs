//! A thousand requests that are wrong in some way, as a rule: the same ones in every run.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::{Asked, ask, asked, signed};

const FIELDS: [&str; 5] = ["uploaded_image_id", "sku_id", "sku_ids", "sku_catalog_name", "product_id"];

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    /// One of the words, which may be empty.
    fn pick<'a>(&mut self, words: &'a str) -> &'a str {
        let words: Vec<&str> = words.split(' ').collect();
        words[self.roll(words.len())]
    }
}

fn malformed(dice: &mut Dice) -> Request<Full<Bytes>> {
    let mut query = String::new();
    let mut body = String::from(dice.pick("{ { { { { [ "));
    for number in 0..dice.roll(4) {
        let known = "uploaded_image_id sku_id sku_ids sku_catalog_name product_id";
        let names = [known, known, known, r"exp iss role SKU_ID sku%5Fid sku\u005fid "][dice.roll(4)];
        let values = r#""a" 7 true null ["a","b"] [] a+b 1.5 {"sub":1} [{}] "\ud800" " 1e999 %00 %zz "#;
        let (name, value) = (dice.pick(names), dice.pick(values));
        let in_query = value.replace(['"', '{', '}', '\\'], "");
        query += &format!("{}{name}{}{in_query}", dice.pick("& & & ; ?"), dice.pick("= = "));
        body += &format!("{}\"{name}\":{value}", if number == 0 { "" } else { dice.pick(", , , ") });
    }
    body += dice.pick("} } } } } ] }x ");
    if dice.roll(20) == 0 {
        body += &" ".repeat(17 * 1024);
    }
    let mut body = body.into_bytes();
    if dice.roll(4) == 0 && !body.is_empty() {
        let place = dice.roll(body.len());
        body[place] = u8::try_from(dice.roll(256)).unwrap();
    }
    let method = dice.pick("GET GET GET GET POST POST POST POST POST POST HEAD");
    // Both at once is refused; so mostly it is one.
    if method == "GET" && dice.roll(20) > 0 {
        body.clear();
    } else if dice.roll(20) > 0 {
        query.clear();
    }
    let content_type = match dice.roll(10) {
        0 => dice.pick("text/plain json application/json,text/plain "),
        _ => "application/json",
    };
    let request = Request::builder().method(method).uri(format!("/?{query}")).header("content-type", content_type);
    request.body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn issuer_signs_only_authorized_params_for_a_thousand_malformed_requests() {
    let mut dice = Dice(0x5eed_cafe);
    let Asked { issuer, params } = asked();
    let mut seen = std::collections::BTreeMap::<u16, usize>::new();
    for _ in 0..1000 {
        let request = malformed(&mut dice);
        let name = format!("{request:?}");
        let (status, _, answer) = ask(&issuer, request).await;
        *seen.entry(status).or_default() += 1;
        let authorized = std::mem::take(&mut *params.lock().unwrap());
        if status == 200 {
            assert_eq!(signed(&answer), serde_json::to_value(&authorized[0]).unwrap(), "{name}");
            assert!(!authorized[0].is_empty() && authorized[0].iter().all(|(key, _)| FIELDS.contains(&key)), "{name}");
        } else {
            assert!([400, 405, 413, 415].contains(&status), "{status} for {name}");
            assert!(authorized.is_empty() && answer["error"].is_string() && answer.get("token").is_none(), "{name}");
        }
    }
    let enough = [200, 400, 405, 413, 415].iter().all(|status| seen.get(status).is_some_and(|seen| *seen >= 20));
    assert!(enough, "the generator is lopsided: {seen:?}");
}
