//! The adapter as a Proxy-Wasm filter: callbacks become events of the core, the
//! core's effects become host calls. Nothing is decided here.
//!
//! The ABI is spoken without the `proxy-wasm` crate: its dispatcher and its traits for
//! TCP, gRPC and the rest come to a tenth of this module, and its host calls panic on what
//! a client or a host may well send.
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
mod callbacks;
mod compare;
mod hostcalls;
mod kong;
mod late;
mod logger;
mod root;
mod shown;
mod stream;
mod types;
mod vm;
