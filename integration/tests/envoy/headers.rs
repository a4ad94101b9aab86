//! Holding headers, with and without `allow_on_headers_stop_iteration`.

use integration::Answer;

use crate::probe::{builder, host, ok, post, said};

const ASK: &str =
    "(drop (call $call_out 'optimizer' [:method=POST;:path=/x;:authority=o] 'ask')) (i32.const 1)";
const RESUME: &str = "(call $note 'status' (call $set_header (i32.const 0) 'x-added' 'yes')) (drop (call $continue (i32.const 0)))";
/// For answers to callouts: they arrive on the root context.
const ON_STREAM: &str = "(drop (call $set_effective_context (i32.const 2)))";

#[test]
fn without_the_field_a_pause_at_headers_blocks_the_body_callback() {
    let answered = format!("{ON_STREAM} {RESUME}");
    let callbacks = [
        ("request_headers", ASK),
        ("request_body", "(call $say_body (i32.const 0)) (i32.const 0)"),
        ("http_call_response", &*answered),
    ];
    let mut host = builder(&callbacks).allow_on_headers_stop_iteration(false).start().unwrap();
    let call = host.request(post(None), false);
    host.request_body(call, "one ", false);
    host.request_body(call, "two", true);
    assert!(said(&host).is_empty(), "the body callback ran: {:?}", said(&host));
    assert!(host.upstream(call).headers.is_none());
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(host.metrics().samples("status"), [0]);
    assert_eq!(said(&host), ["one two"], "what was held is shown as a whole on resuming");
    assert_eq!(host.upstream(call).header("x-added"), Some("yes"));
    assert_eq!(host.upstream(call).text(), "one two");
    assert!(host.upstream(call).complete);
}

#[test]
fn with_the_field_bodies_come_while_headers_are_held() {
    let answered = format!("{ON_STREAM} {RESUME}");
    let mut host = host(&[
        ("request_headers", "(i32.const 1)"),
        (
            "request_body",
            "(call $say_body (i32.const 0)) (call $note 'size' (local.get $size)) (call $note 'end' (local.get $end))
             (if (local.get $end) (then (drop (call $call_out 'optimizer' [:method=POST;:path=/x;:authority=o] 'ask'))))
             (i32.const 1)",
        ),
        ("http_call_response", &answered),
    ]);
    let call = host.request(post(None), false);
    host.request_body(call, "one ", false);
    host.request_body(call, "two", true);
    assert_eq!(said(&host), ["one ", "one two"], "the callback sees everything buffered so far");
    assert_eq!(host.metrics().samples("size"), [4, 7]);
    assert_eq!(host.metrics().samples("end"), [0, 1]);
    assert!(host.upstream(call).headers.is_none(), "the upstream is not contacted before");
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(host.metrics().samples("status"), [0], "headers can still be changed");
    assert_eq!(host.upstream(call).header("x-added"), Some("yes"));
    assert_eq!(host.upstream(call).text(), "one two");
}

#[test]
fn a_body_callback_that_continues_overruns_the_callout() {
    let mut host = host(&[("request_headers", ASK), ("request_body", "(i32.const 0)")]);
    let call = host.request(post(Some(3)), false);
    assert!(host.upstream(call).headers.is_none());
    host.request_body(call, "abc", true);
    assert_eq!(host.pending_one().body, b"ask");
    assert!(host.upstream(call).complete, "the request went on without the answer");
}

#[test]
fn headers_that_went_are_out_of_reach() {
    let answered = format!("{ON_STREAM} {RESUME}");
    let mut host = host(&[
        ("request_headers", "(i32.const 0)"),
        ("request_body", ASK),
        ("http_call_response", &answered),
    ]);
    let call = host.request(post(Some(3)), false);
    assert!(host.upstream(call).headers.is_some(), "the upstream gets the headers at once");
    host.request_body(call, "abc", true);
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(host.metrics().samples("status"), [2]);
    assert_eq!(host.upstream(call).header("x-added"), None);
    assert_eq!(host.upstream(call).text(), "abc");
}

