//! What the core asks of the host.

use std::borrow::Cow;

use bytes::Bytes;

use crate::callout::Callout;
use crate::metric::Metric;

/// One thing to do. The host carries effects out in the order in which they
/// were pushed.
#[derive(Debug)]
pub enum Effect {
    /// How one message of the exchange goes on from here.
    Flow(Side, Flow),
    /// Set a header, replacing all of its values. Only while the message is held or its headers are being handed in.
    SetHeader(Side, &'static str, Cow<'static, str>),
    /// Remove a header, all of its values.
    RemoveHeader(Side, String),
    /// Replace the whole body that was handed over. `content-length` has been taken care of.
    ReplaceBody(Side, Bytes),
    /// Replace all of the request's body but its first byte, when the host shows it again. In place of
    /// `ReplaceBody` on hosts that can do no more ([`Replace::Early`](crate::host::Replace::Early)).
    ReplaceRest(Bytes),
    /// Make a call; its outcome comes back as an event.
    Callout(Callout),
    /// Answer the client with status 200 in the provider's place.
    Respond {
        /// The headers.
        headers: Vec<(&'static str, Cow<'static, str>)>,
        /// The body.
        body: Bytes,
    },
    /// Read a value shared among workers; [`Event::SharedLoaded`](crate::event::Event::SharedLoaded) follows at once.
    LoadShared(String),
    /// Write a value shared among workers.
    StoreShared(String, Vec<u8>),
    /// Add to a counter, or record in a histogram.
    Measure(Metric, u64),
    /// Attach a value to the exchange for the access log.
    Annotate(&'static str, Cow<'static, str>),
    /// Tell the operator.
    Log(Notice),
    /// Hand [`Event::Tick`](crate::event::Event::Tick) to every exchange that holds a message, then call
    /// [`Adapter::tick`](crate::adapter::Adapter::tick); soon, and again until it pushes `Sleep`.
    WakeUp,
    /// No more ticks are needed.
    Sleep,
}

/// What an operator has to know. None of these comes with every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The host does not show the bodies of requests whose headers it holds.
    HostWithholdsBodies,
    /// The breaker opened.
    OptimizerFails,
    /// The breaker closed.
    OptimizerAnswers,
}

impl Notice {
    /// Whether something is wrong.
    pub const fn is_warning(self) -> bool {
        !matches!(self, Notice::OptimizerAnswers)
    }

    /// What happened, what the client got, and what to look at.
    pub const fn text(self) -> &'static str {
        match self {
            Notice::HostWithholdsBodies => {
                "the host does not show the bodies of held requests: two calls went on unchanged after 0.75 s, and from now on every call is left alone (host_cannot_hold). Envoy 1.35 or newer: set allow_on_headers_stop_iteration: true beside the plugin's name"
            }
            Notice::OptimizerFails => {
                "the optimizer keeps failing: calls go on unchanged without asking it (breaker_open), one probe each breaker.open_ms. Look at optimizer_callouts by result, and at the optimizer"
            }
            Notice::OptimizerAnswers => {
                "the optimizer answers again: calls are optimized as before"
            }
        }
    }
}

/// One of the two messages of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client to the provider.
    Request,
    /// From the provider to the client.
    Response,
}

/// How a message goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on, and nothing more of it is handed in. Releases what was held.
    Pass,
    /// It goes on, and each part of its body is handed in, beginning with what was held: a request's as
    /// it passes, an answer's then or later, several as one.
    Copy,
    /// Headers and body stay with the host; the body is handed in as a whole.
    Hold,
}
