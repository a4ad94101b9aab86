//! The host as tests see it: build it, play events to it, look at what came of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use wasmtime::{AsContextMut, Store, StoreLimitsBuilder};

use crate::callout::{Answer, Callout};
use crate::headers::Headers;
use crate::kong::{self, Lua};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::shared_data::SharedData;
use crate::stream::{self, Direction, LocalReply, Stream};
use crate::vm::{self, LogLine, ROOT, State, Usage};

/// Which proxy the host behaves as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Envoy,
    Kong,
}

/// What the host was told about itself and the plugin.
pub(crate) struct Settings {
    pub(crate) profile: Profile,
    /// What Lua does with bodies before the module is asked (Kong).
    pub(crate) lua: Option<Lua>,
    /// Whether the end is told with every message's headers (Kong).
    pub(crate) tells_the_end_with_headers: bool,
    /// How long a metric's name may be, prefix included (Kong).
    pub(crate) max_metric_name: usize,
    pub(crate) configuration: String,
    pub(crate) vm_configuration: String,
    pub(crate) plugin_name: String,
    pub(crate) env: Vec<(String, String)>,
    /// The clusters, and whether each has a healthy host.
    pub(crate) clusters: BTreeMap<String, bool>,
    pub(crate) properties: BTreeMap<String, Vec<u8>>,
    pub(crate) buffer_limit: usize,
    /// Whether the module is shown messages' bodies when it asks for them.
    pub(crate) shows_bodies: bool,
    pub(crate) allow_on_headers_stop_iteration: bool,
    pub(crate) log_level: u32,
    /// The wall clock at the start.
    pub(crate) epoch: Duration,
    pub(crate) shared_data: SharedData,
}

/// Describes a host before it starts. The defaults are those of an untouched Envoy.
pub struct HostBuilder {
    settings: Settings,
    module: Option<Vec<u8>>,
    memory_limit: usize,
}

impl HostBuilder {
    /// The plugin's configuration.
    pub fn config(mut self, configuration: impl Into<String>) -> Self {
        self.settings.configuration = configuration.into();
        self
    }

    /// A cluster with a healthy host.
    pub fn cluster(mut self, name: &str) -> Self {
        self.settings.clusters.insert(name.to_owned(), true);
        self
    }

    /// A cluster without one.
    pub fn dead_cluster(mut self, name: &str) -> Self {
        self.settings.clusters.insert(name.to_owned(), false);
        self
    }

