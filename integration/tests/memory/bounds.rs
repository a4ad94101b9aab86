//! What one exchange needs, and what many need at once.

use integration::{Answer, Host};
use serde_json::{Value, json};

use crate::calls::{
    PAGE, advice, answer, answer_one, check, host, provide, request, review, send, send_to, settle,
    stream,
};

const MIB: usize = 1 << 20;

/// How many bytes of linear memory a call needs beyond those of a small one; `bodies` are its own.
fn needs(config: Value, call: impl Fn(&mut Host, usize), size: usize) -> usize {
    let mut host = host(config);
    for _ in 0..3 {
        call(&mut host, 1000);
        settle(&mut host);
    }
    let before = host.memory_size();
    call(&mut host, size);
    settle(&mut host);
    check(&host);
    host.memory_size() - before
}

fn assert_within(name: &str, needed: usize, bodies: usize) {
    let most = 3 * bodies + PAGE;
    assert!(needed <= most, "{name}: {needed} bytes for bodies of {bodies}, {most} at most");
}

#[test]
fn a_transformed_request() {
    let call = |host: &mut Host, size| {
        let body = request(size, "");
        let stream = send(host, &body);
        answer_one(host, advice(&body.replace('x', "X")));
        assert!(host.upstream(stream).text().contains("XX"));
        provide(host, stream, "application/json", &answer(200), true);
        answer_one(host, Answer::Refused);
    };
    for size in [64 * 1024, MIB, 8 * MIB] {
        assert_within("request", needs(json!({}), call, size), size);
    }
}

#[test]
fn a_transformed_answer() {
    let call = |host: &mut Host, size| {
        let body = request(200, "");
        let stream = send(host, &body);
        answer_one(host, advice(&body));
        let body = answer(size);
        provide(host, stream, "application/json", &body, true);
        answer_one(host, review(&body.replace('y', "Y")));
        assert!(host.client(stream).text().contains("YY"));
    };
    for size in [64 * 1024, MIB, 8 * MIB] {
        assert_within("answer", needs(json!({}), call, size), size);
    }
}

#[test]
fn both_with_a_record() {
    let call = |host: &mut Host, size| {
        let body = request(size, "");
        let stream = send(host, &body);
        answer_one(host, advice(&body.replace('x', "X")));
        let body = answer(size);
        provide(host, stream, "application/json", &body, true);
        answer_one(host, review(&body.replace('y', "Y")));
    };
    let config = json!({"hooks": {"record": true}, "record": {"content": true}});
    for size in [64 * 1024, MIB, 4 * MIB] {
        assert_within("both", needs(config.clone(), call, size), 2 * size);
    }
}

