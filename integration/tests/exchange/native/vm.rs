//! What a native proxy has of the module: the adapter, its callouts, and what it told.

use std::collections::BTreeMap;
use std::time::Duration;

use integration::{Callout, Headers, check_values};
use optimizer_core::adapter::Adapter;
use optimizer_core::callout::{CalloutId, Outcome};
use optimizer_core::config::Config;
use optimizer_core::headers;
use optimizer_core::host::Host;
use optimizer_core::metric::{Metric, MetricKind};
use optimizer_core::plan::Plan;

use crate::proxy::{Id, OPTIMIZER, Setup};

/// The wall clock at the start.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);
/// The VM's random number.
const SEED: u64 = 1;

pub struct Vm {
    pub adapter: Adapter,
    pub setup: Setup,
    pub now: Duration,
    pub callouts: Vec<Callout>,
    /// For each callout, its name in the core, how much of an answer it takes, and the exchange that waits.
    senders: Vec<(CalloutId, usize, Option<Id>)>,
    pub logs: Vec<String>,
    counters: BTreeMap<String, u64>,
    samples: BTreeMap<String, Vec<u64>>,
}

impl Vm {
    /// Compiles the configuration for a host.
    pub fn new(setup: Setup, host: Host) -> Result<Self, String> {
        let text = setup.config.to_string();
        let config = Config::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        let env = |name: &str| {
            let found = setup.env.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let plan = Plan::compile(config, host, env).map_err(|error| error.to_string())?;
        Ok(Self {
            adapter: Adapter::new(plan, SEED),
            setup,
            now: Duration::ZERO,
            callouts: Vec::new(),
            senders: Vec::new(),
            logs: Vec::new(),
            counters: BTreeMap::new(),
            samples: BTreeMap::new(),
        })
    }

    pub fn clock(&self) -> Duration {
        EPOCH + self.now
    }

    /// A callout leaves, of an exchange or of the timer.
    pub fn send(&mut self, id: Option<Id>, callout: optimizer_core::callout::Callout) {
        let headers = callout.headers.iter().map(|(name, value)| (name, value.as_bytes()));
        let headers = Headers::new(headers);
        check_values("the optimizer", &headers);
        self.senders.push((callout.id, callout.max_answer_bytes, id));
        self.callouts.push(Callout {
            id: self.callouts.len() as u32 + 1,
            cluster: OPTIMIZER.to_owned(),
            headers,
            body: callout.body.to_vec(),
            timeout: Some(callout.timeout),
            sent_at: self.now,
            stream: id.map(|id| id as u32),
            answered: false,
        });
    }

    /// What a callout's answer is to the core, and the exchange that waits for it.
    pub fn answered(
        &mut self,
        index: usize,
        fields: &[(&[u8], &[u8])],
        body: Vec<u8>,
    ) -> (CalloutId, Outcome, Option<Id>) {
        self.callouts[index].answered = true;
        let (callout, most, waiting) = self.senders[index];
        let headers = headers::Headers::new(fields);
        let outcome = match Outcome::status(self.adapter.plan().host(), |name| headers.get(name)) {
            Err(failure) => failure,
            Ok(_) if body.len() > most => Outcome::TooLarge,
            Ok(status) => Outcome::Answer { status, body: body.into() },
        };
        (callout, outcome, waiting)
    }

    /// The callout whose time-out comes first, and when.
    pub fn overdue(&self) -> Option<(Duration, usize)> {
        let waiting = self.callouts.iter().enumerate().filter(|(_, callout)| !callout.answered);
        waiting.filter_map(|(index, callout)| Some((callout.deadline()?, index))).min()
    }

    pub fn measure(&mut self, metric: Metric, value: u64) {
        let name = metric.name();
        match metric.kind() {
            MetricKind::Counter => *self.counters.entry(name).or_default() += value,
            MetricKind::Gauge => drop(self.counters.insert(name, value)),
            MetricKind::Histogram => self.samples.entry(name).or_default().push(value),
        }
    }

    /// The counters that moved.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let set = self.counters.iter().filter(|(_, value)| **value != 0);
        set.map(|(name, value)| (name.clone(), *value)).collect()
    }

    pub fn samples(&self, name: &str) -> Vec<u64> {
        self.samples.get(name).cloned().unwrap_or_default()
    }
}
