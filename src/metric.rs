//! What is counted. Content-free by construction: labels come from fixed sets.

use std::borrow::Cow;
use std::time::Duration;

use crate::breaker::Transition;
use crate::bypass::Bypass;
use crate::callout::{CalloutResult, Kind};
use crate::dialect::Dialect;

/// How a hook, or a write-back, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The optimizer changed the message.
    Transformed,
    /// The optimizer answered and changed nothing.
    Unchanged,
    /// The client was answered from the cache.
    Hit,
    /// Left alone.
    Bypassed(Bypass),
}

impl Verdict {
    /// The verdict as metrics spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Transformed => "transformed",
            Verdict::Unchanged => "unchanged",
            Verdict::Hit => "hit",
            Verdict::Bypassed(_) => "bypassed",
        }
    }

    /// Why the message was left alone, `none` if it was not.
    pub const fn reason(self) -> &'static str {
        match self {
            Verdict::Bypassed(reason) => reason.name(),
            _ => "none",
        }
    }

    /// The verdict as access logs show it: `transformed`, `bypassed:opted_out`.
    pub fn annotation(self) -> Cow<'static, str> {
        match self {
            Verdict::Bypassed(reason) => format!("bypassed:{}", reason.name()).into(),
            other => other.name().into(),
        }
    }
}

/// A time as histograms take it.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How a metric takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Adds it.
    Counter,
    /// Is it.
    Gauge,
    /// Takes it for one observation.
    Histogram,
}

/// A counter, a gauge or a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Exchanges on LLM endpoints, by what the request hook came to.
    Exchanges(Verdict),
    /// Answers that the response hook considered, by what it came to.
    Responses(Verdict),
    /// Answers with a cache key: queued for the write-back (`None`), or why not.
    WriteBacks(Option<Bypass>),
    /// Answers that began: read along to their end (`None`), or why not.
    Answers(Option<Bypass>),
    /// Records: queued (`None`), or why not.
    Records(Option<Bypass>),
    /// What became of the breaker.
    BreakerTransitions(Transition),
    /// Gauge: 1 while the breaker is open.
    BreakerOpen,
    /// Callouts by result.
    Callouts(Kind, CalloutResult),
    /// Histogram: how long a callout took, in microseconds.
    CalloutDuration(Kind),
    /// Tokens saved by applied transforms, as the optimizer estimates them.
    TokensSaved,
    /// 4xx of the provider after an applied transform.
    ProviderRejections,
    /// Histogram: tokens that went into an answer, as its usage says.
    InputTokens(Dialect),
    /// Histogram: tokens of an answer, as its usage says.
    OutputTokens(Dialect),
    /// Histogram: from the request's headers to the end of the exchange, in microseconds.
    OperationDuration(Dialect),
    /// Histogram: from the request's headers to the first bytes of a streamed answer, in microseconds.
    TimeToFirstToken(Dialect),
}

impl Metric {
    /// Every metric.
    pub fn all() -> impl Iterator<Item = Metric> {
        let verdicts = || {
            [Verdict::Transformed, Verdict::Unchanged, Verdict::Hit]
                .into_iter()
                .chain(Bypass::ALL.iter().copied().map(Verdict::Bypassed))
        };
        let reasons = || std::iter::once(None).chain(Bypass::ALL.iter().copied().map(Some));
        let callouts = Kind::ALL.into_iter().flat_map(|kind| {
            let results = CalloutResult::ALL.map(|result| Metric::Callouts(kind, result));
            results.into_iter().chain([Metric::CalloutDuration(kind)])
        });
        let operations = Dialect::ALL.into_iter().flat_map(|dialect| {
            [
                Metric::InputTokens(dialect),
                Metric::OutputTokens(dialect),
                Metric::OperationDuration(dialect),
                Metric::TimeToFirstToken(dialect),
            ]
        });
        [Metric::BreakerOpen, Metric::TokensSaved, Metric::ProviderRejections]
            .into_iter()
            .chain(Transition::ALL.map(Metric::BreakerTransitions))
            .chain(verdicts().map(Metric::Exchanges))
            .chain(verdicts().map(Metric::Responses))
            .chain(reasons().map(Metric::Answers))
            .chain(reasons().map(Metric::WriteBacks))
            .chain(reasons().map(Metric::Records))
            .chain(callouts)
            .chain(operations)
    }

