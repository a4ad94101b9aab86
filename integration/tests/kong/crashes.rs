//! What crashes a worker, or leaves a call waiting for ever.

use integration::{Answer, Host, Lua};

use crate::probe::{TO, post};
use crate::{builder, host};

fn fault(host: &Host) -> &str {
    host.trap().unwrap_or("no fault")
}

/// A probe whose callout's answer is followed by `write` in the body's callback.
fn replacing(write: &str, lua: Lua, pieces: &[&str]) -> Host {
    let ask = format!("(drop (call $call_out 'optimizer:8088' {TO} '')) (i32.const 1)");
    let write = format!("{write} (i32.const 0)");
    let mut host = builder(&[("request_headers", &ask), ("request_body", &write)])
        .lua(Some(lua))
        .start()
        .unwrap();
    let call = host.request(post(Some(pieces.concat().len())), false);
    for (index, piece) in pieces.iter().enumerate() {
        host.request_body(call, piece, index + 1 == pieces.len());
    }
    host.answer(1, Answer::json(200, "{}"));
    host
}

fn write(start: usize, text: &str) -> String {
    format!(
        "(drop (call $set_buffer (i32.const 0) (i32.const {start}) (i32.const 0x7fffffff) '{text}'))"
    )
}

#[test]
fn a_body_is_replaced_behind_its_first_byte_and_in_one_buffer_only() {
    let one =
        |start, text: &str| replacing(&write(start, text), Lua::ReadsAndSets, &["{\"a\"", ":1}"]);
    assert!(fault(&one(0, "{}")).contains("freed"), "from its first byte on");
    let one_in = |text: &str| replacing(text, Lua::ReadsAndSets, &["{\"a\"", ":1}"]);
    let good = one(1, "\"b\":2}");
    assert_eq!(good.trap(), None);

    let several = |text: &str| replacing(text, Lua::Reads, &["{\"a\"", ":1", "}"]);
    assert!(fault(&several(&write(1, "}"))).contains("freed"), "nobody set it anew");
    let pieces = one_in(&[write(1, "\"b\":2"), write(6, "}")].concat());
    assert!(fault(&pieces).contains("wrong bytes"), "in two pieces");
}

#[test]
fn before_a_callout_each_write_takes_a_freed_buffer_again() {
    let taking = |writes: &[String]| {
        let first = format!("{} (i32.const 0)", writes.concat());
        let mut host =
            builder(&[("request_headers", &first)]).lua(Some(Lua::Reads)).start().unwrap();
        let call = host.request(post(Some(7)), false);
        host.request_body(call, "{\"a\"", false);
        host.request_body(call, ":1}", true);
        host
    };
    let once = taking(&[write(1, "\"a\":1}")]);
    assert_eq!(once.trap(), None);
    let twice = taking(&[write(0, "{\"a\":1"), write(6, "}")]);
    assert_eq!(twice.trap(), None);
    assert!(
        fault(&taking(&[write(0, "{\"a\":1}")])).contains("freed"),
        "two, of which one comes back"
    );
}

#[test]
fn a_body_in_several_buffers_is_shown_beyond_what_was_asked_for() {
    // One byte is asked for; the next ones in memory are written as well.
    let probe = "(drop (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 12)))
        (call $note 'size' (i32.load (i32.const 12)))
        (call $note 'beyond' (i32.load8_u (i32.add (i32.load (i32.const 8)) (i32.const 1)))) (i32.const 0)";
    for (lua, beyond) in [(Lua::ReadsAndSets, 0), (Lua::Reads, u64::from(b':'))] {
        let mut host = builder(&[("request_headers", probe)]).lua(Some(lua)).start().unwrap();
        let call = host.request(post(Some(7)), false);
        host.request_body(call, "{\"a\"", false);
        host.request_body(call, ":1}", true);
        assert_eq!(host.metrics().samples("size"), [1]);
        assert_eq!(host.metrics().samples("beyond"), [beyond]);
    }
}

#[test]
fn a_call_pauses_for_a_callout_and_for_nothing_else() {
    let mut stuck = host(&[("request_headers", "(i32.const 1)")]);
    stuck.request(post(None), true);
    assert!(fault(&stuck).contains("waits for ever"));

    let asks = format!("(drop (call $call_out 'optimizer:8088' {TO} '')) (i32.const 0)");
    let mut overrun = host(&[("request_headers", &asks)]);
    overrun.request(post(None), true);
    assert!(fault(&overrun).contains("goes on although"));
}

#[test]
fn a_call_calls_out_once() {
    let ask = format!("(drop (call $call_out 'optimizer:8088' {TO} ''))");
    let twice = format!("{ask} {ask} (i32.const 1)");
    let mut host = host(&[("request_headers", &twice)]);
    host.request(post(None), true);
    assert!(fault(&host).contains("second callout"));
}

#[test]
fn the_timer_s_callouts_go_one_by_one() {
    let tick = format!("(drop (call $call_out 'optimizer:8088' {TO} ''))");
    let mut host = host(&[
        ("configure", "(drop (call $set_tick_period (i32.const 10))) (i32.const 1)"),
        ("tick", &tick),
    ]);
    host.advance(std::time::Duration::from_millis(10));
    assert_eq!(host.trap(), None);
    host.answer(1, Answer::json(200, "{}"));
    host.advance(std::time::Duration::from_millis(10));
    assert_eq!(host.trap(), None);
    host.advance(std::time::Duration::from_millis(10));
    assert!(fault(&host).contains("second callout of the timer"));
}

#[test]
fn nothing_resumes_a_call_but_the_end_of_its_callout() {
    let mut host = host(&[
        ("configure", "(drop (call $set_tick_period (i32.const 10))) (i32.const 1)"),
        (
            "tick",
            "(drop (call $set_effective_context (i32.const 2))) (drop (call $continue (i32.const 0)))",
        ),
    ]);
    host.request(post(None), false);
    host.advance(std::time::Duration::from_millis(10));
    assert!(fault(&host).contains("no request to resume"), "the effective context changes nothing");
}

#[test]
fn every_callback_has_to_be_there() {
    let module = crate::probe::module(&[("request_headers", "(i32.const 0)")]);
    let mut host = Host::kong().module(module).start().unwrap();
    let call = host.request(post(None), true);
    assert_eq!(host.trap(), None);
    host.local_reply(call, 503, "", "");
    assert!(fault(&host).contains("proxy_on_response_headers does not exist"));
}

#[test]
fn an_answer_is_never_held() {
    for callback in ["response_headers", "response_body"] {
        let mut host = host(&[(callback, "(i32.const 1)")]);
        let call = host.request(post(None), true);
        host.response(call, crate::probe::ok(Some(2)), false);
        host.response_body(call, "ok", true);
        assert!(fault(&host).contains("paused"), "{callback}");
    }
}
