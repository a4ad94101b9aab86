//! One VM: the module, its instance, and calls into it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{
    Cache, CacheConfig, Config, Engine, Instance, Linker, Memory, Module, StoreContextMut,
    StoreLimits, WasmParams, WasmResults,
};

use crate::callout::Callout;
use crate::headers::Headers;
use crate::host::{Profile, Settings};
use crate::metrics::Metrics;
use crate::stream::{self, Direction, Stream};
use crate::{abi, kong, wasi};

/// The context id of the plugin itself; streams count on from it.
pub(crate) const ROOT: u32 = 1;

/// A handle on the VM's state, for calls from outside and from within a
/// running host function alike: Envoy re-enters the module, so the harness must be
/// able to.
pub(crate) type Vm<'a> = StoreContextMut<'a, State>;

/// What a running call asked for that happens only once it has returned.
pub(crate) enum Deferred {
    Continue(u32, Direction),
    LocalReply(u32, stream::LocalReply),
    TooLarge(u32, Direction),
    Close(u32),
    Delete(u32),
}

/// What the module has cost its host so far.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Host functions called, by name.
    pub host_calls: BTreeMap<&'static str, u64>,
    /// Bytes that the host copied out of the VM.
    pub bytes_out: u64,
    /// Bytes that the host copied into the VM.
    pub bytes_in: u64,
    /// Wasm instructions carried out, by the callback that they were for; see
    /// [`count_instructions`].
    pub instructions: BTreeMap<String, u64>,
}

static COUNTS_INSTRUCTIONS: AtomicBool = AtomicBool::new(false);

/// Lets all hosts that this process starts from now on count the instructions that modules
/// carry out. To be called before the first one starts.
pub fn count_instructions() {
    COUNTS_INSTRUCTIONS.store(true, Ordering::Relaxed);
}

fn counts_instructions() -> bool {
    COUNTS_INSTRUCTIONS.load(Ordering::Relaxed)
}

/// A line that the module logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// 0 (trace) to 5 (critical).
    pub level: u32,
    /// The text.
    pub text: String,
}

/// The timer that the module set.
pub(crate) struct Tick {
    pub(crate) period: Duration,
    pub(crate) due: Duration,
}

/// Everything that belongs to one VM.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) instance: Option<Instance>,
    pub(crate) memory: Option<Memory>,
    pub(crate) memory_limit: StoreLimits,
    /// Time since the host started.
    pub(crate) now: Duration,
    pub(crate) tick: Option<Tick>,
    pub(crate) metrics: Metrics,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) streams: BTreeMap<u32, Stream>,
    /// What takes the streams' place in Kong's runtime, and which callback runs there.
    pub(crate) calls: BTreeMap<u32, kong::Call>,
    pub(crate) step: kong::Step,
    pub(crate) next_context: u32,
    pub(crate) callouts: Vec<Callout>,
    /// How many older callouts are not kept any more.
    pub(crate) forgotten: usize,
    /// The answer being shown to the module: headers and body.
    pub(crate) answer: Option<(Headers, Vec<u8>)>,
    /// The context whose callback runs; 0 outside of calls.
    pub(crate) current: u32,
    /// The context that the module put in its place; 0 for none.
    pub(crate) effective: u32,
    /// The stream and direction whose filter callback runs.
    pub(crate) filtering: Option<(u32, Direction)>,
    pub(crate) deferred: Vec<Deferred>,
    pub(crate) trap: Option<String>,
    pub(crate) usage: Usage,
    pub(crate) random: u64,
}

impl State {
    /// The context that host functions act upon.
    pub(crate) fn context(&self) -> u32 {
        match self.effective {
            0 => self.current,
            id => id,
        }
    }

    /// Whether a context of this id exists.
    pub(crate) fn exists(&self, id: u32) -> bool {
        id == ROOT || self.streams.get(&id).is_some_and(|s| !s.deleted)
    }
}

/// The engine of this process. Compiled modules are kept beside the test
/// binaries, because compiling in an unoptimised build takes long.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut config = Config::new();
        let mut cache = CacheConfig::new();
        let directory =
            std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("wasm-cache")));
        if let Some(directory) = directory {
            cache.with_directory(directory);
            config.cache(Cache::new(cache).ok());
        }
        config.consume_fuel(counts_instructions());
        Engine::new(&config).expect("this platform runs wasmtime")
    })
}

