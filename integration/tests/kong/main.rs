//! Kong's runtime as measured, fact by fact; the harness must behave the same. And what only
//! the module on it does.

mod calls;
mod configurations;
mod crashes;
#[allow(dead_code)]
#[path = "../envoy/probe.rs"]
mod probe;
mod traps;

use integration::{Host, HostBuilder};

/// Callbacks of a probe; those that the runtime would miss let everything pass.
fn builder(callbacks: &[(&str, &str)]) -> HostBuilder {
    let mut all = callbacks.to_vec();
    for (name, body) in [
        ("request_headers", "(i32.const 0)"),
        ("request_body", "(i32.const 0)"),
        ("response_headers", "(i32.const 0)"),
        ("response_body", "(i32.const 0)"),
        ("http_call_response", ""),
    ] {
        if callbacks.iter().all(|(known, _)| *known != name) {
            all.push((name, body));
        }
    }
    Host::kong().module(probe::module(&all)).cluster("optimizer:8088")
}

fn host(callbacks: &[(&str, &str)]) -> Host {
    builder(callbacks).start().unwrap_or_else(|error| panic!("{error}"))
}
