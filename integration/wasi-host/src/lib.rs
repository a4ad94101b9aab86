//! A `wasi:http` host: wasmtime with its own implementation of WASI, as `wasmtime serve` is.

mod authorities;
mod log;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes};
use hyper::{Request, Response};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Cache, CacheConfig, Config, Engine, Error, InstanceAllocationStrategy, PoolingAllocationConfig,
    Store,
};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

pub use crate::authorities::Authorities;
pub use crate::log::Log;
use crate::log::Tagged;

/// What an instance has of its own.
pub struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Option<Box<dyn WasiHttpHooks>>,
    /// The call that it serves, for the log.
    call: Arc<Mutex<String>>,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let hooks: &mut dyn WasiHttpHooks = match &mut self.hooks {
            Some(hooks) => &mut **hooks,
            None => Default::default(),
        };
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks }
    }
}

/// What each instance gets: its WASI, and what stands in for the network.
pub type Equip = dyn Fn(&mut WasiCtxBuilder) -> Option<Box<dyn WasiHttpHooks>> + Send + Sync;

type Instance = (Store<State>, Proxy);

/// Instances that have served a call and wait for the next one, since then.
type Idle = Arc<Mutex<Vec<(Instant, Instance)>>>;

/// How long an instance waits for its next call; it never gives memory back while it lives.
const IDLE: Duration = Duration::from_secs(5);

/// A component, compiled and linked.
#[derive(Clone)]
pub struct Loaded {
    proxy: ProxyPre<State>,
    command: CommandPre<State>,
}

impl Loaded {
    /// Compiles a component.
    ///
    /// # Errors
    /// The file is no component, or imports what this host has not.
    pub fn load(path: &str) -> Result<Self, Error> {
        let engine = engine()?;
        let component = Component::from_file(&engine, path)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        let ready = linker.instantiate_pre(&component)?;
        Ok(Self { proxy: ProxyPre::new(ready.clone())?, command: CommandPre::new(ready)? })
    }
}

/// A host that runs one component.
#[derive(Clone)]
pub struct Host {
    component: Loaded,
    equip: Arc<Equip>,
    log: Arc<Log>,
    /// If they serve again.
    idle: Option<Idle>,
}

impl Host {
    /// A host whose calls each get an instance of their own; with `reuse`, one that has served its call.
    pub fn new(component: Loaded, reuse: bool, equip: Box<Equip>, log: Box<Log>) -> Self {
        let idle = reuse.then(Arc::default);
        Self { component, equip: equip.into(), log: log.into(), idle }
    }

    /// Lets the component check its configuration; whether it is taken.
    ///
    /// # Errors
    /// It trapped.
    pub async fn check(&self) -> Result<bool, Error> {
        let mut store = self.store();
        let command = self.component.command.instantiate_async(&mut store).await?;
        Ok(command.wasi_cli_run().call_run(&mut store).await?.is_ok())
    }

    fn store(&self) -> Store<State> {
        let mut wasi = WasiCtx::builder();
        let call = Arc::default();
        wasi.stderr(Tagged { call: Arc::clone(&call), log: self.log.clone() });
        let hooks = (self.equip)(&mut wasi);
        let state = State {
            table: ResourceTable::new(),
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks,
            call,
        };
        Store::new(self.component.proxy.engine(), state)
    }

    async fn instance(&self) -> Result<Instance, Error> {
        let idle = self.idle.as_ref().and_then(|idle| idle.lock().ok()?.pop());
        if let Some((_, instance)) = idle {
            return Ok(instance);
        }
        let mut store = self.store();
        let proxy = self.component.proxy.instantiate_async(&mut store).await?;
        Ok((store, proxy))
    }

    /// Serves one request; `call` is its name in the log. The component goes on running after it has answered.
    ///
    /// # Errors
    /// It trapped, or gave no answer.
    pub async fn handle<B>(
        &self,
        request: Request<B>,
        call: &str,
    ) -> Result<Response<HyperOutgoingBody>, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        let (mut store, proxy) = self.instance().await?;
        if let Ok(mut name) = store.data_mut().call.lock() {
            call.clone_into(&mut name);
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(sender)?;
        let idle = self.idle.clone();
        let running = tokio::task::spawn(async move {
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await?;
            if let Some(mut idle) = idle.as_ref().and_then(|idle| idle.lock().ok()) {
                idle.retain(|(since, _)| since.elapsed() < IDLE);
                idle.push((Instant::now(), (store, proxy)));
            }
            Ok::<_, Error>(())
        });
        let running = async {
            match running.await {
                Ok(ended) => ended,
                Err(error) => Err(error.into()),
            }
        };
        match receiver.await {
            Ok(Ok(response)) => {
                tokio::task::spawn(async {
                    if let Err(error) = running.await {
                        eprintln!("trapped: {error:?}");
                    }
                });
                Ok(response)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                running.await.map_err(|error| error.context("trapped"))?;
                Err(Error::msg("no answer"))
            }
        }
    }
}

/// Like that of `wasmtime serve`: instances come from a pool, where the machine has the address space.
fn engine() -> Result<Engine, Error> {
    let mut config = Config::new();
    let beside = std::env::current_exe().ok();
    if let Some(directory) = beside.and_then(|exe| Some(exe.parent()?.join("wasm-cache"))) {
        let mut cache = CacheConfig::new();
        cache.with_directory(directory);
        config.cache(Cache::new(cache).ok());
    }
    let pool = PoolingAllocationConfig::default();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).or_else(|_| {
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    })
}
