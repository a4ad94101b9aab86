//! The messages of the benchmark: chat requests of set sizes, what the optimizer
//! makes of them, and the provider's answer. Compact JSON, as the official SDKs send it.

use serde_json::{Value, json};

/// Sizes of request bodies, in bytes.
pub const SIZES: [usize; 3] = [2 * 1024, 100 * 1024, 1024 * 1024];

/// The caller's credentials.
pub const AUTHORIZATION: &str = "Bearer sk-bench-0123456789abcdef0123456789";

/// The paths that the services know.
pub mod paths {
    /// Where the provider streams.
    pub const STREAMS: &str = "/stream/";
    /// Answers as the Optimizer Protocol has them.
    pub const OPTIMIZE: &str = "/v1/optimize";
    /// The same for requests that ask for a stream.
    pub const OPTIMIZE_STREAM: &str = "/stream/v1/optimize";
    /// The same for answers.
    pub const OPTIMIZE_RESPONSE: &str = "/v1/optimize-response";
    /// Everything is a hit.
    pub const HIT: &str = "/hit/v1/optimize";
    /// The transformed body itself, for who reads no JSON.
    pub const RAW_OPTIMIZE: &str = "/raw/optimize";
    /// The transformed answer itself.
    pub const RAW_OPTIMIZE_RESPONSE: &str = "/raw/optimize-response";
}

const WORDS: [&str; 24] = [
    "the",
    "gateway",
    "holds",
    "each",
    "request",
    "and",
    "asks",
    "what",
    "a",
    "shorter",
    "one",
    "would",
    "be;",
    "naïve",
    "tokens",
    "cost",
    "\"money\"",
    "while",
    "context",
    "grows\n",
    "with",
    "every",
    "tool",
    "call.",
];

/// Prose of exactly `size` bytes as JSON spells it.
fn prose(size: usize, seed: usize) -> String {
    let mut text = String::with_capacity(size);
    let mut spelled = 0;
    for step in 0.. {
        let word = WORDS[(seed * 7 + step * step + step * 5) % WORDS.len()];
        let cost = json!(word).to_string().len() - 2 + 1;
        if spelled + cost > size {
            break;
        }
        text.push_str(word);
        text.push(' ');
        spelled += cost;
    }
    text.extend(std::iter::repeat_n('.', size - spelled));
    text
}

fn message(index: usize, content: usize) -> Value {
    let role = match index {
        0 => "system",
        index if index % 2 == 1 => "user",
        _ => "assistant",
    };
    json!({ "role": role, "content": prose(content, index) })
}

/// A chat request of `size` bytes, and the same with one message in its middle cut by half.
pub fn request(size: usize, stream: bool) -> (Vec<u8>, Vec<u8>) {
    let count = match size {
        0..8192 => 5,
        8192..524_288 => 41,
        _ => 101,
    };
    let build = |contents: &[usize]| {
        let messages: Vec<_> =
            contents.iter().enumerate().map(|(index, &size)| message(index, size)).collect();
        json!({
            "model": "gpt-4.1-mini", "messages": messages, "temperature": 0.2, "stream": stream,
            "max_completion_tokens": 1024, "user": "u-4711", "seed": 20_261_121,
        })
    };
    let empty = build(&vec![0; count]).to_string().len();
    let each = (size - empty) / count;
    let mut contents = vec![each; count];
    contents[count - 1] += size - empty - each * count;
    let original = build(&contents).to_string();
    contents[count / 2] /= 2;
    (original.into_bytes(), build(&contents).to_string().into_bytes())
}

fn completion(content: usize) -> String {
    json!({
        "id": "chatcmpl-BqX0aN7T2mVYw1rJ8sKd3uEe", "object": "chat.completion",
        "created": 1_795_219_200, "model": "gpt-4.1-mini-2026-04-14",
        "choices": [{
            "index": 0, "finish_reason": "stop", "logprobs": null,
            "message": {
                "role": "assistant", "content": prose(content, 3), "refusal": null, "annotations": [],
            },
        }],
        "usage": {
            "prompt_tokens": 412, "completion_tokens": 377, "total_tokens": 789,
            "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": 0 },
        },
        "service_tier": "default", "system_fingerprint": "fp_38343a2f8f",
    })
    .to_string()
}

/// The provider's answer, about 2 KB, and what the optimizer makes of it.
pub fn answer() -> (String, String) {
    (completion(1500), completion(1400))
}

/// One event of a stream, which carries the time at which it was `sent`.
pub fn event(sent: u128) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-BqX0aN7T2mVYw1rJ8sKd3uEe\",\"object\":\"chat.completion.chunk\",\
         \"created\":1795219200,\"model\":\"gpt-4.1-mini-2026-04-14\",\"choices\":[{{\"index\":0,\
         \"delta\":{{\"content\":\" tokens\"}},\"logprobs\":null,\"finish_reason\":null}}],\
         \"sent\":{sent}}}\n\n"
    )
}

/// Events of a stream before `[DONE]`.
pub const EVENTS: usize = 24;

/// The optimizer's answers to `/v1/optimize` (a transform, and a hit) for a request of `size` bytes.
pub fn optimized(size: usize, stream: bool) -> (String, String) {
    let (original, transformed) = request(size, stream);
    let text = |request: &[u8], more: Value| {
        let request = String::from_utf8_lossy(request);
        let more = more.to_string();
        format!(
            r#"{{"protocolVersion":1,"optimizationId":"opt-5f0c2a9e71d34b88","request":{request},{}"#,
            &more[1..]
        )
    };
    let transform = json!({
        "decisions": [{
            "kind": "context_compression", "summary": "1 message shortened", "applied": true,
        }],
        "estimatedTokensSaved": 120, "estimatedSavingsUsd": 0.00018,
        "cacheHit": false, "cacheEligible": false, "suppressedKinds": [],
    });
    let cached: Value = serde_json::from_str(&answer().0).unwrap_or_default();
    let hit = json!({
        "decisions": [], "cacheHit": true, "cacheEligible": true,
        "cacheKey": "sha256:7d1f0f6c", "cachedResponse": cached,
    });
    (text(&transformed, transform), text(&original, hit))
}

/// The optimizer's answer to `/v1/optimize-response`.
pub fn optimized_response() -> String {
    let (_, transformed) = answer();
    format!(
        r#"{{"protocolVersion":1,"response":{transformed},"decisions":[{{"kind":"response_cleanup","summary":"shortened","applied":true}}]}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_size_and_lose_half_a_message() {
        for (size, stream) in SIZES.iter().flat_map(|&size| [(size, false), (size, true)]) {
            let (original, transformed) = request(size, stream);
            assert_eq!(original.len(), size);
            assert!(transformed.len() < size);
            let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            let (before, after) = (parse(&original), parse(&transformed));
            let changed = before["messages"].as_array().unwrap().iter();
            let after_messages = after["messages"].as_array().unwrap();
            assert_eq!(changed.zip(after_messages).filter(|(a, b)| a != b).count(), 1);
        }
    }
}