    /// An environment variable of the VM.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let pair = (name.to_owned(), value.to_owned());
        self.settings.env.push(pair);
        self
    }

    /// A property that streams can read, by its dotted path.
    pub fn property(mut self, path: &str, value: impl Into<Vec<u8>>) -> Self {
        let value = value.into();
        self.settings.properties.insert(path.to_owned(), value);
        self
    }

    /// What Lua does with bodies before the module is asked (Kong).
    pub fn lua(mut self, lua: Option<Lua>) -> Self {
        self.settings.lua = lua;
        self
    }

    /// The end is told with every message's headers, as versions before February 2024 do (Kong).
    pub fn tells_the_end_with_headers(mut self) -> Self {
        self.settings.tells_the_end_with_headers = true;
        self
    }

    /// How long a metric's name may be, prefix included (Kong).
    pub fn max_metric_name(mut self, bytes: usize) -> Self {
        self.settings.max_metric_name = bytes;
        self
    }

    /// How many bytes of a body the host buffers in either direction. On Kong: of requests, and more goes to a file.
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.buffer_limit = bytes;
        self
    }

    /// The plugin's `allow_on_headers_stop_iteration`; on unless said otherwise.
    pub fn allow_on_headers_stop_iteration(mut self, allow: bool) -> Self {
        self.settings.allow_on_headers_stop_iteration = allow;
        self
    }

    /// The level below which the host does not log: 0 (trace) to 5 (critical).
    pub fn log_level(mut self, level: u32) -> Self {
        self.settings.log_level = level;
        self
    }

    /// Shares data with other hosts, as workers of one proxy do.
    pub fn shared_data(mut self, shared_data: SharedData) -> Self {
        self.settings.shared_data = shared_data;
        self
    }

    /// Another module than the built filter.
    pub fn module(mut self, wasm: impl Into<Vec<u8>>) -> Self {
        self.module = Some(wasm.into());
        self
    }

    /// The linear memory at which allocation fails.
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// Loads the module and configures the plugin.
    pub fn start(self) -> Result<Host, StartError> {
        let refused = |reason: String, logs: Vec<LogLine>| StartError { reason, logs };
        let module = self.module.unwrap_or_else(vm::built_module);
        let module = vm::compile(&module).map_err(|e| refused(format!("{e:#}"), Vec::new()))?;
        let configured = self.settings.configuration.len() as u32;
        let started = self.settings.vm_configuration.len() as u32;
        let mut store = vm::store(State {
            settings: self.settings,
            instance: None,
            memory: None,
            memory_limit: StoreLimitsBuilder::new().memory_size(self.memory_limit).build(),
            now: Duration::ZERO,
            tick: None,
            metrics: Metrics::default(),
            logs: Vec::new(),
            streams: BTreeMap::new(),
            calls: BTreeMap::new(),
            step: kong::Step::Outside,
            next_context: ROOT + 1,
            callouts: Vec::new(),
            forgotten: 0,
            answer: None,
            current: 0,
            effective: 0,
            filtering: None,
            deferred: Vec::new(),
            trap: None,
            usage: Usage::default(),
            random: 1,
        });
        let mut cx = store.as_context_mut();
        if let Err(error) = vm::instantiate(&mut cx, &module) {
            return Err(refused(format!("{error:#}"), store.into_data().logs));
        }
        vm::call::<_, ()>(&mut cx, ROOT, "proxy_on_context_create", (ROOT, 0u32));
        for (export, size) in [("proxy_on_vm_start", started), ("proxy_on_configure", configured)] {
            let accepted = vm::call::<_, u32>(&mut cx, ROOT, export, (ROOT, size));
            let trap = cx.data().trap.clone();
            if trap.is_some() || accepted == Some(0) {
                let reason = trap.unwrap_or_else(|| format!("{export} returned false"));
                return Err(refused(reason, store.into_data().logs));
            }
        }
        Ok(Host { store })
    }
}

