//! Buffering, its limits, and the content-length rule.

use integration::Answer;

use crate::probe::{builder, host, ok, post, said};

const HOLD: &str = "(i32.const 1)";

#[test]
fn one_byte_over_the_limit_is_a_413() {
    let callbacks = [
        ("request_headers", HOLD),
        ("request_body", "(call $note 'size' (local.get $size)) (i32.const 1)"),
        ("response_headers", "(call $say 'response') (i32.const 0)"),
    ];
    let mut host = builder(&callbacks).buffer_limit(8).start().unwrap();
    let fits = host.request(post(None), false);
    host.request_body(fits, "12345678", false);
    assert!(host.client(fits).headers.is_none());

    let at_once = host.request(post(None), false);
    host.request_body(at_once, "123456789", false);
    assert_eq!(host.client(at_once).status(), Some(413));
    assert_eq!(host.metrics().samples("size"), [8, 9], "the callback saw the piece first");

    let later = host.request(post(None), false);
    host.request_body(later, "12345678", false);
    host.request_body(later, "9", false);
    assert_eq!(host.client(later).status(), Some(413));
    assert_eq!(host.metrics().samples("size"), [8, 9, 8], "the callback did not see what was over");
    assert_eq!(said(&host), ["response", "response"], "the module sees the local answers");
    assert!(host.is_over(later));
}

#[test]
fn an_answer_over_the_limit_is_a_500_or_is_cut() {
    let held = [("response_headers", HOLD), ("response_body", HOLD)];
    let mut host = builder(&held).buffer_limit(8).start().unwrap();
    let call = host.request(post(None), true);
    host.response(call, ok(None), false);
    host.response_body(call, "123456789", false);
    assert_eq!(host.client(call).status(), Some(500));

    let gone = [("response_headers", "(i32.const 0)"), ("response_body", HOLD)];
    let mut host = builder(&gone).buffer_limit(8).start().unwrap();
    let call = host.request(post(None), true);
    host.response(call, ok(None), false);
    host.response_body(call, "123456789", false);
    assert_eq!(host.client(call).status(), Some(200));
    assert!(host.was_cut(call) && !host.client(call).complete);
}

#[test]
fn passing_through_knows_no_limit_and_keeps_the_pieces() {
    let mut host = builder(&[("request_body", "(i32.const 0)")]).buffer_limit(8).start().unwrap();
    let call = host.request(post(Some(20)), false);
    host.request_body(call, "0123456789", false);
    host.request_body(call, "0123456789", true);
    assert_eq!(host.upstream(call).chunks.len(), 2);
    assert!(host.upstream(call).complete);
}

#[test]
fn a_body_set_over_the_limit_re_enters_the_module() {
    let callbacks = [
        ("request_headers", HOLD),
        (
            "request_body",
            "(drop (call $call_out 'optimizer' [:method=POST;:path=/x;:authority=o] 'ask')) (i32.const 1)",
        ),
        (
            "http_call_response",
            "(drop (call $set_effective_context (i32.const 2))) (call $say 'before')
             (drop (call $set_body (i32.const 0) (i32.const 65536) (i32.const 9))) (call $say 'after')",
        ),
        ("response_headers", "(call $say 'response') (i32.const 0)"),
    ];
    let mut host = builder(&callbacks).buffer_limit(8).start().unwrap();
    let call = host.request(post(None), false);
    host.request_body(call, "1234", true);
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(said(&host), ["before", "response", "after"]);
    assert_eq!(host.client(call).status(), Some(413));
    assert!(host.upstream(call).headers.is_none());
}

#[test]
fn an_answer_set_over_the_limit_ends_the_stream_under_the_module() {
    let callbacks = [
        ("response_headers", HOLD),
        (
            "response_body",
            "(drop (call $call_out 'optimizer' [:method=POST;:path=/x;:authority=o] 'ask')) (i32.const 1)",
        ),
        (
            "http_call_response",
            "(drop (call $set_effective_context (i32.const 2))) (call $say 'before')
             (drop (call $set_body (i32.const 1) (i32.const 65536) (i32.const 9))) (call $say 'after')",
        ),
        ("log", "(call $say 'log')"),
    ];
    let mut host = builder(&callbacks).buffer_limit(8).start().unwrap();
    let call = host.request(post(None), true);
    host.response(call, ok(None), false);
    host.response_body(call, "1234", true);
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(said(&host), ["before", "log", "after"]);
    assert_eq!(host.client(call).status(), Some(500));
}

#[test]
fn a_body_can_be_replaced_put_before_and_added_to() {
    for (edit, expected) in [
        ("(call $set_body (i32.const 0) 'new')", "new"),
        ("(call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) '>')", ">old"),
        ("(call $set_buffer (i32.const 0) (i32.const 3) (i32.const 0) '<')", "old<"),
    ] {
        let body = format!("(call $note 'status' {edit}) (i32.const 0)");
        let mut host = host(&[("request_body", &body)]);
        let call = host.request(post(None), false);
        host.request_body(call, "old", true);
        assert_eq!(host.metrics().samples("status"), [0]);
        assert_eq!(host.upstream(call).text(), expected);
    }
    let middle = "(call $note 'status' (call $set_buffer (i32.const 0) (i32.const 1) (i32.const 1) 'x')) (i32.const 0)";
    let mut host = host(&[("request_body", middle)]);
    let call = host.request(post(None), false);
    host.request_body(call, "old", true);
    assert_eq!(host.metrics().samples("status"), [2], "not in the middle");
}

fn replaced_request(by: &str, length: Option<usize>) {
    let body = format!("(drop (call $set_body (i32.const 0) '{by}')) (i32.const 0)");
    let mut host = host(&[("request_body", &body)]);
    let call = host.request(post(length), false);
    host.request_body(call, "1234", true);
    assert_eq!(host.upstream(call).text(), by);
}

#[test]
fn without_a_content_length_any_body_will_do() {
    replaced_request("longer than it was", None);
    replaced_request("same", Some(4));
}

#[test]
#[should_panic(expected = "the upstream was promised 4 bytes and got 6")]
fn a_longer_request_than_promised_fails_the_test() {
    replaced_request("longer", Some(4));
}

#[test]
#[should_panic(expected = "the upstream was promised 4 bytes and got 2")]
fn a_shorter_request_than_promised_fails_the_test() {
    replaced_request("no", Some(4));
}

#[test]
#[should_panic(expected = "the client was promised 4 bytes and got 6")]
fn a_longer_answer_than_promised_fails_the_test() {
    let body = "(drop (call $set_body (i32.const 1) 'longer')) (i32.const 0)";
    let mut host = host(&[("response_body", body)]);
    let call = host.request(post(None), true);
    host.response(call, ok(Some(4)), false);
    host.response_body(call, "1234", true);
}
