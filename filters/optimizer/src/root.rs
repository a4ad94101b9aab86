//! The root context: configuration, and what happens outside of any stream.

use std::hash::Hasher;
use std::rc::Rc;

use log::{error, info, warn};
use optimizer_core::adapter::Adapter;
use optimizer_core::callout::{CalloutId, Outcome};
use optimizer_core::config::{Config, ConfigError};
use optimizer_core::effect::Effect;
use optimizer_core::host::Host;
use optimizer_core::plan::Plan;

use crate::hostcalls;
use crate::types::BufferType;
use crate::vm::{Callouts, Vm, log};

pub struct Root {
    context: u32,
    vm: Option<Rc<Vm>>,
    callouts: Callouts,
}

impl Root {
    pub fn new(context: u32) -> Self {
        Self { context, vm: None, callouts: Callouts::default() }
    }

    fn run(&mut self, vm: &Vm, take_in: impl FnOnce(&mut Adapter, &mut Vec<Effect>)) {
        let mut effects = vm.effects(take_in);
        for effect in effects.drain(..) {
            match effect {
                Effect::Callout(callout) => {
                    let sent = self.callouts.send(self.context, &vm.upstream, &callout);
                    if !sent {
                        self.done(vm, callout.id, Outcome::DispatchFailed);
                    }
                }
                Effect::Measure(metric, value) => vm.measure(metric, value),
                Effect::Sleep => vm.sleep(),
                Effect::Log(notice) => log(notice),
                // The rest belongs to streams.
                _ => {}
            }
        }
        vm.recycle(effects);
    }

    fn done(&mut self, vm: &Vm, id: CalloutId, outcome: Outcome) {
        let now = hostcalls::now();
        self.run(vm, |adapter, effects| adapter.callout_done(id, outcome, now, effects));
    }

    /// What the contexts of this configuration share, once it is read.
    pub fn vm(&self) -> Option<Rc<Vm>> {
        self.vm.clone()
    }

    /// A callout has ended, `body_size` bytes of its answer's body are there.
    pub fn callout_done(&mut self, token: u32, body_size: usize) {
        let Some(vm) = self.vm.clone() else { return };
        let ended = self.callouts.ended(vm.host, token, body_size);
        if let Some((id, outcome)) = ended {
            self.done(&vm, id, outcome);
        }
    }

    /// Reads the configuration of so many bytes; false if it is none.
    pub fn configure(&mut self, size: usize) -> bool {
        let json = match size {
            0 => Vec::new(),
            _ => hostcalls::buffer(BufferType::PluginConfiguration, size).unwrap_or_default(),
        };
        match plan(&json) {
            Ok(plan) => {
                let ready = plan.introduction();
                match plan.notes() {
                    [] => info!("optimizer: {ready}"),
                    _ => warn!("optimizer: {ready}"),
                }
                let vm = Rc::new(Vm::new(Adapter::new(plan, seed())));
                self.vm = Some(vm.clone());
                vm.start();
                self.run(&vm, |adapter, effects| adapter.start(effects));
                true
            }
            Err(error) => {
                error!("optimizer: {error}");
                false
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        if let Some(vm) = self.vm.clone() {
            vm.tick(self.context);
            let now = hostcalls::now();
            self.run(&vm, |adapter, effects| adapter.tick(now, effects));
        }
    }
}

/// A random number; the hasher's keys come from the host's random source.
fn seed() -> u64 {
    std::hash::BuildHasher::build_hasher(&std::hash::RandomState::new()).finish()
}

fn plan(json: &[u8]) -> Result<Plan, ConfigError> {
    let config = Config::parse(json)?;
    // Envoy knows no such property; Kong's runtime knows it, but not at this time.
    let host = match hostcalls::property(&["ngx", "pid"]) {
        Err(hostcalls::NOT_FOUND) => Host::Envoy,
        _ => Host::Kong,
    };
    Plan::compile(config, host, |name| std::env::var(name).ok())
}