    /// A number that no other metric has, below 2000.
    pub const fn number(self) -> usize {
        /// More than a family has members.
        const FAMILY: usize = 128;
        const fn verdict(verdict: Verdict) -> usize {
            match verdict {
                Verdict::Transformed => 0,
                Verdict::Unchanged => 1,
                Verdict::Hit => 2,
                Verdict::Bypassed(reason) => (reason as usize).saturating_add(3),
            }
        }
        const fn reason(reason: Option<Bypass>) -> usize {
            match reason {
                None => 0,
                Some(reason) => (reason as usize).saturating_add(1),
            }
        }
        let (family, member) = match self {
            Metric::Exchanges(it) => (0, verdict(it)),
            Metric::Responses(it) => (1, verdict(it)),
            Metric::WriteBacks(it) => (2, reason(it)),
            Metric::Answers(it) => (3, reason(it)),
            Metric::Records(it) => (4, reason(it)),
            Metric::BreakerTransitions(it) => (5, it as usize),
            Metric::BreakerOpen => (6, 0),
            Metric::Callouts(kind, result) => (7, (kind as usize) << 4 | result as usize),
            Metric::CalloutDuration(kind) => (8, kind as usize),
            Metric::TokensSaved => (9, 0),
            Metric::ProviderRejections => (10, 0),
            Metric::InputTokens(dialect) => (11, dialect as usize),
            Metric::OutputTokens(dialect) => (12, dialect as usize),
            Metric::OperationDuration(dialect) => (13, dialect as usize),
            Metric::TimeToFirstToken(dialect) => (14, dialect as usize),
        };
        FAMILY.saturating_mul(family).saturating_add(member)
    }

    /// The metric's name. Labels stand in it as `.label.value` pairs.
    pub fn name(self) -> String {
        fn outcome(family: &str, outcome: &str, reason: &str) -> String {
            format!("optimizer_{family}.outcome.{outcome}.reason.{reason}")
        }
        match self {
            Metric::Exchanges(verdict) => outcome("exchanges", verdict.name(), verdict.reason()),
            Metric::Responses(verdict) => outcome("responses", verdict.name(), verdict.reason()),
            Metric::WriteBacks(None) => outcome("write_backs", "queued", "none"),
            Metric::WriteBacks(Some(reason)) => outcome("write_backs", "bypassed", reason.name()),
            Metric::Answers(None) => outcome("answers", "read", "none"),
            Metric::Answers(Some(reason)) => outcome("answers", "bypassed", reason.name()),
            Metric::Records(None) => outcome("records", "queued", "none"),
            Metric::Records(Some(reason)) => outcome("records", "bypassed", reason.name()),
            Metric::BreakerTransitions(transition) => {
                format!("optimizer_breaker_transitions.transition.{}", transition.name())
            }
            Metric::BreakerOpen => "optimizer_breaker_open".to_owned(),
            Metric::Callouts(kind, result) => {
                format!("optimizer_callouts.kind.{}.result.{}", kind.name(), result.name())
            }
            Metric::CalloutDuration(kind) => {
                format!("optimizer_callout_duration_us.kind.{}", kind.name())
            }
            Metric::TokensSaved => "optimizer_tokens_saved".to_owned(),
            Metric::ProviderRejections => "optimizer_provider_rejections".to_owned(),
            Metric::InputTokens(dialect) => {
                format!("gen_ai_client_token_usage.operation.{}.type.input", dialect.operation())
            }
            Metric::OutputTokens(dialect) => {
                format!("gen_ai_client_token_usage.operation.{}.type.output", dialect.operation())
            }
            Metric::OperationDuration(dialect) => {
                format!("gen_ai_client_operation_duration_us.operation.{}", dialect.operation())
            }
            Metric::TimeToFirstToken(dialect) => {
                format!("gen_ai_server_time_to_first_token_us.operation.{}", dialect.operation())
            }
        }
    }

    /// What [`Effect::Measure`](crate::effect::Effect::Measure) does with it.
    pub const fn kind(self) -> MetricKind {
        match self {
            Metric::CalloutDuration(_)
            | Metric::InputTokens(_)
            | Metric::OutputTokens(_)
            | Metric::OperationDuration(_)
            | Metric::TimeToFirstToken(_) => MetricKind::Histogram,
            Metric::BreakerOpen => MetricKind::Gauge,
            _ => MetricKind::Counter,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn no_two_metrics_have_the_same_number() {
        let numbers: HashSet<_> = Metric::all().map(Metric::number).collect();
        assert_eq!(numbers.len(), Metric::all().count());
        assert!(numbers.iter().all(|&number| number < 2000));
    }
}
