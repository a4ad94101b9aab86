//! Callouts: dispatch errors, results, time-outs, and streams that are gone.

use std::time::Duration;

use integration::{ANSWER_LIMIT, Answer, Host};

use crate::probe::{TO, host, post, said};

const SEE: &str = "(call $note 'headers' (local.get $headers)) (call $note 'size' (local.get $size))
    (call $note 'context' (local.get $id))
    (call $note 'own' (call $header_status (i32.const 6) 'x-envoy-upstream-service-time'))
    (call $note 'read' (call $header_status (i32.const 6) ':status'))
    (if (i32.eqz (call $header_status (i32.const 6) ':status')) (then (call $say_it)))
    (call $note 'buffer' (call $get_buffer (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 12)))";

fn dispatch(cluster: &str, headers: &str) -> u64 {
    let ask =
        format!("(call $note 'status' (call $call_out '{cluster}' {headers} 'x')) (i32.const 0)");
    let mut host = host(&[("request_headers", &ask)]);
    host.request(post(None), true);
    assert_eq!(host.callouts().len(), usize::from(host.metrics().samples("status") == [0]));
    host.metrics().samples("status")[0]
}

#[test]
fn dispatch_errors() {
    assert_eq!(dispatch("optimizer", TO), 0);
    assert_eq!(dispatch("unknown", TO), 2);
    assert_eq!(dispatch("optimizer", "[:method=POST;:authority=o]"), 2);
    assert_eq!(dispatch("optimizer", "[:method=POST;:path=/x]"), 2);
    assert_eq!(dispatch("dead", TO), 10);
}

fn asked() -> Host {
    let ask = format!("(drop (call $call_out 'optimizer' {TO} 'ask')) (i32.const 1)");
    let mut host = host(&[("request_headers", &ask), ("http_call_response", SEE)]);
    host.request(post(None), true);
    host
}

#[test]
fn only_real_answers_carry_the_service_time() {
    let mut host = asked();
    host.answer(1, Answer::json(500, "{}"));
    assert_eq!(said(&host), ["500"]);
    assert_eq!(host.metrics().samples("own"), [0]);
    assert_eq!(host.metrics().samples("size"), [2]);
    assert_eq!(host.metrics().samples("context"), [1], "answers arrive on the root context");

    let mut host = asked();
    host.answer(1, Answer::Refused);
    assert_eq!(said(&host), ["503"]);
    assert_eq!(host.metrics().samples("own"), [1]);
}

#[test]
fn a_callout_times_out_when_its_time_is_up() {
    let mut host = asked();
    host.advance(Duration::from_millis(799));
    assert_eq!(host.pending().len(), 1);
    host.advance(Duration::from_millis(1));
    assert!(host.pending().is_empty());
    assert_eq!(said(&host), ["504"]);
    assert_eq!(host.metrics().samples("own"), [1]);

    let mut host = asked();
    host.answer(1, Answer::Timeout);
    assert_eq!(host.now(), Duration::from_millis(800), "waiting for it moves the clock");
    assert_eq!(said(&host), ["504"]);
}

#[test]
fn a_cut_or_huge_answer_has_no_headers_at_all() {
    for answer in [Answer::Reset, Answer::json(200, vec![b' '; ANSWER_LIMIT + 1])] {
        let mut host = asked();
        host.answer(1, answer);
        assert_eq!(host.metrics().samples("headers"), [0]);
        assert_eq!(host.metrics().samples("size"), [0]);
        assert_eq!(host.metrics().samples("read"), [2]);
        assert_eq!(host.metrics().samples("buffer"), [1]);
    }
}

#[test]
fn several_callouts_of_one_stream_end_in_any_order() {
    let ask = format!(
        "(drop (call $call_out 'optimizer' {TO} 'one')) (drop (call $call_out 'optimizer' {TO} 'two')) (i32.const 1)"
    );
    let mut host = host(&[
        ("request_headers", &ask),
        ("http_call_response", "(call $note 'token' (local.get $token))"),
    ]);
    host.request(post(None), true);
    host.answer(2, Answer::json(200, "{}"));
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(host.metrics().samples("token"), [2, 1]);
}

#[test]
fn the_answer_of_a_stream_that_is_gone_finds_no_context() {
    let ask = format!("(drop (call $call_out 'optimizer' {TO} 'ask')) (i32.const 1)");
    let mut host = host(&[
        ("request_headers", &ask),
        ("http_call_response", "(call $note 'status' (call $set_effective_context (i32.const 2)))"),
    ]);
    let call = host.request(post(None), true);
    host.client_gone(call);
    assert!(host.is_over(call));
    assert_eq!(host.pending_one().stream, Some(2), "the callout is still on the wire");
    host.answer(1, Answer::json(200, "{}"));
    assert_eq!(host.metrics().samples("status"), [2]);
    assert!(host.upstream(call).headers.is_none());
}

#[test]
fn ticks_send_callouts_of_the_root_context() {
    let tick = format!(
        "(drop (call $call_out 'optimizer' {TO} 'write-back')) (drop (call $set_tick_period (i32.const 0)))"
    );
    let mut host = host(&[
        ("configure", "(drop (call $set_tick_period (i32.const 50))) (i32.const 1)"),
        ("tick", &tick),
        ("http_call_response", "(call $note 'context' (local.get $id))"),
    ]);
    host.advance(Duration::from_millis(49));
    assert!(host.callouts().is_empty());
    host.advance(Duration::from_secs(10));
    assert_eq!(host.callouts().len(), 1, "a period of 0 stops the timer");
    assert_eq!(host.callouts()[0].stream, None);
    assert_eq!(host.callouts()[0].sent_at, Duration::from_millis(50));
    assert_eq!(host.metrics().samples("context"), [1], "its time-out came within the ten seconds");
}

#[test]
fn ticks_come_once_in_each_period() {
    let mut host = host(&[
        ("configure", "(drop (call $set_tick_period (i32.const 50))) (i32.const 1)"),
        ("tick", "(call $say 'tick')"),
    ]);
    host.advance(Duration::from_millis(210));
    assert_eq!(said(&host).len(), 4);
}
