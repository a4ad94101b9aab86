//! What the contexts of one VM share, and the effects that need no stream.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Weak;
use std::time::Duration;

use optimizer_core::adapter::Adapter;
use optimizer_core::callout::{Callout, CalloutId, Outcome};
use optimizer_core::headers::Headers;
use optimizer_core::metric::Metric;
use proxy_wasm::types::{BufferType, MapType, MetricType};

use crate::hostcalls;
use crate::stream::State;

/// How often write-backs that wait are looked after, in milliseconds.
pub const TICK_MS: u32 = 10;

/// The adapter of one VM and the host's ids of its metrics. The cells are
/// borrowed between host calls only, so that no callback can meet a borrow.
pub struct Vm {
    pub adapter: RefCell<Adapter>,
    metrics: RefCell<HashMap<Metric, u32>>,
    watched: RefCell<Vec<(u32, Weak<RefCell<State>>)>>,
}

impl Vm {
    pub fn new(adapter: Adapter) -> Self {
        Self {
            adapter: RefCell::new(adapter),
            metrics: RefCell::default(),
            watched: RefCell::default(),
        }
    }

    /// Remembers a stream that is to hear of each tick while its request is held.
    pub fn watch(&self, context: u32, stream: Weak<RefCell<State>>) {
        self.watched.borrow_mut().push((context, stream));
    }

    /// Time has passed: tells the streams that wait for it.
    pub fn tick(&self, root: u32) {
        let mut watched = self.watched.take();
        watched.retain(|(context, stream)| {
            let Some(stream) = stream.upgrade() else { return false };
            // Its host calls are the stream's own, not the root context's.
            hostcalls::set_effective_context(*context)
                && stream.try_borrow_mut().is_ok_and(|mut stream| stream.tick())
        });
        if !watched.is_empty() {
            self.watched.borrow_mut().append(&mut watched);
        }
        hostcalls::set_effective_context(root);
    }

    /// Counts or records; a metric is defined when it is first used.
    pub fn measure(&self, metric: Metric, value: u64) {
        let known = self.metrics.borrow().get(&metric).copied();
        let id = known.or_else(|| {
            let kind =
                if metric.is_histogram() { MetricType::Histogram } else { MetricType::Counter };
            let id = hostcalls::define_metric(kind, &metric.name())?;
            self.metrics.borrow_mut().insert(metric, id);
            Some(id)
        });
        match id {
            Some(id) if metric.is_histogram() => hostcalls::record_metric(id, value),
            Some(id) => hostcalls::increment_metric(id, value),
            None => {}
        }
    }

    /// The host's name for where callouts go.
    pub fn upstream(&self) -> String {
        self.adapter.borrow().plan().upstream().to_owned()
    }
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
    /// Sends a callout; false if the host refused.
    pub fn send(&mut self, upstream: &str, callout: &Callout) -> bool {
        let headers = callout.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let timeout: Duration = callout.timeout;
        // Through the SDK, whose dispatcher must know the token when the answer comes.
        let sent = proxy_wasm::hostcalls::dispatch_http_call(
            upstream,
            headers,
            Some(&callout.body),
            Vec::new(),
            timeout,
        );
        let Ok(token) = sent else {
            return false;
        };
        let (id, max_answer_bytes) = (callout.id, callout.max_answer_bytes);
        self.0.push(Pending { token, id, max_answer_bytes });
        true
    }

    /// Reads how a callout ended.
    pub fn ended(&mut self, token: u32, body_size: usize) -> Option<(CalloutId, Outcome)> {
        let index = self.0.iter().position(|pending| pending.token == token)?;
        let Pending { id, max_answer_bytes, .. } = self.0.swap_remove(index);
        let map = hostcalls::header_map(MapType::HttpCallResponseHeaders);
        let fields = hostcalls::pairs(&map);
        let headers = Headers::new(&fields);
        let outcome = if let Some(failure) = Outcome::failure(headers) {
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
