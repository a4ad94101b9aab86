//! Streams: put together however they are cut, and told anew.

use optimizer_core::dialect::Dialect;
use optimizer_core::json::{Object, equal};
use optimizer_core::stream::{Assembler, StreamError, replay};

use serde_json::Value;

use crate::first_line;
use crate::random::Random;

/// No event of ours is so much larger than what it tells of.
const MOST_TIMES: usize = 64;
/// What a stream has besides.
const MOST_BESIDES: usize = 16 * 1024;

/// What a choice of a chat says.
const SAID: [&str; 6] = [
    "/index",
    "/finish_reason",
    "/message/role",
    "/message/content",
    "/message/refusal",
    "/message/tool_calls",
];
/// What a choice of a completion says.
const SAID_BY_COMPLETIONS: [&str; 3] = ["/index", "/finish_reason", "/text"];

/// A line with an endpoint and, after a space, the most bytes of a stream; then
/// a stream, or a plain body.
pub fn target(data: &[u8]) {
    let (line, content) = first_line(data);
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let dialect = words.next().and_then(Dialect::from_endpoint).unwrap_or(Dialect::OpenAiChat);
    let most = words.next().and_then(|word| word.parse().ok()).unwrap_or(usize::MAX);

    let whole = assembled(dialect, most, [content]);
    let bytes = assembled(dialect, most, content.chunks(1));
    let pieces = assembled(dialect, most, Random::of(data).pieces(content, 50));
    if content.len() > most {
        // Which fault comes first depends on how much is seen at once.
        assert!([&whole, &bytes, &pieces].iter().all(|(body, _)| body.is_err()));
    } else {
        assert_eq!(bytes, whole, "byte by byte");
        assert_eq!(pieces, whole, "in pieces");
    }
    let body = match &whole.0 {
        Ok(body) => {
            assert!(body.len() <= content.len() + 1024, "larger than its stream");
            ends(dialect, content);
            body
        }
        Err(_) => content,
    };
    if let Ok(object) = Object::parse(body) {
        told_anew(dialect, &object);
    } else {
        assert!(whole.0.is_err(), "no object: {}", String::from_utf8_lossy(body));
    }
}

/// A stream that is cut off before its end marker is not complete.
fn ends(dialect: Dialect, content: &[u8]) {
    let marker: &[u8] = match dialect {
        Dialect::OpenAiResponses => b"response.completed",
        Dialect::AnthropicMessages => b"message_stop",
        _ => b"[DONE]",
    };
    let end = content.windows(marker.len()).position(|window| window == marker);
    let end = end.expect("an end marker");
    assert!(assembled(dialect, usize::MAX, [&content[..end]]).0.is_err(), "cut off");
}

fn assembled<'a>(
    dialect: Dialect,
    most: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Result<Vec<u8>, StreamError>, Option<String>) {
    let mut assembler = Assembler::new(dialect, most);
    for piece in pieces {
        assembler.push(piece);
    }
    let usage = assembler.usage().map(str::to_owned);
    (assembler.finish(), usage)
}

/// A body told as a stream comes back as the same answer.
fn told_anew(dialect: Dialect, body: &Object<'_>) {
    let told = [false, true].map(|include_usage| replay(dialect, body, include_usage));
    assert_eq!(told[0].is_some(), told[1].is_some());
    let Some(stream) = &told[1] else { return };
    let most = body.text().len() * MOST_TIMES + MOST_BESIDES;
    assert!(stream.len() <= most, "{} bytes told in {}", body.text().len(), stream.len());
    let again = assembled(dialect, usize::MAX, [&**stream]).0;
    let again = again.unwrap_or_else(|error| panic!("{error:?}\n{}", lossy(stream)));
    let again = Object::parse(&again).expect("an object");
    for name in dialect.required_in_response().iter().filter(|name| **name != "choices") {
        if let Some(value) = body.get(name) {
            let same = again.get(name).is_some_and(|again| equal(again, value));
            assert!(same, "{name}\n{}\n{}", again.text(), body.text());
        }
    }
    match dialect {
        Dialect::OpenAiChat => choices(body, &again, &SAID),
        Dialect::OpenAiCompletions => choices(body, &again, &SAID_BY_COMPLETIONS),
        _ => {}
    }
}

/// Every choice says the same, in the order of its index.
fn choices(body: &Object<'_>, again: &Object<'_>, said: &[&str]) {
    let [mut before, after] = [body, again].map(|body| -> Vec<Value> {
        serde_json::from_str(body.get("choices").expect("choices")).unwrap_or_default()
    });
    before.sort_by_key(|choice| choice["index"].as_u64());
    // What a tree cannot hold (a lone surrogate) is not compared.
    if before.is_empty() || after.is_empty() {
        return;
    }
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        for path in said {
            let before = before.pointer(path).unwrap_or_default();
            let after = after.pointer(path).unwrap_or_default();
            assert!(tells(after, before), "{path}\n{}\n{}", body.text(), again.text());
        }
    }
}

/// Whether `after` tells all that `before` told; what a client's SDK wants besides may stand in it.
fn tells(after: &Value, before: &Value) -> bool {
    match (after, before) {
        (_, Value::Null) => true,
        (Value::Object(after), Value::Object(before)) => {
            before.iter().all(|(name, value)| tells(after.get(name).unwrap_or_default(), value))
        }
        (Value::Array(after), Value::Array(before)) => {
            after.len() == before.len() && after.iter().zip(before).all(|(a, b)| tells(a, b))
        }
        (after, before) => after == before,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
