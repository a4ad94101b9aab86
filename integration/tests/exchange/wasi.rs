//! The built component in a wasi:http host: wasmtime and its own implementation of WASI, in this process, on
//! virtual time. What other hosts tell by metrics and access logs is read from the component's log.

mod elsewhere;
mod network;
mod proxy;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use integration::{Answer, Callout, Message};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasi_host::{Host, Loaded};
use wasmtime_wasi::HostWallClock;

use self::network::{Happened, Network, Out};
use crate::proxy::{Id, OPTIMIZER, Proxy, Setup};

/// Where the configuration says that the optimizer is.
const AUTHORITY: &str = "optimizer:8088";
/// Compiled once for all cases.
static COMPONENT: LazyLock<Loaded> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/optimizer-component.wasm");
    Loaded::load(path).unwrap_or_else(|error| panic!("{path} (`make build`?): {error:?}"))
});
/// The wall clock at the start.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);
/// So long after an exchange, what waits for the optimizer is seen to leave, as on hosts with timers.
const STEP: Duration = Duration::from_millis(10);

/// Plays a case, or shows that it does not hold on this host, for a reason that is known.
pub fn play(path: &str, scenario: fn(crate::proxy::Start)) {
    let known = elsewhere::CASES.iter().find(|(case, ..)| path.ends_with(case));
    let Some((case, why, fails_with)) = known else { return scenario(start) };
    let Err(failure) = std::panic::catch_unwind(|| scenario(start)) else {
        panic!("{case} holds on this host too: take it off the list ({why})");
    };
    let text = match failure.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().expect("a panic's text")).to_owned(),
    };
    assert!(
        text.contains(fails_with),
        "{case} fails otherwise than expected ({fails_with}): {text}"
    );
}

struct Clock(Arc<AtomicU64>);

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        EPOCH + Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

struct Wasi {
    runtime: Runtime,
    host: Host,
    clock: Arc<AtomicU64>,
    /// When the runtime's own clock began. It is ahead of the other one: each step takes some of it.
    began: tokio::time::Instant,
    /// The call whose instance is being made.
    starting: Arc<AtomicUsize>,
    sender: UnboundedSender<Happened>,
    happened: UnboundedReceiver<Happened>,
    optimizer_is_alive: Arc<std::sync::atomic::AtomicBool>,
    calls: Vec<Call>,
    callouts: Vec<Callout>,
    /// Who waits for the answer to each callout.
    waiting: Vec<Option<oneshot::Sender<Answer>>>,
    /// Write-backs and records that have left, and are seen once time has passed.
    unseen: Vec<(Callout, oneshot::Sender<Answer>)>,
    logs: Vec<String>,
    counters: BTreeMap<String, u64>,
    samples: BTreeMap<String, Vec<u64>>,
}

struct Call {
    /// Takes the rest of the request.
    request: Option<network::Sender>,
    /// Takes the head of the provider's answer.
    provide: Option<oneshot::Sender<network::Provided>>,
    /// Takes the rest of it.
    response: Option<network::Sender>,
    provider: Message,
    client: Message,
    annotations: BTreeMap<String, String>,
    cut: bool,
    task: JoinHandle<()>,
}

/// Starts the host, and lets the component check its configuration.
pub fn start(mut setup: Setup) -> Result<Box<dyn Proxy>, String> {
    let upstream = &mut setup.config["optimizer"]["upstream"];
    if upstream == OPTIMIZER {
        *upstream = AUTHORITY.into();
    }
    if setup.config.get("provider").is_none() {
        setup.config["provider"] = "http://llm".into();
    }
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (sender, happened) = unbounded_channel();
    let (clock, starting) = (Arc::<AtomicU64>::default(), Arc::<AtomicUsize>::default());
    let optimizer_is_alive = Arc::new(setup.optimizer_is_healthy.into());
    let network = Network {
        starting: Arc::clone(&starting),
        optimizer_is_alive: Arc::clone(&optimizer_is_alive),
        happened: sender.clone(),
    };
    let (json, env, time) = (setup.config.to_string(), setup.env, Arc::clone(&clock));
    let equip = move |wasi: &mut wasmtime_wasi::WasiCtxBuilder| {
        wasi.envs(&env).env("OPTIMIZER_CONFIG", &json).env("OPTIMIZER_LOG", "trace");
        wasi.wall_clock(Clock(Arc::clone(&time)));
        Some(Box::new(network.of_the_starting()) as Box<dyn wasmtime_wasi_http::WasiHttpHooks>)
    };
    let lines = sender.clone();
    let log = move |call: &str, line: &str| {
        let _ = lines.send(Happened::Logged(call.parse().ok(), line.to_owned()));
    };
    let host = Host::new(COMPONENT.clone(), false, Box::new(equip), Box::new(log));
    let taken = runtime.block_on(host.check()).unwrap();
    let mut wasi = Wasi {
        began: runtime.block_on(async { tokio::time::Instant::now() }),
        runtime,
        host,
        clock,
        starting,
        sender,
        happened,
        optimizer_is_alive,
        calls: Vec::new(),
        callouts: Vec::new(),
        waiting: Vec::new(),
        unseen: Vec::new(),
        logs: Vec::new(),
        counters: BTreeMap::new(),
        samples: BTreeMap::new(),
    };
    wasi.settle();
    if taken { Ok(Box::new(wasi)) } else { Err(wasi.logs.join("\n")) }
}

