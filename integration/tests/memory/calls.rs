//! Calls with bodies of any size, and hosts for them.

use std::time::Duration;

use integration::{Answer, Headers, Host, StreamId};
use serde_json::Value;

/// 64 KiB, the unit in which linear memory grows.
pub const PAGE: usize = 64 * 1024;

/// An Envoy with buffers of 32 MiB and this configuration beside the optimizer.
pub fn host(mut config: Value) -> Host {
    config["optimizer"] = serde_json::json!({"upstream": "optimizer"});
    config["limits"]["host_buffer_bytes"] = (32 << 20).into();
    let host = Host::builder().config(config.to_string()).cluster("optimizer");
    let host = host.property("xds.cluster_name", "llm").buffer_limit(32 << 20);
    host.start().unwrap()
}

/// A request of so many bytes.
pub fn request(size: usize, members: &str) -> String {
    let bare = format!(r#"{{"model":"m","messages":[{{"role":"user","content":""}}]{members}}}"#);
    let text = "x".repeat(size.saturating_sub(bare.len()));
    bare.replace(r#""content":"""#, &format!(r#""content":"{text}""#))
}

/// An answer of so many bytes.
pub fn answer(size: usize) -> String {
    let bare = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#;
    let text = "y".repeat(size.saturating_sub(bare.len()));
    bare.replace(r#""content":"""#, &format!(r#""content":"{text}""#))
}

/// A streamed answer of about so many bytes.
pub fn stream(size: usize) -> String {
    let event = |delta: &str, end: &str| {
        format!(
            "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":{end}}}]}}\n\n"
        )
    };
    let piece = event(&format!("\"content\":\"{}\"", "z".repeat(100)), "null");
    let pieces = piece.repeat(size / piece.len() + 1);
    [&event("\"role\":\"assistant\"", "null"), &pieces, &event("", "\"stop\""), "data: [DONE]\n\n"]
        .concat()
}

/// What the optimizer says to `/v1/optimize` for this request.
pub fn advice(request: &str) -> Answer {
    Answer::json(200, format!(r#"{{"request":{request},"cacheEligible":true,"cacheKey":"k"}}"#))
}

/// What it says to `/v1/optimize-response`.
pub fn review(response: &str) -> Answer {
    Answer::json(200, format!(r#"{{"response":{response},"decisions":[{{"kind":"k"}}]}}"#))
}

/// Sends a chat request, in pieces as they come from a network.
pub fn send(host: &mut Host, body: &str) -> StreamId {
    send_to(host, "/v1/chat/completions", body)
}

/// Sends a request to `path`.
pub fn send_to(host: &mut Host, path: &str, body: &str) -> StreamId {
    let headers = [
        (":method", "POST"),
        (":path", path),
        (":authority", "llm.example"),
        ("content-type", "application/json"),
        ("authorization", "Bearer key"),
    ];
    let mut headers = Headers::from(headers);
    headers.add("content-length", body.len().to_string().as_bytes());
    let stream = host.request(headers, false);
    for piece in body.as_bytes().chunks(PAGE) {
        host.request_body(stream, piece, false);
    }
    host.request_body(stream, "", true);
    stream
}

/// The provider answers.
pub fn provide(host: &mut Host, stream: StreamId, content_type: &str, body: &str, whole: bool) {
    let mut headers = Headers::from([(":status", "200"), ("content-type", content_type)]);
    if content_type == "application/json" {
        headers.add("content-length", body.len().to_string().as_bytes());
    }
    host.response(stream, headers, false);
    for piece in body.as_bytes().chunks(PAGE) {
        host.response_body(stream, piece, false);
    }
    if whole {
        host.response_body(stream, "", true);
    }
}

/// Answers the youngest callout that waits, if one does.
pub fn answer_one(host: &mut Host, answer: Answer) {
    if let Some(id) = host.pending().last().map(|callout| callout.id) {
        host.answer(id, answer);
    }
    check(host);
}

/// Lets write-backs and records leave.
pub fn settle(host: &mut Host) {
    for _ in 0..3 {
        host.advance(Duration::from_millis(20));
        while !host.pending().is_empty() {
            answer_one(host, Answer::http(204, Headers::default(), ""));
        }
    }
}

/// Fails where the module is dead.
pub fn check(host: &Host) {
    assert_eq!(host.trap(), None, "{:#?}", host.logs());
}
