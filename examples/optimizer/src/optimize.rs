//! What is done with a request and with a response.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::{IntoResponse, Response};
use optimizer_core::dialect::Dialect;
use optimizer_core::strategies::{self, Call, Hook, Outcome, Strategy};
use serde_json::value::RawValue;

use crate::cache::Cache;
use crate::originals::Originals;
use crate::wire::{
    Decision, OptimizeAnswer, OptimizeCall, OptimizeResponseAnswer, OptimizeResponseCall,
    SuppressedKind,
};

const PROTOCOL_VERSION: u8 = 1;

/// The strategies, with what they need to work.
pub struct Optimizer {
    pub strategies: Vec<Strategy>,
    pub cache: Cache,
    pub originals: Originals,
    pub ids: Ids,
}

/// What the log says of a call beside its status: names and counts, no content.
#[derive(Clone)]
pub struct Note(pub String);

impl Optimizer {
    /// `/v1/optimize`.
    pub fn request(&self, call: OptimizeCall<'_>) -> Response {
        let original = call.request.0;
        let scope = call.metadata.unwrap_or_default().cache_scope();
        let can_short_circuit = call.capabilities.unwrap_or_default().can_short_circuit;
        // What the protocol does not know is neither cached nor changed.
        let dialect = Dialect::from_endpoint(&call.endpoint);
        // From the request as the client sent it: strategies may change from call to call.
        let cache_key = dialect
            .filter(|_| can_short_circuit)
            .and_then(|dialect| self.cache.key(scope.as_deref(), dialect, original.get()));
        let hit = cache_key.as_deref().and_then(|key| self.cache.get(key));

        let kinds = call.enabled_kinds.as_deref();
        let outcome = match dialect {
            Some(dialect) if hit.is_none() => self.run(Hook::Request, dialect, original, kinds),
            _ => Outcome::default(),
        };
        for original in outcome.originals {
            self.originals.keep(original);
        }
        let changed = raw(outcome.body);
        let decisions = decisions(outcome.decisions);
        let saved = decisions.iter().map(|d| d.estimated_tokens_saved).sum();
        let note = format!("{} hit={} saved={saved}", note(dialect, &decisions), hit.is_some());
        let answer = OptimizeAnswer {
            protocol_version: PROTOCOL_VERSION,
            optimization_id: self.ids.next(),
            request: changed.as_deref().unwrap_or(original),
            decisions,
            estimated_tokens_saved: saved,
            cache_hit: hit.is_some(),
            cache_eligible: cache_key.is_some(),
            cache_key,
            cached_response: hit.as_deref(),
            suppressed_kinds: outcome
                .suppressed
                .into_iter()
                .map(|suppressed| SuppressedKind {
                    kind: suppressed.kind,
                    reason: suppressed.reason,
                })
                .collect(),
        };
        noted(Json(answer), note)
    }

    /// `/v1/optimize-response`.
    pub fn response(&self, call: OptimizeResponseCall<'_>) -> Response {
        let original = call.response.0;
        let dialect = Dialect::from_endpoint(&call.endpoint);
        let outcome = dialect
            .map(|dialect| self.run(Hook::Response, dialect, original, None))
            .unwrap_or_default();
        let changed = raw(outcome.body);
        let decisions = decisions(outcome.decisions);
        let note = note(dialect, &decisions);
        let answer = OptimizeResponseAnswer {
            protocol_version: PROTOCOL_VERSION,
            response: changed.as_deref().unwrap_or(original),
            decisions,
        };
        noted(Json(answer), note)
    }

    fn run(
        &self,
        hook: Hook,
        dialect: Dialect,
        body: &RawValue,
        kinds: Option<&[String]>,
    ) -> Outcome {
        let asked = |strategy: &&Strategy| {
            strategy.hook() == hook
                && kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind == strategy.kind()))
        };
        let call = Call { dialect, body: body.get(), can_retrieve: self.originals.enabled() };
        strategies::run(self.strategies.iter().filter(asked), call)
    }
}

fn raw(body: Option<String>) -> Option<Box<RawValue>> {
    body.and_then(|body| RawValue::from_string(body).ok())
}

fn decisions(decisions: Vec<strategies::Decision>) -> Vec<Decision> {
    decisions
        .into_iter()
        .map(|decision| Decision {
            kind: decision.kind,
            summary: decision.summary,
            applied: true,
            estimated_tokens_saved: decision.estimated_tokens_saved,
        })
        .collect()
}

fn note(dialect: Option<Dialect>, decisions: &[Decision]) -> String {
    // What is no endpoint could be anything.
    let endpoint = dialect.map_or("-", Dialect::endpoint);
    let kinds: Vec<_> = decisions.iter().map(|decision| decision.kind).collect();
    format!("endpoint={endpoint} applied={}", kinds.join(","))
}

fn noted(answer: impl IntoResponse, note: String) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(Note(note));
    response
}

/// Names for optimizations: the start's time, then a count.
pub struct Ids {
    start: u128,
    count: AtomicU64,
}

impl Ids {
    pub fn new() -> Ids {
        let start = SystemTime::now().duration_since(UNIX_EPOCH);
        Ids { start: start.map_or(0, |elapsed| elapsed.as_nanos()), count: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{:x}-{count:x}", self.start)
    }
}