#[test]
fn resuming_takes_the_request_out_of_reach_at_once() {
    let callout = format!(
        "{ON_STREAM} (drop (call $continue (i32.const 0))) {RESUME} (call $say 'returned')"
    );
    let mut host = host(&[("request_headers", ASK), ("http_call_response", &callout)]);
    let call = host.request(post(None), true);
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(host.metrics().samples("status"), [2]);
    assert!(host.upstream(call).complete, "a request without a body goes on with its headers");
}

#[test]
fn a_short_circuit_after_the_headers_went_cuts_the_upstream_off() {
    let callout = format!("{ON_STREAM} (drop (call $reply (i32.const 200) [] 'cached'))");
    let mut host = host(&[
        ("request_headers", "(i32.const 0)"),
        ("request_body", ASK),
        ("http_call_response", &callout),
    ]);
    let call = host.request(post(Some(3)), false);
    host.request_body(call, "abc", true);
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(host.client(call).text(), "cached");
    assert!(host.upstream(call).headers.is_some());
    assert!(!host.upstream(call).complete);
}

#[test]
fn the_response_is_held_the_same_way() {
    let answered = format!(
        "{ON_STREAM} (call $note 'status' (call $set_header (i32.const 2) 'x-added' 'yes')) (drop (call $continue (i32.const 1)))"
    );
    let callbacks = [
        ("response_headers", "(i32.const 1)"),
        ("response_body", ASK),
        ("http_call_response", &*answered),
    ];
    let mut open = host(&callbacks);
    let call = open.request(post(None), true);
    open.response(call, ok(Some(4)), false);
    open.response_body(call, "body", true);
    assert!(open.client(call).headers.is_none());
    open.answer(1, Answer::json(200, "{}"));
    assert_eq!(open.client(call).header("x-added"), Some("yes"));
    assert_eq!(open.client(call).text(), "body");

    let mut closed = builder(&callbacks).allow_on_headers_stop_iteration(false).start().unwrap();
    let call = closed.request(post(None), true);
    closed.response(call, ok(Some(4)), false);
    closed.response_body(call, "body", true);
    assert!(closed.callouts().is_empty(), "the body callback never ran");
}

#[test]
fn with_trailers_the_end_is_never_seen_in_the_body_callback() {
    let mut host = host(&[
        ("request_headers", "(i32.const 1)"),
        ("request_body", "(call $note 'end' (local.get $end)) (i32.const 1)"),
        ("request_trailers", "(call $say 'trailers') (call $say_body (i32.const 0)) (i32.const 0)"),
    ]);
    let call = host.request(post(None), false);
    host.request_body(call, "abc", false);
    host.request_trailers(call, [("x-t", "1")]);
    assert_eq!(host.metrics().samples("end"), [0]);
    assert_eq!(said(&host), ["trailers", "abc"]);
    assert_eq!(host.upstream(call).text(), "abc");
    assert_eq!(host.upstream(call).trailers.as_ref().unwrap().get("x-t"), Some("1"));
}

#[test]
fn replacing_a_header_that_came_twice_leaves_one() {
    let set = "(drop (call $set_header (i32.const 0) 'x-two' 'new')) (i32.const 0)";
    let mut host = host(&[("request_headers", set)]);
    let mut headers = post(None);
    headers.add("x-two", b"1");
    headers.add("x-two", b"2");
    let call = host.request(headers, true);
    assert_eq!(host.upstream(call).headers.as_ref().unwrap().all("x-two"), ["new"]);
}

#[test]
#[should_panic(expected = "header injected: the upstream got x-a")]
fn control_characters_in_values_fail_the_test() {
    let set = "(drop (call $set_header (i32.const 0) 'x-a' 'b\\rset-cookie: c')) (i32.const 0)";
    host(&[("request_headers", set)]).request(post(None), true);
}