/// The module under test: `OPTIMIZER_WASM`, else `dist/optimizer.wasm`.
pub(crate) fn built_module() -> Vec<u8> {
    let path = std::env::var_os("OPTIMIZER_WASM").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/optimizer.wasm")),
        PathBuf::from,
    );
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; `make build` makes it, OPTIMIZER_WASM names another", path.display())
    })
}

/// Compiles a module, once per process.
pub(crate) fn compile(bytes: &[u8]) -> wasmtime::Result<Module> {
    static COMPILED: Mutex<Option<HashMap<Vec<u8>, Module>>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    if let Some(module) = compiled.get(bytes) {
        return Ok(module.clone());
    }
    let module = Module::new(engine(), bytes)?;
    compiled.insert(bytes.to_vec(), module.clone());
    Ok(module)
}

/// Makes the store of a new VM.
pub(crate) fn store(state: State) -> wasmtime::Store<State> {
    let mut store = wasmtime::Store::new(engine(), state);
    store.limiter(|state| &mut state.memory_limit);
    if counts_instructions() {
        store.set_fuel(u64::MAX).expect("the engine has fuel");
    }
    store
}

/// Instantiates the module and runs its constructors.
pub(crate) fn instantiate(vm: &mut Vm<'_>, module: &Module) -> wasmtime::Result<()> {
    let mut linker = Linker::new(engine());
    match vm.data().settings.profile {
        Profile::Envoy => abi::link(&mut linker)?,
        Profile::Kong => kong::abi::link(&mut linker)?,
    }
    wasi::link(&mut linker)?;
    linker.define_unknown_imports_as_traps(module)?;
    let instance = linker.instantiate(&mut *vm, module)?;
    vm.data_mut().memory = instance.get_memory(&mut *vm, "memory");
    vm.data_mut().instance = Some(instance);
    for start in ["_initialize", "_start"] {
        if let Ok(start) = instance.get_typed_func::<(), ()>(&mut *vm, start) {
            return start.call(&mut *vm, ());
        }
    }
    Ok(())
}

/// Calls an export on behalf of a context, then does what the call put off.
/// Nothing where the module has no such export, or no longer runs.
pub(crate) fn call<P: WasmParams, R: WasmResults>(
    vm: &mut Vm<'_>,
    context: u32,
    export: &str,
    params: P,
) -> Option<R> {
    let state = vm.data_mut();
    let instance = state.instance.filter(|_| state.trap.is_none())?;
    let outer = (state.current, state.effective);
    (state.current, state.effective) = (context, 0);
    let function = instance.get_typed_func::<P, R>(&mut *vm, export).ok();
    let fuel = vm.get_fuel().ok();
    let result = function.map(|function| function.call(&mut *vm, params));
    if let (Some(before), Ok(after)) = (fuel, vm.get_fuel()) {
        let count = vm.data_mut().usage.instructions.entry(export.to_owned()).or_default();
        *count = count.saturating_add(before.saturating_sub(after));
    }
    (vm.data_mut().current, vm.data_mut().effective) = outer;
    match result {
        Some(Ok(value)) => {
            finish(vm);
            Some(value)
        }
        Some(Err(error)) => {
            let state = vm.data_mut();
            let said = state.logs.last().map_or("", |line| line.text.as_str());
            state.trap = Some(format!("{export}: {error:#}; last log line: {said}"));
            state.deferred.clear();
            None
        }
        None => None,
    }
}

fn finish(vm: &mut Vm<'_>) {
    let deferred = std::mem::take(&mut vm.data_mut().deferred);
    for action in deferred {
        match action {
            Deferred::Continue(id, direction) => stream::resume(vm, id, direction),
            Deferred::LocalReply(id, reply) => stream::local_reply(vm, id, reply),
            Deferred::TooLarge(id, direction) => stream::too_large(vm, id, direction),
            Deferred::Close(id) => stream::reset(vm, id),
            Deferred::Delete(id) => stream::delete(vm, id),
        }
    }
}
