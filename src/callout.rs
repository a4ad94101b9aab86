//! Calls to the optimizer: kinds, ids, time-outs, outcomes.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::bypass::Bypass;
use crate::headers;
use crate::host::Host;

/// Which operation of the Optimizer Protocol a callout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `POST /v1/optimize`
    Optimize,
    /// `POST /v1/optimize-response`
    OptimizeResponse,
    /// `POST /v1/cache`
    Cache,
    /// `POST /v1/record`
    Record,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Optimize, Kind::OptimizeResponse, Kind::Cache, Kind::Record];

    /// The path, behind the configured prefix.
    pub const fn path(self) -> &'static str {
        match self {
            Kind::Optimize => "/v1/optimize",
            Kind::OptimizeResponse => "/v1/optimize-response",
            Kind::Cache => "/v1/cache",
            Kind::Record => "/v1/record",
        }
    }

    /// The kind as metrics spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Optimize => "optimize",
            Kind::OptimizeResponse => "optimize_response",
            Kind::Cache => "cache",
            Kind::Record => "record",
        }
    }
}

/// Headers of the call that callouts carry on.
pub(crate) type Trace = Vec<(&'static str, String)>;

/// Names one callout among all of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CalloutId(pub u32);

/// A call that the host is to make.
#[derive(Clone, Debug)]
pub struct Callout {
    /// Comes back with the outcome.
    pub id: CalloutId,
    /// Which operation.
    pub kind: Kind,
    /// All headers, pseudo-headers among them; values are valid header values.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The JSON body.
    pub body: Bytes,
    /// The host ends the call after this time.
    pub timeout: Duration,
    /// Answers with a larger body, in bytes, are reported as [`Outcome::TooLarge`] without being read.
    pub max_answer_bytes: usize,
}

/// How a callout ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The optimizer answered.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Bytes,
    },
    /// The host refused to send it.
    DispatchFailed,
    /// No connection, or it broke before an answer began.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The answer broke off, or was larger than the host takes.
    Reset,
    /// The answer was larger than asked for.
    TooLarge,
}

impl Outcome {
    /// Tells, from the headers that `header` looks up, with which status the optimizer answered.
    ///
    /// # Errors
    /// How else the callout ended.
    pub fn status<V: AsRef<[u8]>>(
        host: Host,
        header: impl Fn(&'static str) -> Option<V>,
    ) -> Result<u16, Self> {
        let status = || header(":status").map(|value| headers::status(value.as_ref()));
        match host {
            Host::Kong => {
                let dispatched = header(":dispatch_status");
                Self::status_on_kong(dispatched.as_ref().map(AsRef::as_ref), status().unwrap_or(0))
            }
            _ => Self::status_on_envoy(status(), || {
                header("x-envoy-upstream-service-time").is_some()
            }),
        }
    }

    /// Kong's runtime says in `:dispatch_status` how the callout went; an answer that
    /// broke off can have a `:status` beside it.
    fn status_on_kong(dispatched: Option<&[u8]>, status: u16) -> Result<u16, Self> {
        match (dispatched, status) {
            (Some(b"ok") | None, 1..) => Ok(status),
            (Some(b"timeout"), _) => Err(Outcome::Timeout),
            (Some(b"ok") | None, 0) | (Some(b"reader failure"), _) | (_, 1..) => {
                Err(Outcome::Reset)
            }
            _ => Err(Outcome::Unreachable),
        }
    }

    /// Envoy answers in the optimizer's place: 503 where it could not be
    /// reached, 502 where it spoke no HTTP, 504 where it was too slow; only a real
    /// answer carries `x-envoy-upstream-service-time`. No headers at all: the
    /// answer was cut off.
    fn status_on_envoy(status: Option<u16>, is_real: impl Fn() -> bool) -> Result<u16, Self> {
        match status {
            None if is_real() => Ok(0),
            None => Err(Outcome::Reset),
            Some(502 | 503) if !is_real() => Err(Outcome::Unreachable),
            Some(504) if !is_real() => Err(Outcome::Timeout),
            Some(status) => Ok(status),
        }
    }

    /// Envoy reports an answer that was still coming when the time was over as
    /// cut off: told apart by how long the callout `took`, with a margin because
    /// the host's timer and its clock need not agree.
    pub(crate) fn timed(self, took: Duration, timeout: Duration) -> Self {
        match self {
            Outcome::Reset if took >= timeout.mul_f32(0.9) => Outcome::Timeout,
            other => other,
        }
    }

    /// Whether this is a 2xx answer.
    pub const fn is_success(&self) -> bool {
        matches!(self, Outcome::Answer { status: 200..=299, .. })
    }

    /// The body of a 2xx answer.
    ///
    /// # Errors
    /// The reason that follows from any other outcome.
    pub fn success(self) -> Result<Bytes, Bypass> {
        match self {
            Outcome::Answer { status: 200..=299, body } => Ok(body),
            Outcome::Answer { .. } => Err(Bypass::OptimizerStatus),
            Outcome::DispatchFailed => Err(Bypass::OptimizerDispatchFailed),
            Outcome::Unreachable => Err(Bypass::OptimizerUnreachable),
            Outcome::Timeout => Err(Bypass::OptimizerTimeout),
            Outcome::Reset => Err(Bypass::OptimizerReset),
            Outcome::TooLarge => Err(Bypass::AnswerTooLarge),
        }
    }

    /// Whether the breaker counts this as a failure of the optimizer.
    pub fn is_failure(&self) -> bool {
        match self {
            Outcome::Answer { status, .. } => *status >= 500,
            _ => true,
        }
    }
}

/// How a callout ended, as metrics spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CalloutResult {
    /// A usable answer.
    Ok,
    /// A usable answer, later than the time-out, on a host that does not end callouts by then.
    Late,
    /// The host refused to send it.
    DispatchFailed,
    /// No connection.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The answer broke off.
    Reset,
    /// A status other than 2xx.
    Status,
    /// The answer was too large.
    TooLarge,
    /// The answer was not JSON.
    NotJson,
    /// The answer was not what the protocol demands.
    WrongShape,
    /// The exchange ended before the answer came.
    Abandoned,
}