/// Why the proxy does not start.
#[derive(Debug)]
pub struct StartError {
    /// What failed.
    pub reason: String,
    /// What the module had logged.
    pub logs: Vec<LogLine>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        for line in &self.logs {
            write!(f, "\n  {}", line.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for StartError {}

/// A running proxy with one worker, one plugin and a clock that moves when told.
pub struct Host {
    store: Store<State>,
}

/// One exchange in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(u32);

impl Host {
    /// A host to be described.
    pub fn builder() -> HostBuilder {
        HostBuilder {
            settings: Settings {
                profile: Profile::Envoy,
                lua: None,
                tells_the_end_with_headers: false,
                max_metric_name: 256,
                configuration: String::new(),
                vm_configuration: String::new(),
                plugin_name: "optimizer".to_owned(),
                env: Vec::new(),
                clusters: BTreeMap::new(),
                properties: BTreeMap::new(),
                buffer_limit: 1 << 20,
                shows_bodies: true,
                allow_on_headers_stop_iteration: true,
                log_level: 2,
                epoch: Duration::from_secs(1_800_000_000),
                shared_data: SharedData::default(),
            },
            module: None,
            memory_limit: 1 << 30,
        }
    }

    /// A host to be described that behaves as Kong's runtime does.
    pub fn kong() -> HostBuilder {
        let mut builder = Self::builder();
        builder.settings.profile = Profile::Kong;
        builder
    }

    fn is_kong(&self) -> bool {
        self.store.data().settings.profile == Profile::Kong
    }

    // What the client does.

    /// A request's headers arrive.
    pub fn request(&mut self, headers: impl Into<Headers>, end: bool) -> StreamId {
        let mut vm = self.store.as_context_mut();
        let state = vm.data_mut();
        let id = state.next_context;
        state.next_context += 1;
        if state.settings.profile == Profile::Kong {
            vm::call::<_, ()>(&mut vm, id, "proxy_on_context_create", (id, ROOT));
            kong::begin(&mut vm, id, &headers.into(), end);
            return StreamId(id);
        }
        state.streams.insert(id, Stream::default());
        vm::call::<_, ()>(&mut vm, id, "proxy_on_context_create", (id, ROOT));
        stream::headers(&mut vm, id, Direction::Request, headers.into(), end);
        StreamId(id)
    }

    /// A piece of the request's body arrives.
    pub fn request_body(&mut self, id: StreamId, piece: impl AsRef<[u8]>, end: bool) {
        if self.is_kong() {
            let vm = &mut self.store.as_context_mut();
            return kong::request_body(vm, id.0, piece.as_ref(), end);
        }
        let piece = piece.as_ref().to_vec();
        stream::data(&mut self.store.as_context_mut(), id.0, Direction::Request, piece, end);
    }

    /// The request ends with trailers.
    pub fn request_trailers(&mut self, id: StreamId, trailers: impl Into<Headers>) {
        if self.is_kong() {
            // nginx drops them.
            return kong::request_body(&mut self.store.as_context_mut(), id.0, &[], true);
        }
        let trailers = trailers.into();
        stream::trailers(&mut self.store.as_context_mut(), id.0, Direction::Request, trailers);
    }

    /// The client leaves.
    pub fn client_gone(&mut self, id: StreamId) {
        if self.is_kong() {
            return kong::client_gone(&mut self.store.as_context_mut(), id.0);
        }
        stream::reset(&mut self.store.as_context_mut(), id.0);
    }

    // What the upstream does.

    /// The answer's headers arrive from the upstream.
    pub fn response(&mut self, id: StreamId, headers: impl Into<Headers>, end: bool) {
        assert!(
            self.upstream(id).headers.is_some(),
            "the upstream answers a request that it has not seen"
        );
        let mut vm = self.store.as_context_mut();
        if let Some(call) = vm.data_mut().calls.get_mut(&id.0) {
            let headers: Headers = headers.into();
            call.upstream_status = headers.get(":status").map(str::to_owned);
            return kong::response(&mut vm, id.0, headers, end);
        }
        let stream = vm.data_mut().streams.get_mut(&id.0);
        let stream = stream.expect("the stream exists");
        stream.code_details = Some("via_upstream".to_owned());
        stream::headers(&mut vm, id.0, Direction::Response, headers.into(), end);
    }

    /// A piece of the answer's body arrives.
    pub fn response_body(&mut self, id: StreamId, piece: impl AsRef<[u8]>, end: bool) {
        let piece = piece.as_ref().to_vec();
        if self.is_kong() {
            return kong::response_body(&mut self.store.as_context_mut(), id.0, piece, end);
        }
        stream::data(&mut self.store.as_context_mut(), id.0, Direction::Response, piece, end);
    }

    /// The answer ends with trailers.
    pub fn response_trailers(&mut self, id: StreamId, trailers: impl Into<Headers>) {
        if self.is_kong() {
            // nginx drops them.
            return kong::response_body(&mut self.store.as_context_mut(), id.0, Vec::new(), true);
        }
        let trailers = trailers.into();
        stream::trailers(&mut self.store.as_context_mut(), id.0, Direction::Response, trailers);
    }

    /// The proxy, or another filter, answers in the upstream's place.
    pub fn local_reply(&mut self, id: StreamId, status: u16, details: &str, body: &str) {
        if self.is_kong() {
            let mut headers = Headers::from([(":status", status.to_string())]);
            headers.add("content-type", b"text/plain");
            headers.add("content-length", body.len().to_string().as_bytes());
            let vm = &mut self.store.as_context_mut();
            return kong::answer_locally(vm, id.0, &headers, body.as_bytes());
        }
        let reply = LocalReply::plain(status, details, body);
        stream::local_reply(&mut self.store.as_context_mut(), id.0, reply);
    }

    /// A property changes, as `xds.cluster_name` does when a request is routed anew.
    pub fn set_property(&mut self, path: &str, value: impl Into<Vec<u8>>) {
        let properties = &mut self.store.data_mut().settings.properties;
        properties.insert(path.to_owned(), value.into());
    }

    /// Whether the module is shown messages' bodies from now on when it asks for them. Hosts that
    /// hold none may refuse.
    pub fn show_bodies(&mut self, shows: bool) {
        self.store.data_mut().settings.shows_bodies = shows;
    }

    /// The upstream breaks off: before its headers Envoy answers 503, after them the client's connection is cut.
    pub fn upstream_reset(&mut self, id: StreamId) {
        if let Some(call) = self.store.data_mut().calls.get_mut(&id.0) {
            if call.to_client.headers.is_some() {
                return self.client_gone(id);
            }
            call.upstream_status = Some("502".to_owned());
            return self.local_reply(id, 502, "", "<html>bad gateway</html>");
        }
        let begun = self.stream(id).response.headers.is_some();
        match begun {
            true => stream::reset(&mut self.store.as_context_mut(), id.0),
            false => self.local_reply(
                id,
                503,
                "upstream_reset_before_response_started{connection_termination}",
                "upstream connect error or disconnect/reset before headers",
            ),
        }
    }

    // What the clusters behind callouts do.

    /// Whether a cluster has a healthy host from now on.
    pub fn set_healthy(&mut self, cluster: &str, healthy: bool) {
        let clusters = &mut self.store.data_mut().settings.clusters;
        clusters.insert(cluster.to_owned(), healthy);
    }

    /// The callouts not yet answered.
    pub fn pending(&self) -> Vec<&Callout> {
        let callouts = self.store.data().callouts.iter();
        callouts.filter(|callout| !callout.answered).collect()
    }

    /// Every callout so far, since [`Host::forget`].
    pub fn callouts(&self) -> &[Callout] {
        &self.store.data().callouts
    }

    /// The one callout that waits; panics where there is none, or several.
    pub fn pending_one(&self) -> &Callout {
        let pending = self.pending();
        assert_eq!(pending.len(), 1, "pending callouts: {pending:#?}");
        pending[0]
    }

    /// Answers a callout. Callbacks of callouts run on the root context, as in Envoy, so a stream that is gone
    /// gets none through the SDK.
    pub fn answer(&mut self, id: u32, answer: Answer) {
        let index = id as usize - 1 - self.store.data().forgotten;
        let callout = &self.store.data().callouts[index];
        assert!(!callout.answered, "callout {id} has been answered");
        match (&answer, callout.deadline()) {
            (Answer::Timeout, Some(deadline)) => self.advance_to(deadline),
            (Answer::Timeout, None) => panic!("callout {id} waits for ever"),
            _ => self.deliver(index, answer),
        }
    }

    /// A callout comes bit by bit, in time at each step, and takes so long in all (Kong).
    pub fn lets_trickle(&mut self, id: u32, time: Duration) {
        let index = id as usize - 1 - self.store.data().forgotten;
        let callout = &mut self.store.data_mut().callouts[index];
        callout.timeout = callout.timeout.map(|timeout| timeout + time);
    }

    /// A callout fails, and the module is not told: so some versions of Kong's runtime.
    pub fn forgets(&mut self, id: u32) {
        let index = id as usize - 1 - self.store.data().forgotten;
        kong::forget(&mut self.store.as_context_mut(), index);
    }

    fn deliver(&mut self, index: usize, answer: Answer) {
        if self.is_kong() {
            let (headers, body) = answer.seen_on_kong();
            return kong::callout_ended(
                &mut self.store.as_context_mut(),
                index,
                Some(headers),
                &body,
            );
        }
        let mut vm = self.store.as_context_mut();
        let state = vm.data_mut();
        state.callouts[index].answered = true;
        let id = state.callouts[index].id;
        state.answer = answer.seen();
        let (headers, body) =
            state.answer.as_ref().map_or((0, 0), |(h, b)| (h.len() as u32, b.len() as u32));
        vm::call::<_, ()>(
            &mut vm,
            ROOT,
            "proxy_on_http_call_response",
            (ROOT, id, headers, body, 0u32),
        );
        vm.data_mut().answer = None;
    }

    /// Drops what is known of streams that are over and of the callouts before the first that waits: a long
    /// run would need more memory than the module.
    pub fn forget(&mut self) {
        let state = self.store.data_mut();
        state.streams.retain(|_, stream| !stream.deleted);
        state.calls.retain(|_, call| !call.deleted);
        let over = state.callouts.iter().take_while(|callout| callout.answered).count();
        state.callouts.drain(..over);
        state.forgotten += over;
    }

    // Time.

    /// Lets time pass: timers run and callouts time out on the way.
    pub fn advance(&mut self, time: Duration) {
        self.advance_to(self.store.data().now + time);
    }

    fn advance_to(&mut self, target: Duration) {
        loop {
            let state = self.store.data_mut();
            let tick = state.tick.as_ref().map(|tick| tick.due);
            let waiting = state.callouts.iter().enumerate();
            let overdue = waiting
                .filter(|(_, callout)| !callout.answered)
                .filter_map(|(index, callout)| Some((callout.deadline()?, index)))
                .min();
            let next = [tick, overdue.map(|(due, _)| due)];
            let due = next.into_iter().flatten().min();
            let Some(due) = due.filter(|due| *due <= target) else {
                state.now = state.now.max(target);
                return;
            };
            state.now = state.now.max(due);
            match overdue {
                Some((deadline, index)) if deadline == due => self.deliver(index, Answer::Timeout),
                _ => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        let mut vm = self.store.as_context_mut();
        match vm.data().settings.profile {
            Profile::Kong => kong::tick(&mut vm),
            Profile::Envoy => drop(vm::call::<_, ()>(&mut vm, ROOT, "proxy_on_tick", ROOT)),
        }
        let state = vm.data_mut();
        let now = state.now;
        if let Some(tick) = &mut state.tick {
            tick.due = now + tick.period;
        }
    }

    /// Time since the host started.
    pub fn now(&self) -> Duration {
        self.store.data().now
    }

    // What came of it.

    fn stream(&self, id: StreamId) -> &Stream {
        &self.store.data().streams[&id.0]
    }

    /// What the upstream received.
    pub fn upstream(&self, id: StreamId) -> &Message {
        if let Some(call) = self.store.data().calls.get(&id.0) {
            return &call.to_provider;
        }
        &self.stream(id).request.out
    }

    /// What the client received.
    pub fn client(&self, id: StreamId) -> &Message {
        if let Some(call) = self.store.data().calls.get(&id.0) {
            return &call.to_client;
        }
        &self.stream(id).response.out
    }

    /// Whether the exchange is over and the module's context gone.
    pub fn is_over(&self, id: StreamId) -> bool {
        if let Some(call) = self.store.data().calls.get(&id.0) {
            return call.deleted;
        }
        self.stream(id).deleted
    }

    /// Whether the connection broke before the client had its answer.
    pub fn was_cut(&self, id: StreamId) -> bool {
        if let Some(call) = self.store.data().calls.get(&id.0) {
            return call.cut;
        }
        self.stream(id).cut
    }

    /// `response.code_details`.
    pub fn code_details(&self, id: StreamId) -> Option<&str> {
        self.stream(id).code_details.as_deref()
    }

    /// What the module set for the access log, `%FILTER_STATE(wasm.NAME:PLAIN)%`.
    pub fn filter_state(&self, id: StreamId, name: &str) -> Option<String> {
        let value = self.store.data().streams.get(&id.0)?.filter_state.get(name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The module's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.store.data().metrics
    }

    /// What the module logged.
    pub fn logs(&self) -> &[LogLine] {
        &self.store.data().logs
    }

    /// The data shared among workers.
    pub fn shared_data(&self) -> &SharedData {
        &self.store.data().settings.shared_data
    }

    /// How the module died, if it did.
    pub fn trap(&self) -> Option<&str> {
        self.store.data().trap.as_deref()
    }

    /// What the module has cost so far.
    pub fn usage(&self) -> &Usage {
        &self.store.data().usage
    }

    /// The size of the linear memory in bytes.
    pub fn memory_size(&self) -> usize {
        let memory = self.store.data().memory;
        memory.map_or(0, |memory| memory.data_size(&self.store))
    }
}
