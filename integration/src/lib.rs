//! A Proxy-Wasm host on `wasmtime` that behaves as Envoy 1.40 does around an HTTP filter, or as Kong's
//! runtime (ngx_wasm_module) does ([`Host::kong`]).
//!
//! It plays events to the module ([`Host::request`], [`Host::answer`], [`Host::advance`], …), one at a
//! time and on a clock of its own, and shows what came of them: what the upstream and the client
//! received, the callouts, metrics, logs and traps. What would hurt on a real Envoy hurts here:
//! headers that went can no longer be changed, a body beyond the buffer limit is answered with
//! 413 or 500, and a message whose `content-length` does not match its body fails the test at once.

mod abi;
mod callout;
mod headers;
mod host;
mod kong;
mod message;
mod metrics;
mod shared_data;
mod stream;
mod vm;
mod wasi;

pub use abi::Status;
pub use callout::{ANSWER_LIMIT, Answer, Callout};
pub use headers::Headers;
pub use host::{Host, HostBuilder, StartError, StreamId};
pub use kong::Lua;
pub use message::{Message, check_values};
pub use metrics::Metrics;
pub use shared_data::SharedData;
pub use vm::{LogLine, Usage, count_instructions};
