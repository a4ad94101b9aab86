//! The adapter as a `wasi:http` component: what the host brings becomes events of
//! the core, the core's effects become calls of the host. Nothing is decided here.
// The worlds' macros export functions that they do not document.
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

mod call;
mod callout;
mod http;
mod io;
mod vm;

use wasip2::exports::cli::run;
use wasip2::exports::http::incoming_handler;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::vm::VM;

struct Component;

wasip2::http::proxy::export!(Component);
wasip2::cli::command::export!(Component);

impl incoming_handler::Guest for Component {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        VM.with(|vm| match vm {
            Ok(vm) => io::block_on(call::serve(vm, request, out)),
            Err(error) => {
                vm::say(error);
                let text = "optimizer: the configuration is refused, see the log\n";
                io::block_on(http::answer(out, 500, text));
            }
        });
    }
}

impl run::Guest for Component {
    /// Checks the configuration, and says what the operator should know.
    fn run() -> Result<(), ()> {
        VM.with(|vm| match vm {
            Ok(vm) => vm::say(&vm.adapter.borrow().plan().introduction()),
            Err(error) => vm::say(error),
        });
        VM.with(|vm| vm.as_ref().map(|_| ()).map_err(|_| ()))
    }
}
