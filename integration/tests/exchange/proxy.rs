//! What a proxy with the adapter in it can be told and asked, whichever host it stands for.

use std::collections::BTreeMap;
use std::time::Duration;

use integration::{Answer, Callout, Headers, Lua, Message, SharedData};
use optimizer_core::bypass::Bypass;
use optimizer_core::host::{Capabilities, Host};
use serde_json::{Value, json};

/// The name that the configurations of this suite give the optimizer.
pub const OPTIMIZER: &str = "optimizer:8088";

/// What a proxy is started with.
#[derive(Clone)]
pub struct Setup {
    /// The module's configuration.
    pub config: Value,
    /// The VM's environment.
    pub env: Vec<(String, String)>,
    /// How many bytes of a body the proxy buffers.
    pub buffer_limit: usize,
    /// Whether it shows the module the bodies of messages whose headers are held (Envoy).
    pub shows_held_bodies: bool,
    /// What Lua does with a body before the module is asked (Kong).
    pub lua: Option<Lua>,
    /// What the proxy knows of each request.
    pub properties: BTreeMap<String, Vec<u8>>,
    /// Whether the optimizer's cluster has a healthy host.
    pub optimizer_is_healthy: bool,
    /// The data shared with other workers.
    pub shared_data: SharedData,
}

impl Default for Setup {
    /// An untouched Envoy in front of one provider, and the shortest configuration.
    fn default() -> Self {
        Self {
            config: json!({"optimizer": {"upstream": OPTIMIZER}}),
            env: Vec::new(),
            buffer_limit: 1 << 20,
            shows_held_bodies: true,
            lua: Some(Lua::ReadsAndSets),
            properties: BTreeMap::from([("xds.cluster_name".to_owned(), b"llm".to_vec())]),
            optimizer_is_healthy: true,
            shared_data: SharedData::default(),
        }
    }
}

impl Setup {
    /// Sets members of the configuration, by path: `hooks.response`.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        let pointer = path.split('.').fold(&mut self.config, |config, name| &mut config[name]);
        *pointer = value.into();
        self
    }

    /// Buffers of 32 MiB, which the module is told of.
    pub fn large_buffers(mut self) -> Self {
        self.buffer_limit = 32 << 20;
        self.with("limits.host_buffer_bytes", 32 << 20)
    }

    /// The same for Kong's runtime, with transforms switched on.
    pub fn on_kong(mut self) -> Self {
        if self.config["kong"]["transform"].is_null() {
            self = self.with("kong.transform", true);
        }
        if let Some(upstream) = self.properties.remove("xds.cluster_name") {
            self.properties.insert("kong.service_id".to_owned(), upstream);
        }
        self
    }

    /// Anyone may be answered from the cache.
    pub fn serves_anyone(self) -> Self {
        self.with("cache.serve", "anyone")
    }
}

/// One exchange in a proxy.
pub type Id = usize;

/// A running proxy. Nothing in it moves unless told.
pub trait Proxy {
    /// A request's headers arrive.
    fn request(&mut self, headers: &Headers, end: bool) -> Id;
    /// A piece of its body arrives.
    fn request_body(&mut self, id: Id, piece: &[u8], end: bool);
    /// It ends with trailers.
    fn request_trailers(&mut self, id: Id, trailers: &Headers);
    /// The client leaves.
    fn client_gone(&mut self, id: Id);
    /// The provider's headers arrive.
    fn response(&mut self, id: Id, headers: &Headers, end: bool);
    /// A piece of its body arrives.
    fn response_body(&mut self, id: Id, piece: &[u8], end: bool);
    /// It ends with trailers.
    fn response_trailers(&mut self, id: Id, trailers: &Headers);
    /// The provider breaks off.
    fn provider_reset(&mut self, id: Id);
    /// The proxy, or another filter in it, answers in the provider's place.
    fn local_answer(&mut self, id: Id, status: u16);
    /// The optimizer's cluster has no healthy host from now on.
    fn optimizer_dies(&mut self);
    /// Requests are routed to another provider from now on.
    fn reroute(&mut self, upstream: &str);

    /// Every callout so far.
    fn callouts(&self) -> &[Callout];
    /// Answers one of them.
    fn answer(&mut self, callout: u32, answer: Answer);
    /// How long one of them is waited for. A host that is not told waits, to its end.
    fn time_out(&mut self, callout: u32) -> Option<Duration> {
        self.callouts()[callout as usize - 1].timeout
    }
    /// Lets time pass.
    fn advance(&mut self, time: Duration);

    /// What the provider received.
    fn provider_got(&self, id: Id) -> &Message;
    /// What the client received.
    fn client_got(&self, id: Id) -> &Message;
    /// Whether the client's connection broke.
    fn was_cut(&self, id: Id) -> bool;
    /// A value for the access log.
    fn annotation(&self, id: Id, name: &str) -> Option<String>;
    /// What the module logged.
    fn logs(&self) -> Vec<String>;
    /// Every counter that is not 0.
    fn counters(&self) -> BTreeMap<String, u64>;
    /// The samples of a histogram.
    fn samples(&self, name: &str) -> Vec<u64>;

    /// Which host it is.
    fn is(&self) -> Host;

    /// What it can do.
    fn can(&self) -> Capabilities {
        self.is().capabilities()
    }

    /// Whether this host ever leaves a call alone for this reason, as others do.
    fn reaches(&self, _: Bypass) -> bool {
        true
    }

    /// Of thousands of like exchanges, each so-manieth is played: on some hosts one takes long.
    fn stride(&self) -> usize {
        1
    }

    /// The callouts that wait for an answer.
    fn pending(&self) -> Vec<Callout> {
        let callouts = self.callouts().iter();
        callouts.filter(|callout| !callout.answered).cloned().collect()
    }
}

/// How a host of the suite is started; an error says why the configuration is refused.
pub type Start = fn(Setup) -> Result<Box<dyn Proxy>, String>;

/// Defines test cases that run on every host of the suite.
macro_rules! on_every_host {
    ($($(#[doc = $doc:literal])* fn $name:ident($start:ident) $body:block)+) => {
        $(mod $name {
            #[allow(unused_imports)]
            use super::*;

            $(#[doc = $doc])*
            fn scenario($start: crate::proxy::Start) $body

            #[test]
            fn native() {
                scenario(crate::native::start);
            }

            #[test]
            fn wasm() {
                scenario(crate::wasm::start);
            }

            #[test]
            fn native_on_kong() {
                scenario(crate::native::kong::start);
            }

            #[test]
            fn wasm_on_kong() {
                scenario(crate::wasm::start_on_kong);
            }

            #[test]
            fn wasi() {
                crate::wasi::play(module_path!(), scenario);
            }
        })+
    };
}
pub(crate) use on_every_host;
