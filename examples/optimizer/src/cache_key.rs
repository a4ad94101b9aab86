//! The key under which an answer is kept.
//!
//! A key is a digest of the caller's scope, the endpoint and the request, followed
//! by a check that ties it to the scope: a write-back under another scope than
//! the key was made for is found out.

use std::fmt::Write;

use optimizer_core::dialect::Dialect;
use optimizer_core::json::Object;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Bodies that are nested deeper have no key.
const MOST_LEVELS: usize = 100;

/// The key for a request as the client sent it. None where an answer to it is
/// not for keeping, or where it is ambiguous.
///
/// Key order, white space, escapes and the wish for a stream do not matter;
/// everything else does, the spelling of numbers included.
pub fn key(scope: Option<&str>, dialect: Dialect, request: &str) -> Option<String> {
    if !repeatable(dialect, &Object::parse(request.as_bytes()).ok()?) {
        return None;
    }
    let mut hash = Sha256::new();
    feed_scope(&mut hash, scope);
    feed_text(&mut hash, dialect.endpoint());
    feed(&mut hash, request, 0)?;
    let digest = hex(&hash.finalize());
    let check = check(scope, &digest);
    Some(digest + &check)
}

/// Whether the key was made for that scope.
pub fn belongs(key: &str, scope: Option<&str>) -> bool {
    key.split_at_checked(64).is_some_and(|(digest, end)| end == check(scope, digest))
}

fn check(scope: Option<&str>, digest: &str) -> String {
    let mut hash = Sha256::new();
    feed_scope(&mut hash, scope);
    feed_text(&mut hash, digest);
    hex(&hash.finalize()[..8])
}

/// Whether the same request may get the same answer again.
fn repeatable(dialect: Dialect, request: &Object<'_>) -> bool {
    let absent_or = |name, value| request.get(name).is_none_or(|v| v == "null" || v == value);
    match dialect {
        // Several samples are asked for by who wants variety.
        Dialect::OpenAiChat | Dialect::OpenAiCompletions => {
            absent_or("n", "1") && absent_or("best_of", "1")
        }
        // What refers to state at the provider, or makes some, is no repeat.
        Dialect::OpenAiResponses => {
            request.get("store") == Some("false")
                && absent_or("background", "false")
                && absent_or("conversation", "null")
                && absent_or("previous_response_id", "null")
        }
        Dialect::OpenAiEmbeddings | Dialect::AnthropicMessages => true,
    }
}

fn feed(hash: &mut Sha256, value: &str, level: usize) -> Option<()> {
    if level > MOST_LEVELS {
        return None;
    }
    match value.bytes().next()? {
        b'{' => {
            let object = Object::parse(value.as_bytes()).ok()?;
            let asks_for_stream = |name: &str| name == "stream" || name == "stream_options";
            let mut members: Vec<_> = object
                .members()
                .iter()
                .filter(|member| level > 0 || !asks_for_stream(&member.name))
                .collect();
            members.sort_by(|a, b| a.name.cmp(&b.name));
            feed_length(hash, b'{', members.len());
            for member in members {
                feed_text(hash, &member.name);
                feed(hash, member.value, level + 1)?;
            }
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(value).ok()?;
            feed_length(hash, b'[', elements.len());
            for element in elements {
                feed(hash, element.get(), level + 1)?;
            }
        }
        b'"' => {
            let text: String = serde_json::from_str(value).ok()?;
            feed_text(hash, &text);
        }
        _ => {
            feed_length(hash, b'=', value.len());
            hash.update(value);
        }
    }
    Some(())
}

fn feed_scope(hash: &mut Sha256, scope: Option<&str>) {
    match scope {
        Some(scope) => feed_text(hash, scope),
        None => hash.update(b"-"),
    }
}

fn feed_text(hash: &mut Sha256, text: &str) {
    feed_length(hash, b'"', text.len());
    hash.update(text);
}

fn feed_length(hash: &mut Sha256, tag: u8, length: usize) {
    hash.update([tag]);
    hash.update((length as u64).to_le_bytes());
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use optimizer_core::dialect::Dialect;

    use super::{belongs, key};

    const CHAT: Dialect = Dialect::OpenAiChat;

    fn chat(request: &str) -> Option<String> {
        key(None, CHAT, request)
    }

    #[test]
    fn spelling_does_not_matter() {
        let plain = chat(r#"{"model":"m","messages":[{"role":"user","content":"é"}]}"#);
        assert!(plain.is_some());
        for same in [
            r#"{ "messages" : [ {"content":"\u00e9","role":"user"} ], "model" : "m" }"#,
            r#"{"model":"m","stream":true,"stream_options":{},"messages":[{"role":"user","content":"é"}]}"#,
        ] {
            assert_eq!(chat(same), plain, "{same}");
        }
    }

    #[test]
    fn everything_else_matters() {
        let requests = [
            r#"{"a":[1,2]}"#,
            r#"{"a":[2,1]}"#,
            r#"{"a":[1,[2]]}"#,
            r#"{"a":["1",2]}"#,
            r#"{"a":[12]}"#,
            r#"{"a":[{"b":1},{"c":2}]}"#,
            r#"{"a":[{"b":1,"c":2}]}"#,
            r#"{"a":{"stream":true}}"#,
            r#"{"a":{}}"#,
            r#"{"a":[]}"#,
            r#"{"a":null}"#,
            r#"{"a":"null"}"#,
            r#"{"a":12345678901234567890}"#,
            r#"{"a":12345678901234567891}"#,
            r#"{"b":null}"#,
            r#"{}"#,
        ];
        let keys: std::collections::BTreeSet<_> = requests.into_iter().map(chat).collect();
        assert_eq!(keys.len(), requests.len());
        assert!(!keys.contains(&None));
        assert_ne!(key(None, Dialect::AnthropicMessages, "{}"), chat("{}"));
    }

    #[test]
    fn scopes_are_kept_apart() {
        let scopes = [None, Some(""), Some("-"), Some("a"), Some("b")];
        for scope in scopes {
            let key = key(scope, CHAT, "{}").unwrap();
            for other in scopes {
                assert_eq!(belongs(&key, other), scope == other, "{scope:?} {other:?}");
            }
        }
        for made_up in ["", "x", &"é".repeat(40), &"0".repeat(80)] {
            assert!(!belongs(made_up, None));
        }
    }

    #[test]
    fn what_is_not_for_keeping_has_no_key() {
        let responses = |request| key(None, Dialect::OpenAiResponses, request);
        assert!(responses(r#"{"store":false,"input":"x"}"#).is_some());
        assert!(responses(r#"{"store":false,"background":false,"conversation":null}"#).is_some());
        for request in [
            r#"{"input":"x"}"#,
            r#"{"store":true}"#,
            r#"{"store":null}"#,
            r#"{"store":false,"background":true}"#,
            r#"{"store":false,"previous_response_id":"r"}"#,
            r#"{"store":false,"conversation":{"id":"c"}}"#,
        ] {
            assert_eq!(responses(request), None, "{request}");
        }
        assert!(chat(r#"{"n":1}"#).is_some());
        assert_eq!(chat(r#"{"n":2}"#), None);
        assert_eq!(key(None, Dialect::OpenAiCompletions, r#"{"best_of":2}"#), None);
    }

    #[test]
    fn what_is_ambiguous_has_no_key() {
        assert_eq!(chat(r#"{"a":1,"a":1}"#), None);
        assert_eq!(chat(r#"{"a":{"b":1,"\u0062":2}}"#), None);
        assert_eq!(chat(r#"{"a":"\ud800"}"#), None);
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(chat(&deep), None);
    }
}