impl CalloutResult {
    /// Every result.
    pub const ALL: [CalloutResult; 11] = [
        CalloutResult::Ok,
        CalloutResult::Late,
        CalloutResult::DispatchFailed,
        CalloutResult::Unreachable,
        CalloutResult::Timeout,
        CalloutResult::Reset,
        CalloutResult::Status,
        CalloutResult::TooLarge,
        CalloutResult::NotJson,
        CalloutResult::WrongShape,
        CalloutResult::Abandoned,
    ];

    /// The result as metrics spell it.
    pub const fn name(self) -> &'static str {
        match self {
            CalloutResult::Ok => "ok",
            CalloutResult::Late => "late",
            CalloutResult::DispatchFailed => "dispatch_failed",
            CalloutResult::Unreachable => "unreachable",
            CalloutResult::Timeout => "timeout",
            CalloutResult::Reset => "reset",
            CalloutResult::Status => "status",
            CalloutResult::TooLarge => "too_large",
            CalloutResult::NotJson => "not_json",
            CalloutResult::WrongShape => "wrong_shape",
            CalloutResult::Abandoned => "abandoned",
        }
    }
}

impl From<Result<(), Bypass>> for CalloutResult {
    /// What a callout's use came to. Reasons that lie with the content of a
    /// good answer, not with the callout, count as `ok`.
    fn from(used: Result<(), Bypass>) -> Self {
        match used {
            Err(Bypass::OptimizerDispatchFailed) => CalloutResult::DispatchFailed,
            Err(Bypass::OptimizerUnreachable) => CalloutResult::Unreachable,
            Err(Bypass::OptimizerTimeout) => CalloutResult::Timeout,
            Err(Bypass::OptimizerReset) => CalloutResult::Reset,
            Err(Bypass::OptimizerStatus) => CalloutResult::Status,
            Err(Bypass::AnswerTooLarge) => CalloutResult::TooLarge,
            Err(Bypass::AnswerNotJson) => CalloutResult::NotJson,
            Err(Bypass::AnswerWrongShape) => CalloutResult::WrongShape,
            _ => CalloutResult::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn envoy_s_own_answers_are_no_answers() {
        const SERVICE: (&[u8], &[u8]) = (b"x-envoy-upstream-service-time", b"1");
        for (fields, expected) in [
            (vec![], Some(Outcome::Reset)),
            (vec![(&b":status"[..], &b"503"[..])], Some(Outcome::Unreachable)),
            (vec![(b":status", b"502")], Some(Outcome::Unreachable)),
            (vec![(b":status", b"504")], Some(Outcome::Timeout)),
            (vec![(b":status", b"503"), SERVICE], None),
            (vec![(b":status", b"504"), SERVICE], None),
            (vec![(b":status", b"500")], None),
            (vec![(b":status", b"200")], None),
        ] {
            let headers = Headers::new(&fields);
            let status = Outcome::status(Host::Envoy, |name| headers.get(name));
            assert_eq!(status.err(), expected, "{fields:?}");
        }
    }

    #[test]
    fn kong_s_runtime_says_how_a_callout_went() {
        const STATUS: (&[u8], &[u8]) = (b":status", b"503");
        for (said, answered, expected) in [
            (&b"ok"[..], true, None),
            (b"ok", false, Some(Outcome::Reset)),
            (b"timeout", false, Some(Outcome::Timeout)),
            (b"timeout", true, Some(Outcome::Timeout)),
            (b"broken connection", false, Some(Outcome::Unreachable)),
            (b"broken connection", true, Some(Outcome::Reset)),
            (b"reader failure", false, Some(Outcome::Reset)),
            (b"resolver failure", false, Some(Outcome::Unreachable)),
            (b"tls handshake failure", false, Some(Outcome::Unreachable)),
            (b"internal failure", false, Some(Outcome::Unreachable)),
        ] {
            let mut fields = vec![(&b":dispatch_status"[..], said)];
            fields.extend(answered.then_some(STATUS));
            let headers = Headers::new(&fields);
            let status = Outcome::status(Host::Kong, |name| headers.get(name));
            assert_eq!(status.err(), expected, "{fields:?}");
        }
        let ended = |fields: &[(&[u8], &[u8])]| {
            Outcome::status(Host::Kong, |name| Headers::new(fields).get(name).map(<[u8]>::to_vec))
        };
        assert_eq!(ended(&[STATUS]), Ok(503));
        assert_eq!(ended(&[]), Err(Outcome::Reset));
    }

    #[test]
    fn what_is_cut_off_at_the_end_of_its_time_was_too_slow() {
        let (timeout, ms) = (Duration::from_millis(800), Duration::from_millis);
        assert_eq!(Outcome::Reset.timed(ms(799), timeout), Outcome::Timeout);
        assert_eq!(Outcome::Reset.timed(ms(100), timeout), Outcome::Reset);
        assert_eq!(Outcome::TooLarge.timed(ms(900), timeout), Outcome::TooLarge);
    }
}