#[test]
fn a_stream_that_is_read_along() {
    let call = |host: &mut Host, size| {
        let body = request(200, r#","stream":true"#);
        let id = send(host, &body);
        answer_one(host, advice(&body));
        provide(host, id, "text/event-stream", &stream(size), true);
    };
    for size in [64 * 1024, MIB, 8 * MIB] {
        assert_within("stream", needs(json!({}), call, size), size);
    }
}

#[test]
fn a_stream_of_many_members() {
    let call = |host: &mut Host, size| {
        let body = request(200, r#","stream":true"#);
        let id = send(host, &body);
        answer_one(host, advice(&body));
        provide(host, id, "text/event-stream", &stream_of_members(size), false);
    };
    for size in [MIB, 8 * MIB] {
        assert_within("members", needs(json!({}), call, size), size);
    }
}

/// A stream of about so many bytes whose deltas grow objects of the smallest members.
fn stream_of_members(size: usize) -> String {
    let members = |value: &str| {
        let all: Vec<_> = (0..250).map(|name| format!("\"{name:x}\":{value}")).collect();
        format!("{{{}}}", all.join(","))
    };
    let (grown, opened) = (members(&members("0")), members("{}"));
    let mut stream = String::new();
    for index in 0.. {
        for delta in [&grown, &opened] {
            let choice = format!("{{\"index\":{index},\"delta\":{delta}}}");
            stream.push_str(&format!("data: {{\"choices\":[{choice}]}}\n\n"));
        }
        if stream.len() >= size {
            break;
        }
    }
    stream
}

#[test]
fn a_stream_that_is_held() {
    let call = |host: &mut Host, size| {
        let body = request(200, r#","stream":true"#);
        let id = send(host, &body);
        answer_one(host, advice(&body));
        provide(host, id, "text/event-stream", &stream(size), true);
        answer_one(host, review(r#"{"id":"d"}"#));
    };
    let config = json!({"hooks": {"stream_response": true}});
    for size in [64 * 1024, MIB, 8 * MIB] {
        assert_within("held stream", needs(config.clone(), call, size), size);
    }
}

#[test]
fn an_answer_that_is_read_along() {
    let call = |host: &mut Host, size| {
        let body = request(200, "");
        let id = send(host, &body);
        answer_one(host, advice(&body));
        provide(host, id, "application/json", &answer(size), true);
    };
    let config = json!({"hooks": {"response": false}});
    for size in [64 * 1024, MIB, 8 * MIB] {
        assert_within("copy", needs(config.clone(), call, size), size);
    }
}

#[test]
fn a_hit_that_is_replayed() {
    let call = |host: &mut Host, size| {
        let id = send(host, &request(200, r#","stream":true"#));
        let hit = answer(size);
        let hit = format!(r#"{{"cacheHit":true,"cachedResponse":{hit},"request":{{}}}}"#);
        answer_one(host, Answer::json(200, hit));
        assert!(host.client(id).text().ends_with("data: [DONE]\n\n"));
    };
    let config = json!({"cache": {"serve": "anyone"}});
    for size in [64 * 1024, MIB, 8 * MIB] {
        assert_within("hit", needs(config.clone(), call, size), size);
    }
}

#[test]
fn a_stream_of_a_few_large_events_that_is_held() {
    for (path, events) in [
        ("/v1/chat/completions", chat_in_events as fn(usize, usize) -> String),
        ("/v1/messages", message_in_events),
    ] {
        let call = |host: &mut Host, size: usize| {
            let body = r#"{"model":"m","max_tokens":9,"stream":true,"messages":[{}]}"#;
            let id = send_to(host, path, body);
            answer_one(host, advice(body));
            provide(host, id, "text/event-stream", &events(size, 4), true);
            answer_one(host, review(r#"{"id":"d"}"#));
            assert!(host.client(id).text().contains("\"d\""));
        };
        let config = json!({"hooks": {"stream_response": true}});
        for size in [64 * 1024, MIB, 8 * MIB] {
            assert_within(path, needs(config.clone(), call, size), size);
        }
    }
}

/// A streamed answer of about so many bytes, its text in so many events.
fn chat_in_events(size: usize, count: usize) -> String {
    let text = "z".repeat(size / count);
    let event = |delta: &str, end: &str| {
        format!(
            "data: {{\"id\":\"c\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":{end}}}]}}\n\n"
        )
    };
    let texts = event(&format!("\"content\":\"{text}\""), "null").repeat(count);
    [&texts, &event("", "\"stop\""), "data: [DONE]\n\n"].concat()
}

/// The same as a streamed message.
fn message_in_events(size: usize, count: usize) -> String {
    let text = "z".repeat(size / count);
    let delta = format!(
        "data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    );
    let start = r#"data: {"type":"message_start","message":{"type":"message","id":"m","role":"assistant","model":"m","content":[],"usage":{"input_tokens":1,"output_tokens":1}}}

data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

"#;
    let end = r#"data: {"type":"content_block_stop","index":0}

data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}

data: {"type":"message_stop"}

"#;
    [start, &delta.repeat(count), end].concat()
}

#[test]
fn a_message_that_is_replayed() {
    let call = |host: &mut Host, size| {
        let body = r#"{"model":"m","max_tokens":9,"stream":true,"messages":[{}]}"#;
        let id = send_to(host, "/v1/messages", body);
        let text = "y".repeat(size);
        let hit = format!(
            r#"{{"type":"message","id":"m","role":"assistant","model":"m","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","usage":{{"input_tokens":1,"output_tokens":1}}}}"#
        );
        let hit = format!(r#"{{"cacheHit":true,"cachedResponse":{hit},"request":{{}}}}"#);
        answer_one(host, Answer::json(200, hit));
        assert!(host.client(id).text().contains("message_stop"));
    };
    let config = json!({"cache": {"serve": "anyone"}});
    for size in [64 * 1024, MIB, 8 * MIB] {
        assert_within("message", needs(config.clone(), call, size), size);
    }
}

/// How much a VM may need beyond `limits.total_bytes` with a thousand calls in it.
const CONSTANT: usize = 8 * MIB;

#[test]
fn a_thousand_calls_that_wait_for_the_optimizer() {
    let mut host = host(json!({"limits": {"total_bytes": 64 * MIB}}));
    let body = request(100 * 1024, "");
    for _ in 0..1000 {
        send(&mut host, &body);
    }
    check(&host);
    assert!(host.pending().len() > 500);
    assert!(host.memory_size() <= CONSTANT, "bodies wait with the host: {}", host.memory_size());
    while !host.pending().is_empty() {
        answer_one(&mut host, advice(&body));
    }
    // They are kept now, for the answers.
    assert!(host.memory_size() <= 64 * MIB + CONSTANT, "{}", host.memory_size());
}

#[test]
fn a_thousand_answers_in_the_middle() {
    let mut host = host(json!({"limits": {"total_bytes": 64 * MIB}}));
    let plain = request(50 * 1024, "");
    let streamed = request(50 * 1024, r#","stream":true"#);
    for n in 0..1000 {
        let body = if n % 2 == 0 { &plain } else { &streamed };
        let waiting = host.pending().len();
        let id = send(&mut host, body);
        // Beyond the limit nobody is asked.
        if host.pending().len() > waiting {
            answer_one(&mut host, advice(body));
        }
        if n % 2 == 0 {
            provide(&mut host, id, "application/json", &answer(100 * 1024), true);
        } else {
            provide(&mut host, id, "text/event-stream", &stream(100 * 1024), false);
        }
    }
    check(&host);
    assert!(host.memory_size() <= 64 * MIB + CONSTANT, "{}", host.memory_size());
}

#[test]
fn a_thousand_hits_that_the_clients_are_slow_to_read() {
    let mut host = host(json!({
        "limits": {"total_bytes": 64 * MIB},
        "cache": {"serve": "anyone"},
        "hooks": {"record": true},
        "record": {"content": true},
    }));
    let hit = answer(100 * 1024);
    let hit = format!(r#"{{"cacheHit":true,"cachedResponse":{hit},"request":{{}}}}"#);
    for _ in 0..1000 {
        send(&mut host, &request(10 * 1024, ""));
        answer_one(&mut host, Answer::json(200, hit.clone()));
    }
    assert!(host.memory_size() <= 64 * MIB + CONSTANT, "{}", host.memory_size());
}
