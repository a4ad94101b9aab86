//! What the host calls, by the names of the ABI, and whose context each call is for.
//!
//! A host may call in the middle of a host call (Envoy does where it answers by
//! itself). So nothing is borrowed here while a context runs, and a context
//! that runs already is left alone.

use std::cell::RefCell;
use std::rc::Rc;

use optimizer_core::sorted::Sorted;

use crate::root::Root;
use crate::stream::{Request, Stream};
use crate::types::Action;
use crate::{hostcalls, logger};

/// The contexts of this VM: a root for each configuration, and their streams.
struct Contexts {
    roots: RefCell<Sorted<u32, Rc<RefCell<Root>>>>,
    /// The roots of streams whose requests have not come yet.
    unborn: RefCell<Sorted<u32, u32>>,
    /// Those that are not left alone.
    streams: RefCell<Sorted<u32, Stream>>,
    /// Who made the callouts that have not ended, by their tokens.
    callers: RefCell<Sorted<u32, u32>>,
}

thread_local! {
    static CONTEXTS: Contexts = const {
        Contexts {
            roots: RefCell::new(Sorted::new()),
            unborn: RefCell::new(Sorted::new()),
            streams: RefCell::new(Sorted::new()),
            callers: RefCell::new(Sorted::new()),
        }
    };
}

/// The answer to the callout of this token belongs to `context`.
pub fn expect_answer(token: u32, context: u32) {
    CONTEXTS.with(|all| all.callers.borrow_mut().insert(token, context));
}

fn with_stream<T>(id: u32, otherwise: T, act: impl FnOnce(&Stream) -> T) -> T {
    let stream = CONTEXTS.with(|all| all.streams.borrow().get(&id).cloned());
    match stream {
        Some(stream) => act(&stream),
        None => otherwise,
    }
}

fn with_root<T>(id: u32, otherwise: T, act: impl FnOnce(&mut Root) -> T) -> T {
    let root = CONTEXTS.with(|all| all.roots.borrow().get(&id).cloned());
    match root.as_ref().map(|root| root.try_borrow_mut()) {
        Some(Ok(mut root)) => act(&mut root),
        _ => otherwise,
    }
}

unsafe extern "C" {
    safe fn __wasm_call_ctors();
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    __wasm_call_ctors();
    logger::start();
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root: u32) {
    if root == 0 {
        let root = Rc::new(RefCell::new(Root::new(id)));
        CONTEXTS.with(|all| _ = all.roots.borrow_mut().insert(id, root));
    } else {
        CONTEXTS.with(|all| _ = all.unborn.borrow_mut().insert(id, root));
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_: u32, _: usize) -> bool {
    true
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(id: u32, size: usize) -> bool {
    with_root(id, false, |root| root.configure(size))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(id: u32) {
    with_root(id, (), Root::tick);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, count: usize, end: bool) -> Action {
    let root = CONTEXTS.with(|all| all.unborn.borrow_mut().remove(&id));
    let vm = root.and_then(|root| with_root(root, None, |root| root.vm()));
    let Some(request) = vm.and_then(|vm| Request::of_interest(vm, count)) else {
        return Action::Continue;
    };
    let stream = Stream::new(id, request.vm());
    CONTEXTS.with(|all| _ = all.streams.borrow_mut().insert(id, stream.clone()));
    stream.request_headers(&request, count, end)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(id: u32, size: usize, end: bool) -> Action {
    with_stream(id, Action::Continue, |stream| stream.request_body(size, end))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(id: u32, _: usize) -> Action {
    with_stream(id, Action::Continue, Stream::request_trailers)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, count: usize, end: bool) -> Action {
    with_stream(id, Action::Continue, |stream| stream.response_headers(count, end))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(id: u32, size: usize, end: bool) -> Action {
    with_stream(id, Action::Continue, |stream| stream.response_body(size, end))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(id: u32, _: usize) -> Action {
    with_stream(id, Action::Continue, Stream::response_trailers)
}

/// Hosts hand every answer to the root context: the token tells whose it is.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    _: u32,
    token: u32,
    _: usize,
    body_size: usize,
    _: usize,
) {
    let caller = CONTEXTS.with(|all| all.callers.borrow_mut().remove(&token));
    let Some(id) = caller.filter(|&id| hostcalls::set_effective_context(id)) else { return };
    with_stream(id, (), |stream| stream.callout_done(token, body_size));
    with_root(id, (), |root| root.callout_done(token, body_size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(id: u32) -> bool {
    with_stream(id, (), Stream::close);
    true
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(id: u32) {
    with_stream(id, (), Stream::close);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: u32) {
    CONTEXTS.with(|all| _ = all.unborn.borrow_mut().remove(&id));
    let stream = CONTEXTS.with(|all| all.streams.borrow_mut().remove(&id));
    let root = CONTEXTS.with(|all| all.roots.borrow_mut().remove(&id));
    // What these drop may not meet a borrow.
    drop((stream, root));
}
