//! What the contexts of one VM share, and the effects that need no stream.

use std::cell::{Cell, RefCell};
use std::rc::Weak;
use std::time::Duration;

use crate::types::{BufferType, MapType, MetricType};
use crate::{callbacks, hostcalls};
use optimizer_core::adapter::{Adapter, TICK};
use optimizer_core::callout::{Callout, CalloutId, Outcome};
use optimizer_core::effect::{Effect, Notice};
use optimizer_core::host::Host;
use optimizer_core::metric::{Metric, MetricKind};
use optimizer_core::sorted::Sorted;

/// The adapter of one VM and the host's ids of its metrics. The cells are
/// borrowed between host calls only, so that no callback can meet a borrow.
pub struct Vm {
    pub host: Host,
    has_metrics: bool,
    /// The host's name for where callouts go.
    pub upstream: String,
    pub adapter: RefCell<Adapter>,
    /// Those that are defined, at their metrics' numbers.
    metrics: RefCell<Vec<Option<u32>>>,
    /// Memory for the effects of one event.
    effects: Cell<Vec<Effect>>,
    /// Streams that hold a message, by context.
    holding: RefCell<Sorted<u32, Weak<dyn Holding>>>,
}

impl Vm {
    pub fn new(adapter: Adapter) -> Self {
        Self {
            host: adapter.plan().host(),
            has_metrics: adapter.plan().has_metrics(),
            upstream: adapter.plan().upstream().to_owned(),
            adapter: RefCell::new(adapter),
            metrics: RefCell::default(),
            effects: Cell::default(),
            holding: RefCell::default(),
        }
    }

    /// What has to be done while the plugin is being configured: later Kong's runtime would
    /// end the VM, for a timer set by a stream or set again, and for a metric it has no room for.
    pub fn start(&self) {
        if self.host == Host::Kong {
            hostcalls::set_tick_period(TICK);
        }
        if self.has_metrics && self.adapter.borrow().plan().can().metrics_may_fail {
            for metric in Metric::all() {
                self.define(metric);
            }
        }
    }

    /// Ticks are needed.
    pub fn wake_up(&self) {
        if self.host != Host::Kong {
            hostcalls::set_tick_period(TICK);
        }
    }

    /// Ticks are not needed any more.
    pub fn sleep(&self) {
        if self.host != Host::Kong {
            hostcalls::set_tick_period(Duration::ZERO);
        }
    }

    /// The effects that `take_in` pushes, to be carried out.
    pub fn effects(&self, take_in: impl FnOnce(&mut Adapter, &mut Vec<Effect>)) -> Vec<Effect> {
        let mut effects = self.effects.take();
        take_in(&mut self.adapter.borrow_mut(), &mut effects);
        effects
    }

    /// Takes their memory back.
    pub fn recycle(&self, mut effects: Vec<Effect>) {
        effects.clear();
        self.effects.set(effects);
    }

    /// Remembers whether a stream holds a message.
    pub fn hold(&self, context: u32, stream: &Weak<dyn Holding>, holds: bool) {
        let mut holding = self.holding.borrow_mut();
        if holds {
            holding.insert(context, stream.clone());
        } else {
            holding.remove(&context);
        }
    }

    /// Time has passed: tells the streams that hold a message.
    pub fn tick(&self, root: u32) {
        if !self.adapter.borrow().plan().can().let_go_any_time {
            return;
        }
        let holding = self.holding.borrow().clone();
        for (context, stream) in holding {
            // A stream's host calls are its own, not the root context's.
            match stream.upgrade().filter(|_| hostcalls::set_effective_context(context)) {
                Some(stream) => stream.tick(),
                None => self.hold(context, &stream, false),
            }
        }
        hostcalls::set_effective_context(root);
    }

    /// Counts or records; a metric is defined when it is first used.
    pub fn measure(&self, metric: Metric, value: u64) {
        if !self.has_metrics {
            return;
        }
        let known = self.metrics.borrow().get(metric.number()).copied().flatten();
        let Some(id) = known.or_else(|| self.define(metric)) else { return };
        match metric.kind() {
            MetricKind::Counter => hostcalls::increment_metric(id, value),
            MetricKind::Gauge | MetricKind::Histogram => hostcalls::record_metric(id, value),
        }
    }

    fn define(&self, metric: Metric) -> Option<u32> {
        let kind = match metric.kind() {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
        };
        let id = hostcalls::define_metric(kind, &metric.name())?;
        let mut metrics = self.metrics.borrow_mut();
        let number = metric.number();
        if metrics.len() <= number {
            metrics.resize(number.saturating_add(1), None);
        }
        if let Some(known) = metrics.get_mut(number) {
            *known = Some(id);
        }
        Some(id)
    }
}

/// A stream that holds a message.
pub trait Holding {
    /// Time has passed.
    fn tick(&self);
}

/// Tells the operator.
pub fn log(notice: Notice) {
    let level = if notice.is_warning() { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "optimizer: {}", notice.text());
}

/// The callouts of one context that have not ended.
#[derive(Default)]
pub struct Callouts(Vec<Pending>);

struct Pending {
    token: u32,
    id: CalloutId,
    max_answer_bytes: usize,
}

impl Callouts {
    /// Sends a callout of `context`; false if the host refused.
    pub fn send(&mut self, context: u32, upstream: &str, callout: &Callout) -> bool {
        let sent = hostcalls::call(upstream, &callout.headers, &callout.body, callout.timeout);
        let Some(token) = sent else {
            return false;
        };
        callbacks::expect_answer(token, context);
        let (id, max_answer_bytes) = (callout.id, callout.max_answer_bytes);
        self.0.push(Pending { token, id, max_answer_bytes });
        true
    }

    /// Whether any has not ended.
    pub fn are_pending(&self) -> bool {
        !self.0.is_empty()
    }

    /// Reads how a callout ended, if it is one of these.
    pub fn ended(
        &mut self,
        host: Host,
        token: u32,
        body_size: usize,
    ) -> Option<(CalloutId, Outcome)> {
        let index = self.0.iter().position(|pending| pending.token == token)?;
        let Pending { id, max_answer_bytes, .. } = self.0.swap_remove(index);
        // One by one: a host may keep what it copied together for the whole map, for ever.
        let header = |name| hostcalls::header(MapType::HttpCallResponseHeaders, name);
        let outcome = match Outcome::status(host, header) {
            Err(failure) => failure,
            Ok(_) if body_size > max_answer_bytes => Outcome::TooLarge,
            Ok(status) => {
                let body = hostcalls::buffer(BufferType::HttpCallResponseBody, body_size);
                Outcome::Answer { status, body: body.unwrap_or_default().into() }
            }
        };
        Some((id, outcome))
    }
}
