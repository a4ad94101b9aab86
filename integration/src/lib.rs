//! Proxy-Wasm host harness.
