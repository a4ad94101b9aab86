//! What the contexts of one VM share, and the effects that need no stream.

use std::cell::RefCell;
use std::rc::Weak;
use std::time::Duration;

use crate::types::{BufferType, MapType, MetricType};
use crate::{callbacks, hostcalls};
use optimizer_core::adapter::{Adapter, TICK};
use optimizer_core::callout::{Callout, CalloutId, Outcome};
use optimizer_core::effect::Notice;
use optimizer_core::headers::Headers;
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
    metrics: RefCell<Sorted<Metric, u32>>,
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
        let known = self.metrics.borrow().get(&metric).copied();
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
        self.metrics.borrow_mut().insert(metric, id);
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
        let mut told: Vec<(&str, Vec<u8>)> = Vec::new();
        for name in Outcome::told_by(host) {
            let Some(value) = hostcalls::header(MapType::HttpCallResponseHeaders, name) else {
                continue;
            };
            told.push((name, value));
            if Outcome::is_told(host, Headers::new(&fields(&told))) {
                break;
            }
        }
        let fields = fields(&told);
        let headers = Headers::new(&fields);
        let outcome = if let Some(failure) = Outcome::failure(host, headers) {
            failure
        } else if body_size > max_answer_bytes {
            Outcome::TooLarge
        } else {
            let body = hostcalls::buffer(BufferType::HttpCallResponseBody, body_size);
            Outcome::Answer { status: headers.status(), body: body.unwrap_or_default().into() }
        };
        Some((id, outcome))
    }
}

fn fields<'t>(told: &'t [(&str, Vec<u8>)]) -> Vec<(&'t [u8], &'t [u8])> {
    told.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect()
}