impl Wasi {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    /// Lets everything run until nothing moves any more, and takes in what happened.
    fn settle(&mut self) {
        // Paused time goes on only when there is nothing else to do.
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        while let Ok(happened) = self.happened.try_recv() {
            self.take_in(happened);
        }
    }

    fn take_in(&mut self, happened: Happened) {
        match happened {
            Happened::Provider(id, out) => {
                let call = &mut self.calls[id];
                receive("the provider", &mut call.provider, out);
            }
            Happened::Client(id, out) => {
                let call = &mut self.calls[id];
                call.cut |= receive("the client", &mut call.client, out);
            }
            Happened::Asked(id, provide) => self.calls[id].provide = Some(provide),
            Happened::Called(id, headers, body, answer) => {
                let callout = Callout {
                    id: 0,
                    timeout: None,
                    cluster: OPTIMIZER.to_owned(),
                    headers,
                    body,
                    sent_at: self.now(),
                    stream: Some(id as u32),
                    answered: false,
                };
                let queued = ["/v1/cache", "/v1/record"];
                if queued.iter().any(|path| callout.path().ends_with(path)) {
                    self.unseen.push((Callout { stream: None, ..callout }, answer));
                } else {
                    self.see(callout, answer);
                }
            }
            Happened::Logged(call, line) => self.read(call, &line),
        }
    }

    fn see(&mut self, callout: Callout, answer: oneshot::Sender<Answer>) {
        self.callouts.push(Callout { id: self.callouts.len() as u32 + 1, ..callout });
        self.waiting.push(Some(answer));
    }

    fn read(&mut self, call: Option<Id>, line: &str) {
        let line = line.strip_prefix("optimizer: ").unwrap_or(line);
        match *line.splitn(4, ' ').collect::<Vec<_>>() {
            [_, "Counter", name, value] => {
                *self.counters.entry(name.to_owned()).or_default() += value.parse::<u64>().unwrap();
            }
            [_, "Gauge", name, value] => {
                self.counters.insert(name.to_owned(), value.parse().unwrap());
            }
            [_, "Histogram", name, value] => {
                let value = value.parse().unwrap();
                self.samples.entry(name.to_owned()).or_default().push(value);
            }
            [_, "Note", name, value] => {
                let call = &mut self.calls[call.expect("a note of no call")];
                call.annotations.insert(name.to_owned(), value.to_owned());
            }
            [_, "Closed"] => {}
            _ => self.logs.push(line.to_owned()),
        }
    }

    /// Sends a piece of a body, its end, or what breaks it.
    fn push(sender: &mut Option<network::Sender>, piece: &[u8], end: bool) {
        if let Some(open) = sender
            && !piece.is_empty()
        {
            open.data(piece);
        }
        if end {
            *sender = None;
        }
    }
}

/// Takes in what left the host; whether it broke off.
fn receive(to: &str, message: &mut Message, out: Out) -> bool {
    match out {
        Out::Head(headers, end) => message.headers_out(to, &headers, end),
        Out::Piece(piece) => message.body_out(to, piece, false),
        Out::End if !message.complete => message.body_out(to, Vec::new(), true),
        Out::End => {}
        Out::Trailers(trailers) => message.trailers_out(to, &trailers),
        Out::Broke => return true,
    }
    false
}
