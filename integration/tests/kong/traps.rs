//! Host functions that are traps in the wrong callback, where Envoy returns a status.

use integration::{Host, Lua};

use crate::probe::{TO, ok, post};
use crate::{builder, host};

/// Plays one call with a callout to its end.
fn play(host: &mut Host) {
    let call = host.request(post(Some(2)), false);
    host.request_body(call, "{}", true);
    for callout in host.pending().iter().map(|callout| callout.id).collect::<Vec<_>>() {
        host.answer(callout, integration::Answer::json(200, "{}"));
    }
    if host.trap().is_none() && host.upstream(call).complete {
        host.response(call, ok(Some(2)), false);
        host.response_body(call, "ok", true);
    }
    host.advance(std::time::Duration::from_millis(50));
}

/// Sends a callout and pauses.
fn ask() -> String {
    format!("(drop (call $call_out 'optimizer:8088' {TO} '{{}}')) (i32.const 1)")
}

/// Where a probe does something, and whether that is a trap there.
fn check(what: &str, places: &[(&str, bool)]) {
    for &(place, traps) in places {
        let (ask, returning, calling) =
            (ask(), format!("(drop {what}) (i32.const 0)"), format!("(drop {what})"));
        let mut callbacks = vec![];
        match place {
            "http_call_response" => {
                callbacks.push(("request_headers", &*ask));
                callbacks.push((place, &calling));
            }
            "tick" => {
                callbacks.push((
                    "configure",
                    "(drop (call $set_tick_period (i32.const 10))) (i32.const 1)",
                ));
                callbacks.push((place, &calling));
            }
            "log" => callbacks.push((place, &calling)),
            _ => callbacks.push((place, &returning)),
        }
        let mut host = builder(&callbacks).lua(Some(Lua::ReadsAndSets)).start().unwrap();
        play(&mut host);
        assert_eq!(host.trap().is_some(), traps, "{what} in {place}: {:?}", host.trap());
    }
}

#[test]
fn a_request_s_body_is_read_and_written_in_the_request_s_callbacks_only() {
    let read = "(call $get_buffer (i32.const 0) (i32.const 0) (i32.const 0x7fffffff) (i32.const 8) (i32.const 12))";
    check(
        read,
        &[
            ("request_headers", false),
            ("request_body", false),
            ("http_call_response", true),
            ("response_headers", true),
            ("response_body", true),
            ("log", false),
            ("tick", true),
        ],
    );
    let write =
        |place| format!("(call $set_buffer (i32.const 0) (i32.const 1) (i32.const {place}) '}}')");
    check(
        &write(9),
        &[
            ("request_headers", false),
            ("request_body", false),
            ("http_call_response", true),
            ("response_headers", true),
            ("log", true),
            ("tick", true),
        ],
    );
}

#[test]
fn an_answer_s_body_is_read_while_it_passes_only() {
    let read =
        "(call $get_buffer (i32.const 1) (i32.const 0) (i32.const 9) (i32.const 8) (i32.const 12))";
    check(
        read,
        &[
            ("request_headers", true),
            ("http_call_response", true),
            ("response_headers", true),
            ("response_body", false),
            ("log", true),
        ],
    );
}

#[test]
fn headers_change_before_their_message_goes_on() {
    check(
        "(call $set_header (i32.const 0) 'x-a' 'b')",
        &[
            ("request_headers", false),
            ("request_body", false),
            ("http_call_response", false),
            ("response_headers", true),
            ("response_body", true),
            ("log", true),
            ("tick", true),
        ],
    );
    check(
        "(call $set_header (i32.const 2) 'x-a' 'b')",
        &[("response_headers", false), ("response_body", true), ("log", true), ("tick", true)],
    );
}

#[test]
fn callouts_leave_from_a_request_s_callbacks_and_from_ticks() {
    let callout = format!("(call $call_out 'optimizer:8088' {TO} '')");
    check(&callout, &[("response_headers", true), ("response_body", true), ("log", true)]);
    for bad in ["", "http://optimizer:8088", "a b", ":8088"] {
        check(&format!("(call $call_out '{bad}' {TO} '')"), &[("tick", true)]);
    }
    check("(call $call_out 'optimizer:8088' [:path=/x;:authority=o] '')", &[("tick", true)]);
}

#[test]
fn a_timer_is_set_once_and_while_the_plugin_is_configured() {
    check(
        "(call $set_tick_period (i32.const 10))",
        &[("request_headers", true), ("log", true), ("tick", true)],
    );
}

#[test]
fn properties_are_read_with_care_and_never_set() {
    let read = |path: &str| format!("(call $get_property '{path}' (i32.const 8) (i32.const 12))");
    check(
        &read("ngx\\0upstream_status"),
        &[("request_headers", false), ("response_headers", false)],
    );
    check(&read("kong\\0service_id"), &[("request_headers", false)]);
    for path in
        ["xds\\0cluster_name", "response\\0code_details", "upstream\\0address", "plugin_name"]
    {
        check(&read(path), &[("response_headers", true)]);
    }
    check("(call $set_property 'x' 'y')", &[("request_headers", true)]);
    let crash = builder(&[(
        "configure",
        "(drop (call $get_property 'plugin_name' (i32.const 8) (i32.const 12))) (i32.const 1)",
    )]);
    assert!(crash.start().is_err());
    let told = host(&[(
        "configure",
        "(call $note 'pid' (call $get_property 'ngx\\0pid' (i32.const 8) (i32.const 12))) (i32.const 1)",
    )]);
    assert_eq!(told.metrics().samples("pid"), [10], "where Envoy says 1");
}

#[test]
fn shared_data_is_not_there() {
    check(
        "(call $get_shared_data 'k' (i32.const 8) (i32.const 12) (i32.const 16))",
        &[("request_headers", true)],
    );
    check("(call $set_shared_data 'k' 'v' (i32.const 0))", &[("request_headers", true)]);
}

#[test]
fn an_answer_is_given_once_and_in_time() {
    let reply = "(call $reply (i32.const 200) [content-type=application/json] '{}')";
    check(
        reply,
        &[("request_headers", false), ("http_call_response", false), ("response_headers", true)],
    );
    let twice = format!("(i32.add {reply} {reply})");
    check(&twice, &[("http_call_response", true)]);
}

#[test]
fn a_metric_s_name_may_be_too_long() {
    let callbacks =
        [("configure", "(call $note 'a_rather_long_name' (i32.const 1)) (i32.const 1)")];
    assert!(builder(&callbacks).start().is_ok());
    assert!(builder(&callbacks).max_metric_name(20).start().is_err());
    // The module defines all of its metrics there: none is left that could trap later.
    let module = |bytes| {
        let config = r#"{"optimizer":{"upstream":"o:1"}}"#;
        Host::kong().config(config).max_metric_name(bytes).start()
    };
    assert!(module(96).is_ok() && module(64).is_err());
    let silent = r#"{"optimizer":{"upstream":"o:1"},"kong":{"metrics":false}}"#;
    assert!(Host::kong().config(silent).max_metric_name(0).start().is_ok(), "none is defined");
}

#[test]
fn a_module_that_asks_for_the_log_level_does_not_load() {
    let module = wat::parse_str(
        r#"(module (import "env" "proxy_get_log_level" (func (param i32) (result i32)))
            (memory (export "memory") 1) (func (export "_initialize")))"#,
    );
    assert!(Host::kong().module(module.unwrap()).start().is_err());
}
