//! The adapter without Wasm: the same core, linked natively, its effects on the two
//! messages gathered for whoever stands between client and provider.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use optimizer_core::adapter::Adapter;
use optimizer_core::config::Config;
use optimizer_core::effect::{Effect, Flow, Side};
use optimizer_core::event::{Body, Event, RequestHead, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::headers::Headers;
use optimizer_core::host::Host;
use optimizer_core::plan::Plan;

use crate::optimizer::Optimizer;

/// A header's name and value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// The only provider.
const UPSTREAM: Option<&[u8]> = Some(b"provider");

/// What all exchanges share.
#[derive(Debug)]
pub struct Shared {
    adapter: Mutex<Adapter>,
    values: Mutex<HashMap<String, Vec<u8>>>,
    optimizer: Optimizer,
}

impl Shared {
    /// An adapter with the module's configuration, asking the optimizer at a port of this machine.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(configuration: &str, optimizer: u16) -> Result<Self, String> {
        let config = Config::parse(configuration.as_bytes()).map_err(|error| error.to_string())?;
        let plan =
            Plan::compile(config, Host::Envoy, |_| None).map_err(|error| error.to_string())?;
        Ok(Self {
            adapter: Mutex::new(Adapter::new(plan, 1)),
            values: Mutex::default(),
            optimizer: Optimizer::at(optimizer),
        })
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be changed of a message.
#[derive(Debug, Default)]
pub struct Changes {
    /// Headers to be set, in the place of all of their values.
    pub set: Vec<(&'static str, Cow<'static, str>)>,
    /// Headers to be removed.
    pub removed: Vec<String>,
    /// The body in the place of the whole one.
    pub body: Option<Bytes>,
}

/// One exchange.
#[derive(Debug)]
pub struct Call {
    shared: Arc<Shared>,
    exchange: Exchange,
    changes: Changes,
    /// Whether the message at hand is held.
    holds: bool,
    /// Its body.
    held: Bytes,
}

impl Call {
    /// An exchange that has not begun.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            exchange: Exchange::new(),
            changes: Changes::default(),
            holds: false,
            held: Bytes::new(),
        }
    }

    /// The request's headers have come.
    pub async fn request_headers(&mut self, fields: &[Field<'_>], end_of_stream: bool) {
        let head = RequestHead {
            headers: Headers::new(fields),
            truncated: false,
            upstream: UPSTREAM,
            properties: &[],
            end_of_stream,
        };
        self.run(Event::RequestHeaders(head)).await;
    }

    /// The answer's headers have come.
    pub async fn response_headers(&mut self, fields: &[Field<'_>], end_of_stream: bool) {
        let head = ResponseHead {
            headers: Headers::new(fields),
            upstream: UPSTREAM,
            from_provider: true,
            end_of_stream,
        };
        self.run(Event::ResponseHeaders(head)).await;
    }

    /// A whole body has come.
    pub async fn body(&mut self, side: Side, body: Vec<u8>) {
        if self.holds {
            self.held = body.into();
            let whole = (&*self.held).into();
            self.run(Event::body(side, Body::Whole(whole))).await;
        }
    }

    /// What is to be changed of the message at hand by now.
    pub fn changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn handle(&mut self, event: Event<'_>) -> Vec<Effect> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut effects = Vec::new();
        self.exchange.handle(&mut locked(&self.shared.adapter), now, event, &mut effects);
        effects
    }

    /// Hands an event in and carries out all that comes of it.
    async fn run(&mut self, event: Event<'_>) {
        let mut waiting = self.handle(event);
        waiting.reverse();
        while let Some(effect) = waiting.pop() {
            let mut more = match effect {
                Effect::Callout(callout) => {
                    let outcome = self.shared.optimizer.call(&callout).await;
                    if self.exchange.wants_request(callout.id, &outcome) {
                        self.handle(Event::RequestBody(Body::Again(self.held.clone())));
                    }
                    self.handle(Event::CalloutDone(callout.id, outcome))
                }
                Effect::LoadShared(key) => {
                    let value = locked(&self.shared.values).get(&key).cloned();
                    self.handle(Event::SharedLoaded(value.as_deref()))
                }
                Effect::StoreShared(key, value) => {
                    locked(&self.shared.values).insert(key, value);
                    continue;
                }
                other => {
                    self.take(other);
                    continue;
                }
            };
            more.reverse();
            waiting.append(&mut more);
        }
    }

    /// Gathers what concerns a message; the rest is an operator's.
    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Flow(_, flow) => self.holds = flow == Flow::Hold,
            Effect::SetHeader(_, name, value) => self.changes.set.push((name, value)),
            Effect::RemoveHeader(_, name) => self.changes.removed.push(name),
            Effect::ReplaceBody(_, body) => self.changes.body = Some(body),
            _ => {}
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.handle(Event::Closed);
    }
}
