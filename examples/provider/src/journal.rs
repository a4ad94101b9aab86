//! What the provider received.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::value::RawValue;

/// Never shown, only whether they came.
const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// The calls of a provider, as `GET /demo/calls` shows them.
#[derive(Debug, Default, Serialize)]
pub struct Journal {
    count: u64,
    last: Option<Call>,
}

#[derive(Debug, Serialize)]
struct Call {
    path: String,
    headers: BTreeMap<String, String>,
    body: Body,
}

/// A body as it came: JSON with its own spelling, or whatever else as text.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body {
    Json(Box<RawValue>),
    Text(String),
}

impl Journal {
    /// Writes a call down.
    pub fn note(&mut self, path: &str, headers: &HeaderMap, body: &[u8]) {
        let text = String::from_utf8_lossy(body).into_owned();
        self.count += 1;
        self.last = Some(Call {
            path: path.to_owned(),
            headers: shown(headers),
            body: match serde_json::from_str(&text) {
                Ok(json) => Body::Json(json),
                Err(_) => Body::Text(text),
            },
        });
    }
}

/// The key that a caller presents.
pub fn key(headers: &HeaderMap) -> Option<&str> {
    let value = CREDENTIALS.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ").unwrap_or(value).trim())
}

fn shown(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut shown = BTreeMap::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        shown.insert(name.to_string(), values.join(", "));
    }
    for name in CREDENTIALS {
        let word = if headers.contains_key(name) { "present" } else { "absent" };
        shown.insert(name.to_owned(), word.to_owned());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use serde_json::{Value, json};

    #[test]
    fn shows_what_came_but_no_credentials() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer sk-secret"));
        headers.append("via", HeaderValue::from_static("a"));
        headers.append("via", HeaderValue::from_static("b"));
        let mut journal = Journal::default();
        journal.note("/v1/messages", &headers, br#"{"z":1.50,"a":12345678901234567890123}"#);
        let text = serde_json::to_string(&journal).unwrap();
        assert!(text.contains(r#""body":{"z":1.50,"a":12345678901234567890123}"#), "{text}");
        assert!(!text.contains("secret"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value["last"]["headers"],
            json!({"authorization": "present", "x-api-key": "absent", "api-key": "absent",
                "via": "a, b"})
        );
        journal.note("/v1/messages", &headers, b"no json");
        let value = serde_json::to_value(&journal).unwrap();
        assert_eq!((&value["count"], &value["last"]["body"]), (&json!(2), &json!("no json")));
    }

    #[test]
    fn finds_the_key_where_each_client_puts_it() {
        for (name, value) in
            [("authorization", "Bearer sk-1"), ("x-api-key", "sk-1"), ("api-key", "sk-1")]
        {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(key(&headers), Some("sk-1"));
        }
        assert_eq!(key(&HeaderMap::new()), None);
    }
}
