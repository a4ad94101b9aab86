//! What the calls of one instance share, and the effects that need no call.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::time::Duration;

use optimizer_core::adapter::Adapter;
use optimizer_core::config::Config;
use optimizer_core::effect::Effect;
use optimizer_core::forward::Target;
use optimizer_core::host::Host;
use optimizer_core::plan::Plan;
use wasip2::clocks::wall_clock;
use wasip2::random::random::get_random_u64;

use crate::callout;

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

    /// Tells the operator, if that was asked for.
    pub fn trace(&self, text: impl FnOnce() -> String) {
        if self.traces {
            say(&text());
        }
    }

    /// Sends what waits, on nobody's time.
    pub async fn drain(&self) {
        while self.awake.get() {
            let mut effects = Vec::new();
            self.adapter.borrow_mut().tick(now(), &mut effects);
            for effect in effects {
                self.carry_out(&effect);
                let Effect::Callout(callout) = effect else { continue };
                let outcome = callout::send(&self.optimizer, &callout).await;
                let mut effects = Vec::new();
                let done = (callout.id, outcome, now());
                self.adapter.borrow_mut().callout_done(done.0, done.1, done.2, &mut effects);
                effects.iter().for_each(|effect| self.carry_out(effect));
            }
        }
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
