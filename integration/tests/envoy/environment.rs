//! Properties, shared data, metrics, environment variables, cost.

use integration::{Host, SharedData};

use crate::probe::{builder, host, module, ok, post, said};

fn property(path: &str) -> String {
    format!(
        "(i32.store (i32.const 12) (i32.const 0)) (call $note 'status' (call $get_property '{path}' (i32.const 8) (i32.const 12))) (if (i32.load (i32.const 12)) (then (call $say_it)))"
    )
}

#[test]
fn properties() {
    let at_start = format!("{} (i32.const 1)", property("ngx\\0pid"));
    let at_request =
        format!("{} {} (i32.const 0)", property("xds\\0cluster_name"), property("cluster_name"));
    let at_answer = format!("{} (i32.const 0)", property("response\\0code_details"));
    let callbacks = [
        ("configure", &*at_start),
        ("request_headers", &*at_request),
        ("response_headers", &*at_answer),
    ];
    let mut host = builder(&callbacks).property("xds.cluster_name", "llm").start().unwrap();
    let call = host.request(post(None), true);
    host.response(call, ok(None), true);
    assert_eq!(host.metrics().samples("status"), [1, 0, 1, 0]);
    assert_eq!(said(&host), ["llm", "via_upstream"]);
}

#[test]
fn what_the_module_sets_shows_in_the_access_log() {
    let mut host = host(&[
        ("configure", "(call $note 'status' (call $set_property 'x' 'y')) (i32.const 1)"),
        ("request_headers", "(call $note 'status' (call $set_property 'x' 'y')) (i32.const 0)"),
    ]);
    let call = host.request(post(None), true);
    assert_eq!(host.metrics().samples("status"), [1, 0], "only streams have such a state");
    assert_eq!(host.filter_state(call, "x").as_deref(), Some("y"));
}

#[test]
fn shared_data_is_shared_and_compared() {
    let callbacks = [(
        "request_headers",
        "(call $note 'get' (call $get_shared_data 'k' (i32.const 8) (i32.const 12) (i32.const 16)))
         (call $note 'stale' (call $set_shared_data 'k' 'v' (i32.const 99)))
         (call $note 'set' (call $set_shared_data 'k' 'v' (i32.load (i32.const 16))))
         (i32.const 0)",
    )];
    let shared = SharedData::default();
    let mut one = builder(&callbacks).shared_data(shared.clone()).start().unwrap();
    one.request(post(None), true);
    assert_eq!(one.metrics().samples("get"), [1]);
    assert_eq!(one.metrics().samples("stale"), [0], "nothing there to compare with");
    assert_eq!(one.metrics().samples("set"), [0]);
    let mut two = builder(&callbacks).shared_data(shared.clone()).start().unwrap();
    two.request(post(None), true);
    assert_eq!(two.metrics().samples("get"), [0]);
    assert_eq!(two.metrics().samples("stale"), [8]);
    assert_eq!(two.metrics().samples("set"), [0]);
    assert_eq!(shared.get(b"k").unwrap().0, b"v");
    assert_eq!(shared.keys(), [b"k"]);
}

#[test]
fn metrics_by_name() {
    let mut host = host(&[(
        "request_headers",
        "(drop (call $define_metric (i32.const 0) 'c' (i32.const 0)))
         (call $note 'up' (call $increment_metric (i32.load (i32.const 0)) (i64.const 2)))
         (drop (call $define_metric (i32.const 0) 'c' (i32.const 0)))
         (call $note 'again' (call $increment_metric (i32.load (i32.const 0)) (i64.const 3)))
         (call $note 'unknown' (call $increment_metric (i32.const 4711) (i64.const 1)))
         (i32.const 0)",
    )]);
    host.request(post(None), true);
    assert_eq!(host.metrics().value("c"), 5, "defined twice, counted once");
    assert_eq!(host.metrics().samples("up"), [0]);
    assert_eq!(host.metrics().samples("unknown"), [1]);
    assert_eq!(host.metrics().nonzero().len(), 1);
}

#[test]
fn environment_variables() {
    let read = "(drop (call $environ_sizes (i32.const 8) (i32.const 12))) (call $note 'count' (i32.load (i32.const 8)))
        (drop (call $environ (i32.const 512) (i32.const 600))) (call $say (i32.load (i32.const 512)) (i32.load (i32.const 12)))
        (i32.const 1)";
    let host = builder(&[("configure", read)]).env("TOKEN", "secret").start().unwrap();
    assert_eq!(host.metrics().samples("count"), [1]);
    assert_eq!(said(&host), ["TOKEN=secret\0"]);
}

#[test]
fn a_refused_configuration_does_not_start() {
    let no = [("configure", "(call $say 'optimizer: missing') (i32.const 0)")];
    let error = builder(&no).config("{}").start().err().expect("refused");
    assert_eq!(error.reason, "proxy_on_configure returned false");
    assert_eq!(error.logs[0].text, "optimizer: missing");
}

#[test]
fn cost_is_counted() {
    let mut host = host(&[("request_body", "(call $say_body (i32.const 0)) (i32.const 0)")]);
    let call = host.request(post(Some(5)), false);
    host.request_body(call, "12345", true);
    assert_eq!(host.usage().host_calls["proxy_get_buffer_bytes"], 1);
    assert_eq!((host.usage().bytes_in, host.usage().bytes_out), (5, 5));
    assert_eq!(host.memory_size(), 1024 * 65536);
}

#[test]
fn an_import_that_is_missing_traps_with_its_name() {
    let wasm = wat::parse_str(
        r#"(module (import "env" "proxy_frobnicate" (func $f)) (memory (export "memory") 1)
            (func (export "proxy_on_context_create") (param i32 i32) (call $f)))"#,
    );
    let host = Host::builder().module(wasm.unwrap()).start();
    let reason = host.err().expect("trapped").reason;
    assert!(reason.contains("proxy_frobnicate"), "{reason}");
}

#[test]
fn memory_has_a_ceiling() {
    let grows = module(&[("configure", "(memory.grow (i32.const 2000)) (i32.const -1) (i32.eq)")]);
    assert!(Host::builder().module(grows.clone()).memory_limit(80 << 20).start().is_ok());
    assert!(Host::builder().module(grows).start().is_err(), "within 1 GiB it can grow");
}
