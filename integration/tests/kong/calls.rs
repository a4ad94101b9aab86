//! What a call looks like from inside, and what the module makes of it.

use std::time::Duration;

use integration::{Answer, Headers, Host, Lua, StreamId};

use crate::probe::{TO, ok, post, said};
use crate::{builder, host};

const OPTIMIZER: &str = "optimizer:8088";
const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"c"}]}"#;
const TRANSFORM: &str = r#"{"request":{"max_tokens":3}}"#;

/// The module, with further members of its configuration.
fn module(more: &str, lua: Option<Lua>) -> Host {
    let config = format!(r#"{{"optimizer":{{"upstream":"{OPTIMIZER}"}}{more}}}"#);
    Host::kong().config(config).lua(lua).cluster(OPTIMIZER).start().unwrap()
}

fn chat() -> Headers {
    let mut headers = Headers::from([
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        (":authority", "llm:80"),
        ("host", "llm"),
        ("content-type", "application/json"),
    ]);
    headers.add("content-length", BODY.len().to_string().as_bytes());
    headers
}

/// Sends a chat request in two segments.
fn send(host: &mut Host) -> StreamId {
    let call = host.request(chat(), false);
    let (left, right) = BODY.split_at(20);
    host.request_body(call, left, false);
    host.request_body(call, right, true);
    call
}

fn count(host: &Host, name: &str) -> u64 {
    host.metrics().value(name)
}

fn bypassed(host: &Host, reason: &str) -> u64 {
    count(host, &format!("optimizer_exchanges.outcome.bypassed.reason.{reason}"))
}

#[test]
fn a_body_comes_as_a_whole_once_and_after_the_headers() {
    let show = "(call $say_body (i32.const 0)) (call $note 'end' (local.get $end)) (i32.const 0)";
    let mut host = host(&[
        (
            "request_headers",
            "(call $say 'headers') (call $note 'told' (local.get $end)) (i32.const 0)",
        ),
        ("request_body", show),
    ]);
    let call = host.request(post(Some(4)), false);
    host.request_body(call, "ab", false);
    assert!(host.upstream(call).headers.is_none());
    host.request_body(call, "cd", true);
    assert_eq!(said(&host), ["headers", "abcd"]);
    assert_eq!(host.metrics().samples("end"), [1]);
    let bodiless = host.request(post(None), true);
    assert!(host.upstream(bodiless).complete, "no callback without a body");
    assert_eq!(host.metrics().samples("told"), [0, 0], "the headers never tell the end");
}

#[test]
fn the_end_of_an_answer_is_told_of_answers_without_a_length_or_in_one_piece() {
    let mut host = host(&[("response_body", "(call $note 'end' (local.get $end)) (i32.const 0)")]);
    let answer = |host: &mut Host, length, pieces: &[&str]| {
        let call = host.request(post(None), true);
        host.response(call, ok(length), false);
        for (index, piece) in pieces.iter().enumerate() {
            host.response_body(call, piece, index + 1 == pieces.len());
        }
    };
    answer(&mut host, Some(4), &["ab", "cd", ""]);
    answer(&mut host, Some(4), &["abcd"]);
    answer(&mut host, None, &["ab", ""]);
    assert_eq!(host.metrics().samples("end"), [0, 0, 1, 0, 1]);
}

#[test]
fn a_callout_s_failure_has_no_headers_but_says_how() {
    let ask = format!("(drop (call $call_out '{OPTIMIZER}' {TO} '')) (i32.const 1)");
    let told = "(call $note 'headers' (local.get $headers)) (call $note 'size' (local.get $size))
        (call $note 'status' (call $header_status (i32.const 6) ':status'))
        (drop (call $header_status (i32.const 6) ':dispatch_status')) (call $say_it)";
    let mut host = host(&[("request_headers", &ask), ("http_call_response", told)]);
    for answer in [Answer::json(503, "{}"), Answer::Refused, Answer::Timeout] {
        host.request(post(None), true);
        let callout = host.pending_one().id;
        host.answer(callout, answer);
    }
    assert_eq!(said(&host), ["ok", "broken connection", "timeout"]);
    assert_eq!(host.metrics().samples("size"), [2, 0, 0]);
    assert_eq!(host.metrics().samples("status"), [0, 1, 1]);
}

#[test]
fn a_hundred_headers_are_shown_and_the_true_number_told() {
    let count = "(call $note 'count' (local.get $count))
        (call $note 'last' (call $header_status (i32.const 0) 'x-149')) (i32.const 0)";
    let mut host = builder(&[("request_headers", count)]).start().unwrap();
    let mut headers = post(None);
    for n in 0..150 {
        headers.add(&format!("x-{n}"), b"1");
    }
    host.request(headers, true);
    assert_eq!(host.metrics().samples("count"), [150]);
    assert_eq!(host.metrics().samples("last"), [0], "a single one is found all the same");
}

#[test]
fn a_message_with_more_headers_than_there_is_room_for_goes_on_alone() {
    let many = |mut headers: Headers| {
        for n in 0..100 {
            headers.add(&format!("x-{n}"), b"1");
        }
        headers
    };
    let mut host = module("", None);
    let call = host.request(many(chat()), false);
    host.request_body(call, BODY, true);
    assert_eq!(host.upstream(call).text(), BODY);
    assert_eq!(bypassed(&host, "request_headers_truncated"), 1);

    let mut host = module(r#","cache":{"serve":"anyone"}"#, None);
    let call = send(&mut host);
    host.answer(1, Answer::json(200, TRANSFORM));
    let answer = Headers::from([(":status", "200"), ("content-type", "application/json")]);
    host.response(call, many(answer), false);
    host.response_body(call, b"{}", true);
    assert_eq!(host.client(call).text(), "{}");
    assert_eq!(host.trap(), None);
}

#[test]
fn a_prepared_body_is_transformed() {
    let mut host = module(r#","kong":{"transform":true}"#, Some(Lua::ReadsAndSets));
    let call = send(&mut host);
    assert!(host.upstream(call).headers.is_none(), "held while the optimizer is asked");
    host.answer(1, Answer::json(200, TRANSFORM));
    let sent = host.upstream(call);
    assert!(sent.complete && sent.text().ends_with(r#","max_tokens":3}"#), "{}", sent.text());
    assert_eq!(sent.header("content-length"), Some(&*sent.body().len().to_string()));
    assert_eq!(host.trap(), None);
}

#[test]
fn a_body_that_nobody_set_anew_goes_on_unchanged_and_is_still_asked_about() {
    for lua in [None, Some(Lua::Reads)] {
        let more = r#","kong":{"transform":true},"cache":{"serve":"anyone"}"#;
        let mut host = module(more, lua);
        let call = send(&mut host);
        host.answer(1, Answer::json(200, TRANSFORM));
        assert_eq!(host.upstream(call).text(), BODY);
        assert_eq!(bypassed(&host, "transform_unprepared"), 1);
        let hit = send(&mut host);
        host.answer(2, Answer::json(200, r#"{"cacheHit":true,"cachedResponse":{"id":"c"}}"#));
        assert_eq!(host.client(hit).text(), "{\"id\":\"c\"}\n");
        assert!(host.upstream(hit).headers.is_none());
        assert_eq!(host.trap(), None);
    }
}

#[test]
fn without_the_switch_bodies_go_on_unchanged() {
    let mut host = module("", Some(Lua::ReadsAndSets));
    let call = send(&mut host);
    host.answer(1, Answer::json(200, TRANSFORM));
    assert_eq!(host.upstream(call).text(), BODY);
    assert_eq!(bypassed(&host, "transform_switched_off"), 1);

    let mut headers = chat();
    headers.add("cache-control", b"no-store");
    let call = host.request(headers, false);
    host.request_body(call, BODY, true);
    assert!(
        host.upstream(call).complete && host.pending().is_empty(),
        "nothing could come of asking"
    );
    assert_eq!(bypassed(&host, "transform_switched_off"), 2);

    let mut off = module(r#","hooks":{"cache":false}"#, Some(Lua::ReadsAndSets));
    let call = send(&mut off);
    assert!(off.upstream(call).complete && off.callouts().is_empty());
}

#[test]
fn a_body_that_went_to_a_file_is_left_alone() {
    let config =
        format!(r#"{{"optimizer":{{"upstream":"{OPTIMIZER}"}},"kong":{{"transform":true}}}}"#);
    for lua in [None, Some(Lua::ReadsAndSets)] {
        let host = Host::kong().config(&*config).lua(lua).cluster(OPTIMIZER).buffer_limit(30);
        let mut host = host.start().unwrap();
        let call = send(&mut host);
        assert_eq!(host.upstream(call).text(), BODY);
        assert!(host.callouts().is_empty());
        assert_eq!(bypassed(&host, "request_unreadable"), 1);
    }
}

#[test]
fn white_space_before_a_body_stays() {
    let mut host = module(r#","kong":{"transform":true}"#, Some(Lua::ReadsAndSets));
    let body = format!("\n\t {BODY}");
    let mut headers = chat();
    headers.replace("content-length", body.len().to_string().as_bytes());
    let call = host.request(headers, false);
    host.request_body(call, &body, true);
    host.answer(1, Answer::json(200, TRANSFORM));
    let sent = host.upstream(call).text();
    assert!(sent.starts_with("\n\t {\"model\"") && sent.ends_with("\"max_tokens\":3}"), "{sent}");
}

#[test]
fn an_answer_later_than_the_time_out_is_used_and_counts_as_a_failure() {
    let mut host =
        module(r#","kong":{"transform":true},"breaker":{"failures":2}"#, Some(Lua::ReadsAndSets));
    for _ in 0..2 {
        let call = host.request(chat(), false);
        host.request_body(call, BODY, true);
        let callout = host.pending_one().id;
        // It trickles: no step of it takes as long as the time-out, all of it together does.
        host.lets_trickle(callout, Duration::from_secs(2));
        host.advance(Duration::from_secs(2));
        host.answer(callout, Answer::json(200, TRANSFORM));
        assert!(host.upstream(call).text().contains("max_tokens"), "the client has waited for it");
    }
    assert_eq!(count(&host, "optimizer_callouts.kind.optimize.result.late"), 2);
    let call = send(&mut host);
    assert!(host.upstream(call).complete, "the breaker is open");
    assert_eq!(bypassed(&host, "breaker_open"), 1);
}

#[test]
fn an_older_runtime_that_tells_the_end_with_every_head_is_not_believed() {
    let config =
        format!(r#"{{"optimizer":{{"upstream":"{OPTIMIZER}"}},"kong":{{"transform":true}}}}"#);
    let builder = Host::kong().config(config).lua(Some(Lua::ReadsAndSets)).cluster(OPTIMIZER);
    let mut host = builder.tells_the_end_with_headers().start().unwrap();
    let call = send(&mut host);
    let asked = r#"{"request":{"max_tokens":3},"cacheEligible":true,"cacheKey":"k"}"#;
    let callout = host.pending_one().id;
    host.answer(callout, Answer::json(200, asked));
    assert!(host.upstream(call).text().ends_with(r#","max_tokens":3}"#));
    let mut head = ok(Some(14));
    head.add("content-type", b"application/json");
    host.response(call, head, false);
    host.response_body(call, r#"{"choices":[]}"#, true);
    host.advance(Duration::from_millis(20));
    let written = host.pending_one();
    assert_eq!(written.headers.get(":path"), Some("/v1/cache"));
    let body = String::from_utf8_lossy(&written.body);
    assert!(body.contains(r#""response":{"choices":[]}"#), "{body}");
}

#[test]
fn an_older_runtime_that_does_not_tell_of_a_failed_callout_goes_on() {
    let mut host = module(r#","breaker":{"failures":1}"#, Some(Lua::ReadsAndSets));
    let call = send(&mut host);
    host.forgets(1);
    assert_eq!(host.upstream(call).text(), BODY);
    host.response(call, ok(Some(2)), false);
    host.response_body(call, "{}", true);
    assert_eq!(host.trap(), None);
    assert_eq!(bypassed(&host, "optimizer_unreachable"), 1);
    let next = send(&mut host);
    assert!(host.upstream(next).complete, "the breaker hears of it");
}
