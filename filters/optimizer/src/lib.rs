//! The adapter as a Proxy-Wasm filter: callbacks become events of the core, the
//! core's effects become host calls. Nothing is decided here.
// `proxy_wasm::main!` exports functions that it does not document.
#![allow(missing_docs)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects
)]

mod allocator;
mod hostcalls;
mod kong;
mod root;
mod stream;
mod vm;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    // The host filters by its own level. It cannot be asked for: to Kong's runtime the function that
    // does is another, and a module that imports it does not load.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context| Box::new(root::Root::new(context)));
}}
