//! One suite of exchanges, played to every host that the adapter runs in. The cases know
//! [`proxy::Proxy`] only; a further host is a further implementation of it.

mod breaker;
mod cache;
mod configuration;
mod fail_open;
mod headers;
mod native;
mod proxy;
mod queue;
mod reasons;
mod records;
mod replays;
mod responses;
mod script;
mod seeing;
mod stream_hook;
mod streams;
mod transforms;
mod wasi;
mod wasm;
mod write_backs;
