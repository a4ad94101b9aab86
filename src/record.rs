//! The trace that one exchange leaves with the optimizer.

use std::time::Duration;

use bytes::Bytes;

use crate::call::Call;
use crate::json::{self, Kind, Object, ObjectWriter, Unjoined};
use crate::metric::Verdict;
use crate::protocol::Answer;
use crate::usage::Usage;

/// Names of `attribution`; other metadata is not part of a record.
const ATTRIBUTION: [&str; 5] = ["user", "team", "sessionId", "intent", "intentLabel"];

/// What the optimizer said about an exchange, as JSON.
#[derive(Debug)]
pub(crate) struct Said {
    optimization_id: Option<String>,
    /// The items of `decisions`, both hooks'.
    decisions: String,
}

impl Said {
    pub(crate) fn new(optimization_id: Option<&str>) -> Self {
        Self { optimization_id: optimization_id.map(Into::into), decisions: String::new() }
    }

    /// Adds the items of a JSON array.
    pub(crate) fn decide(&mut self, decisions: Option<&str>) {
        let kept = decisions.filter(|all| Answer::keeps(all));
        let items = kept.and_then(|all| all.strip_prefix('[')?.strip_suffix(']'));
        if let Some(items) = items {
            if !self.decisions.is_empty() {
                self.decisions.push(',');
            }
            self.decisions.push_str(items);
        }
    }
}

/// Everything that a record is made of.
pub(crate) struct Facts<'f> {
    pub(crate) call: &'f Call,
    pub(crate) id: &'f str,
    pub(crate) started: Duration,
    pub(crate) ended: Duration,
    /// 0: no answer began.
    pub(crate) status: u16,
    pub(crate) verdict: Verdict,
    /// How long `/v1/optimize` took.
    pub(crate) optimize_took: Option<Duration>,
    /// Only where the optimizer answered.
    pub(crate) said: Option<&'f Said>,
    pub(crate) usage: Option<Usage>,
    /// Prompt and answer, where records carry content.
    pub(crate) input: Option<Bytes>,
    pub(crate) output: Option<Bytes>,
}

/// The body of `POST /v1/record`. What is not known is left out, never null.
pub(crate) fn record(facts: Facts<'_>) -> Unjoined {
    let call = facts.call;
    let mut out = ObjectWriter::with_capacity(1024);
    out.string("id", facts.id)
        .number("ts", millis(facts.started))
        .string("endpoint", call.dialect.endpoint())
        .string("method", "POST");
    if facts.status != 0 {
        out.number("status", facts.status.into());
    }
    if let Some(model) = &call.model {
        out.raw("model", model);
    }
    if let Some(provider) = call.upstream.as_deref().and_then(|name| std::str::from_utf8(name).ok())
    {
        out.string("provider", provider);
    }
    if let Some(usage) = facts.usage {
        usage.write(&mut out);
    }
    out.number("durationMs", millis(facts.ended.saturating_sub(facts.started)));
    if let Some(took) = facts.optimize_took {
        out.number("optimizationLatencyMs", millis(took));
    }
    attribution(call, &mut out);
    if let Some(said) = facts.said.filter(|said| !said.decisions.is_empty()) {
        out.raw("decisions", format!("[{}]", said.decisions));
    }
    if facts.input.is_some() || facts.output.is_some() {
        out.object("content", |content| {
            for (name, body) in [("input", facts.input), ("output", facts.output)] {
                if let Some(body) = body {
                    content.shared(name, body);
                }
            }
        });
    }
    if let Some(said) = facts.said {
        if let Some(id) = &said.optimization_id {
            out.raw("optimizationId", id);
        }
        let applied = matches!(facts.verdict, Verdict::Transformed | Verdict::Hit);
        out.string("optimizationStatus", if applied { "applied" } else { "skipped" });
    }
    out.finish_unjoined()
}

fn attribution(call: &Call, out: &mut ObjectWriter) {
    let Ok(metadata) = Object::parse(&call.caller.metadata) else { return };
    let known = |name| metadata.get(name).filter(|value| json::kind(value) != Kind::Null);
    if ATTRIBUTION.into_iter().all(|name| known(name).is_none()) {
        return;
    }
    out.object("attribution", |attribution| {
        for name in ATTRIBUTION {
            if let Some(value) = known(name) {
                attribution.raw(name, value);
            }
        }
    });
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
