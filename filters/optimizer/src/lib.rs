//! The adapter as a Proxy-Wasm filter.
