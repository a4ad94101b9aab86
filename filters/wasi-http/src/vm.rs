//! What the calls of one instance share, and the effects that need no call.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::time::Duration;

use optimizer_core::adapter::{Adapter, TICK};
use optimizer_core::callout::Callout;
use optimizer_core::config::Config;
use optimizer_core::effect::Effect;
use optimizer_core::forward::Target;
use optimizer_core::host::Host;
use optimizer_core::plan::Plan;
use wasip2::clocks::wall_clock;
use wasip2::random::random::get_random_u64;

use crate::callout;
use crate::io::{self, Together};

thread_local! {
    /// The instance's state, or why its configuration is refused.
    pub static VM: Result<Vm, String> = Vm::new();
}

/// The state of one instance.
pub struct Vm {
    pub adapter: RefCell<Adapter>,
    pub optimizer: Target,
    pub provider: Target,
    /// Whether something waits in the adapter's queue.
    awake: Cell<bool>,
    /// Whether the log shows what other hosts have metrics and access logs for.
    traces: bool,
    /// The name of the call that is being served, in such lines.
    call: RefCell<String>,
}

impl Vm {
    fn new() -> Result<Self, String> {
        let config = Config::parse(&configuration()?).map_err(|error| error.to_string())?;
        let plan = Plan::compile(config, Host::WasiHttp, |name| std::env::var(name).ok())
            .map_err(|error| error.to_string())?;
        let (Some(optimizer), Some(provider)) = (plan.optimizer(), plan.provider()) else {
            return Err("configuration: provider: is missing".to_owned());
        };
        Ok(Self {
            optimizer: optimizer.clone(),
            provider: provider.clone(),
            adapter: RefCell::new(Adapter::new(plan, get_random_u64())),
            awake: Cell::new(false),
            call: RefCell::default(),
            traces: std::env::var("OPTIMIZER_LOG").is_ok_and(|level| level == "trace"),
        })
    }

    /// Carries out an effect that belongs to no call.
    pub fn carry_out(&self, effect: &Effect) {
        match effect {
            Effect::Log(notice) => say(notice.text()),
            Effect::WakeUp => self.awake.set(true),
            Effect::Sleep => self.awake.set(false),
            Effect::Measure(metric, value) => {
                self.trace(|| format!("{:?} {} {value}", metric.kind(), metric.name()));
            }
            Effect::Annotate(name, value) => self.trace(|| format!("Note {name} {value}")),
            // The rest belongs to calls, or to hosts with shared data.
            _ => {}
        }
    }

    /// A call has come, whose name is its `x-request-id`.
    pub fn begin(&self, id: Option<&[u8]>) {
        if self.traces {
            let id = id.filter(|id| !id.is_empty() && id.iter().all(u8::is_ascii_graphic));
            *self.call.borrow_mut() = String::from_utf8_lossy(id.unwrap_or(b"-")).into_owned();
        }
    }

    /// Tells the operator something of the call, if that was asked for.
    pub fn trace(&self, text: impl FnOnce() -> String) {
        if self.traces {
            say(&format!("{} {}", self.call.borrow(), text()));
        }
    }

    /// Sends what waits, on nobody's time, and as much of it at a time as the core says.
    pub async fn drain(&self) {
        let mut under_way = Together::default();
        loop {
            let mut effects = Vec::new();
            self.adapter.borrow_mut().tick(now(), &mut effects);
            for effect in effects {
                match effect {
                    Effect::Callout(callout) => under_way.add(self.deliver(callout)),
                    effect => self.carry_out(&effect),
                }
            }
            if !self.awake.get() {
                return under_way.end().await;
            }
            io::beside(io::sleep(TICK), under_way.end()).await;
        }
    }

    /// Makes a call that nobody waits for.
    async fn deliver(&self, callout: Callout) {
        let outcome = callout::send(&self.optimizer, &callout).await;
        let mut effects = Vec::new();
        self.adapter.borrow_mut().callout_done(callout.id, outcome, now(), &mut effects);
        effects.iter().for_each(|effect| self.carry_out(effect));
    }
}

/// The time since the Unix epoch.
pub fn now() -> Duration {
    let now = wall_clock::now();
    Duration::new(now.seconds, now.nanoseconds)
}

/// Tells the operator.
pub fn say(text: &str) {
    // There is nobody else to tell if this fails.
    let _ = std::io::stderr().write_all(format!("optimizer: {text}\n").as_bytes());
}

fn configuration() -> Result<Vec<u8>, String> {
    let (json, file) = (std::env::var("OPTIMIZER_CONFIG"), std::env::var("OPTIMIZER_CONFIG_FILE"));
    match (json, file) {
        (Ok(json), Err(_)) => Ok(json.into_bytes()),
        (Err(_), Ok(path)) => std::fs::read(&path)
            .map_err(|error| format!("OPTIMIZER_CONFIG_FILE: {path:?} cannot be read: {error}")),
        (Ok(_), Ok(_)) => {
            Err("expected only one of OPTIMIZER_CONFIG and OPTIMIZER_CONFIG_FILE".to_owned())
        }
        (Err(_), Err(_)) => {
            Err("the environment has neither OPTIMIZER_CONFIG, the configuration as JSON, nor \
             OPTIMIZER_CONFIG_FILE, the name of a file with it"
                .to_owned())
        }
    }
}
