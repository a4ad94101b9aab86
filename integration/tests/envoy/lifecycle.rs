//! What is put off until a call returns, local answers, the end of a stream, traps.

use integration::Answer;

use crate::probe::{TO, host, ok, post, said};

const AT_END: [(&str, &str); 3] = [
    (
        "log",
        "(call $say 'log') (call $note 'read' (call $header_status (i32.const 0) ':path'))
         (call $note 'write' (call $set_header (i32.const 0) 'a' 'b'))",
    ),
    ("done", "(call $say 'done') (i32.const 1)"),
    ("delete", "(call $say 'delete')"),
];

#[test]
fn a_stream_ends_with_log_done_delete() {
    let mut host = host(&AT_END);
    let call = host.request(post(None), true);
    host.response(call, ok(Some(2)), false);
    host.response_body(call, "o", false);
    assert!(said(&host).is_empty());
    host.response_body(call, "k", true);
    assert_eq!(said(&host), ["log", "done", "delete"]);
    assert_eq!(host.metrics().samples("read"), [0], "the log reads headers that have gone");
    assert_eq!(host.metrics().samples("write"), [2]);

    let left = host.request(post(None), false);
    host.client_gone(left);
    assert_eq!(said(&host)[3..], ["log", "done", "delete"]);
    assert!(host.was_cut(left) && !host.was_cut(call));
}

#[test]
fn a_context_may_linger_until_it_is_done() {
    let mut host = host(&[
        ("done", "(call $say 'done') (global.set $stream (local.get $id)) (i32.const 0)"),
        ("tick", "(drop (call $set_effective_context (global.get $stream))) (drop (call $done))"),
        ("delete", "(call $say 'delete')"),
        ("configure", "(drop (call $set_tick_period (i32.const 10))) (i32.const 1)"),
    ]);
    let call = host.request(post(None), true);
    host.response(call, ok(None), true);
    assert!(!host.is_over(call));
    host.advance(std::time::Duration::from_millis(10));
    assert!(host.is_over(call));
    assert_eq!(said(&host), ["done", "delete"]);
}

#[test]
fn resuming_and_answering_wait_for_the_call_to_return() {
    let ask = format!("(drop (call $call_out 'optimizer' {TO} 'ask')) (i32.const 1)");
    let mut host = host(&[
        ("request_headers", &ask),
        (
            "http_call_response",
            "(drop (call $set_effective_context (i32.const 2)))
             (call $note 'first' (call $reply (i32.const 500) [] ''))
             (call $note 'second' (call $reply (i32.const 200) [content-type=application/json] '{}'))
             (call $say 'returns')",
        ),
        (
            "response_headers",
            "(call $say 'response')
             (drop (call $get_property 'response\\0code_details' (i32.const 8) (i32.const 12))) (call $say_it)
             (drop (call $set_header (i32.const 2) 'x-seen' 'yes')) (i32.const 0)",
        ),
    ]);
    let call = host.request(post(None), true);
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(said(&host), ["returns", "response", ""], "not via_upstream");
    assert_eq!(host.metrics().samples("first"), [0]);
    assert_eq!(host.metrics().samples("second"), [0], "the last answer is the one");
    assert_eq!(host.client(call).status(), Some(200));
    assert_eq!(host.client(call).header("x-seen"), Some("yes"));
    assert_eq!(host.client(call).header("content-type"), Some("application/json"));
    assert_eq!(host.client(call).header("content-length"), Some("2"));
    assert!(host.upstream(call).headers.is_none());
}

#[test]
fn a_local_answer_is_text_unless_said_otherwise() {
    let reply = "(drop (call $reply (i32.const 403) [] 'no')) (i32.const 1)";
    let mut host = host(&[("request_headers", reply)]);
    let call = host.request(post(None), false);
    assert_eq!(host.client(call).status(), Some(403));
    assert_eq!(host.client(call).header("content-type"), Some("text/plain"));
    host.request_body(call, "ignored", true);
    assert!(host.upstream(call).headers.is_none());
}

#[test]
fn an_upstream_that_fails_is_answered_for() {
    let details = "(drop (call $get_property 'response\\0code_details' (i32.const 8) (i32.const 12))) (call $say_it) (i32.const 0)";
    let mut host = host(&[("response_headers", details)]);
    let before = host.request(post(None), true);
    host.upstream_reset(before);
    assert_eq!(host.client(before).status(), Some(503));
    assert!(said(&host)[0].starts_with("upstream_reset_before_response_started"));

    let after = host.request(post(None), true);
    host.response(after, ok(None), false);
    host.upstream_reset(after);
    assert!(host.was_cut(after));
}

#[test]
fn after_a_trap_every_request_is_a_503() {
    let trap = "(if (i32.gt_u (local.get $count) (i32.const 3)) (then unreachable)) (i32.const 0)";
    let mut host = host(&[("request_headers", trap)]);
    let live = host.request(post(None), true);
    let dies = host.request(post(Some(1)), false);
    assert!(host.trap().unwrap().starts_with("proxy_on_request_headers: "));
    assert_eq!(host.client(dies).status(), Some(503));
    let later = host.request(post(None), true);
    assert_eq!(host.client(later).status(), Some(503));
    host.response(live, ok(None), true);
    assert_eq!(host.client(live).status(), Some(503), "live streams are cut");
}

#[test]
fn a_trap_in_the_answer_to_a_callout_leaves_the_request_hanging() {
    let ask = format!("(drop (call $call_out 'optimizer' {TO} 'ask')) (i32.const 1)");
    let mut host = host(&[("request_headers", &ask), ("http_call_response", "unreachable")]);
    let call = host.request(post(None), true);
    host.answer(1, Answer::json(200, "{}"));
    assert!(host.trap().is_some());
    assert!(host.client(call).headers.is_none() && host.upstream(call).headers.is_none());
}
