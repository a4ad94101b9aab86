//! Small modules in WebAssembly text: a few callbacks, everything else absent.

use std::fmt::Write as _;

use integration::{Headers, Host, HostBuilder};

/// Signatures of the callbacks that a probe can have.
const CALLBACKS: &[(&str, &str)] = &[
    ("configure", "(param $id i32) (param $size i32) (result i32)"),
    ("request_headers", "(param $id i32) (param $count i32) (param $end i32) (result i32)"),
    ("request_body", "(param $id i32) (param $size i32) (param $end i32) (result i32)"),
    ("request_trailers", "(param $id i32) (param $count i32) (result i32)"),
    ("response_headers", "(param $id i32) (param $count i32) (param $end i32) (result i32)"),
    ("response_body", "(param $id i32) (param $size i32) (param $end i32) (result i32)"),
    (
        "http_call_response",
        "(param $id i32) (param $token i32) (param $headers i32) (param $size i32) (param $trailers i32)",
    ),
    ("tick", "(param $id i32)"),
    ("log", "(param $id i32)"),
    ("done", "(param $id i32) (result i32)"),
    ("delete", "(param $id i32)"),
];

const PRELUDE: &str = r#"
(import "env" "proxy_log" (func $proxy_log (param i32 i32 i32) (result i32)))
(import "env" "proxy_define_metric" (func $define_metric (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))
(import "env" "proxy_increment_metric" (func $increment_metric (param i32 i64) (result i32)))
(import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
(import "env" "proxy_send_local_response" (func $send_local_response (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_http_call" (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_effective_context" (func $set_effective_context (param i32) (result i32)))
(import "env" "proxy_set_buffer_bytes" (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_buffer_bytes" (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_value" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_replace_header_map_value" (func $set_header (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_shared_data" (func $get_shared_data (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_shared_data" (func $set_shared_data (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_tick_period_milliseconds" (func $set_tick_period (param i32) (result i32)))
(import "env" "proxy_get_current_time_nanoseconds" (func $get_time (param i32) (result i32)))
(import "env" "proxy_done" (func $done (result i32)))
(import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
(memory (export "memory") 1024)
(global $heap (mut i32) (i32.const 65536))
(global $stream (mut i32) (i32.const 0))
(func (export "proxy_abi_version_0_2_1"))
(func (export "_initialize"))
(func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
  (global.get $heap)
  (global.set $heap (i32.add (global.get $heap) (local.get $size))))
;; Logs a line.
(func $say (param $at i32) (param $size i32)
  (drop (call $proxy_log (i32.const 2) (local.get $at) (local.get $size))))
;; Records a number under a name.
(func $note (param $at i32) (param $size i32) (param $value i32)
  (drop (call $define_metric (i32.const 2) (local.get $at) (local.get $size) (i32.const 0)))
  (drop (call $record_metric (i32.load (i32.const 0)) (i64.extend_i32_u (local.get $value)))))
;; Sends a callout with 800 ms of time: cluster, headers, body.
(func $call_out (param $cluster i32) (param $cluster_size i32) (param $headers i32) (param $headers_size i32) (param $body i32) (param $body_size i32) (result i32)
  (call $http_call (local.get $cluster) (local.get $cluster_size) (local.get $headers) (local.get $headers_size)
    (local.get $body) (local.get $body_size) (i32.const 0) (i32.const 0) (i32.const 800) (i32.const 4)))
;; Answers the client: status, headers, body.
(func $reply (param $status i32) (param $headers i32) (param $headers_size i32) (param $body i32) (param $body_size i32) (result i32)
  (call $send_local_response (local.get $status) (i32.const 0) (i32.const 0) (local.get $body) (local.get $body_size)
    (local.get $headers) (local.get $headers_size) (i32.const -1)))
;; Replaces a body: which, with what.
(func $set_body (param $buffer i32) (param $at i32) (param $size i32) (result i32)
  (call $set_buffer (local.get $buffer) (i32.const 0) (i32.const 0x7fffffff) (local.get $at) (local.get $size)))
;; Logs a body as it is visible now.
(func $say_body (param $buffer i32)
  (drop (call $get_buffer (local.get $buffer) (i32.const 0) (i32.const 0x7fffffff) (i32.const 8) (i32.const 12)))
  (call $say (i32.load (i32.const 8)) (i32.load (i32.const 12))))
;; The status of reading a header.
(func $header_status (param $map i32) (param $name i32) (param $size i32) (result i32)
  (call $get_header (local.get $map) (local.get $name) (local.get $size) (i32.const 8) (i32.const 12)))
;; Logs what was read last.
(func $say_it (call $say (i32.load (i32.const 8)) (i32.load (i32.const 12))))
"#;

/// Headers that every callout needs.
pub const TO: &str = "[:method=POST;:path=/x;:authority=o]";

/// Builds a module from the bodies of its callbacks. In them `'text'` stands for the address and
/// size of a text, `[name=value;…]` for those of a header list.
pub fn module(callbacks: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut functions = String::new();
    for (name, body) in callbacks {
        let known = CALLBACKS.iter().find(|(callback, _)| callback == name);
        let signature = known.expect("a known callback").1;
        let body = place(body, &mut data);
        writeln!(functions, "(func (export \"proxy_on_{name}\") {signature} {body})").unwrap();
    }
    let bytes = data.iter().fold(String::new(), |mut text, byte| {
        write!(text, "\\{byte:02x}").unwrap();
        text
    });
    let text = format!("(module {PRELUDE} (data (i32.const 1024) \"{bytes}\") {functions})");
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn place(body: &str, data: &mut Vec<u8>) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some(at) = rest.find(['\'', '[']) {
        let close = if rest.as_bytes()[at] == b'[' { ']' } else { '\'' };
        let (before, literal) = (&rest[..at], &rest[at + 1..]);
        let end = literal.find(close).expect("a closed literal");
        let bytes = match close {
            ']' => pairs(&literal[..end]),
            _ => literal[..end].replace("\\0", "\0").replace("\\r", "\r").into_bytes(),
        };
        write!(out, "{before}(i32.const {}) (i32.const {})", 1024 + data.len(), bytes.len())
            .unwrap();
        data.extend(bytes);
        rest = &literal[end + 1..];
    }
    out + rest
}

fn pairs(text: &str) -> Vec<u8> {
    let pairs: Vec<_> = text.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let mut out = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in &pairs {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in &pairs {
        out.extend(format!("{name}\0{value}\0").into_bytes());
    }
    out
}

/// A host for a probe, with a cluster `optimizer` and a dead one.
pub fn builder(callbacks: &[(&str, &str)]) -> HostBuilder {
    Host::builder().module(module(callbacks)).cluster("optimizer").dead_cluster("dead")
}

/// The same, started.
pub fn host(callbacks: &[(&str, &str)]) -> Host {
    builder(callbacks).start().unwrap()
}

/// A POST of so many bytes; with none, of unknown length.
pub fn post(length: Option<usize>) -> Headers {
    let mut headers = Headers::from([(":method", "POST"), (":path", "/v1"), (":authority", "llm")]);
    if let Some(length) = length {
        headers.add("content-length", length.to_string().as_bytes());
    }
    headers
}

/// An answer of so many bytes.
pub fn ok(length: Option<usize>) -> Headers {
    let mut headers = Headers::from([(":status", "200")]);
    if let Some(length) = length {
        headers.add("content-length", length.to_string().as_bytes());
    }
    headers
}

/// The texts that the module logged.
pub fn said(host: &Host) -> Vec<&str> {
    host.logs().iter().map(|line| line.text.as_str()).collect()
}
