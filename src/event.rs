//! What the host tells the core, borrowed.

use bytes::Bytes;

use crate::callout::{CalloutId, Outcome};
use crate::effect::Side;
use crate::headers::Headers;
use crate::roomy::Roomy;

/// Something that happened to one exchange. The host hands events in one at a
/// time and carries out the effects of each before the next.
#[derive(Debug)]
pub enum Event<'a> {
    /// The request's headers arrived and have not gone on yet.
    RequestHeaders(RequestHead<'a>),
    /// Something of the request's body; which parts come depends on the [`Flow`](crate::effect::Flow) asked for.
    RequestBody(Body<'a>),
    /// The answer's headers arrived and have not gone on yet.
    ResponseHeaders(ResponseHead<'a>),
    /// Something of the answer's body.
    ResponseBody(Body<'a>),
    /// A callout that this exchange waits for has ended, in whatever way.
    CalloutDone(CalloutId, Outcome),
    /// The value that [`Effect::LoadShared`](crate::effect::Effect::LoadShared) asked for; `None` where there is none.
    SharedLoaded(Option<&'a [u8]>),
    /// Time has passed, and the exchange holds a message. Comes with each tick.
    Tick,
    /// The exchange is over: answered in full, or broken off by either side.
    Closed,
}

impl<'a> Event<'a> {
    /// Something of the body of one of the two messages.
    pub const fn body(side: Side, part: Body<'a>) -> Self {
        match side {
            Side::Request => Event::RequestBody(part),
            Side::Response => Event::ResponseBody(part),
        }
    }
}

/// A request's head.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// All headers, pseudo-headers among them.
    pub headers: Headers<'a>,
    /// There are more headers than these: the host does not show so many.
    pub truncated: bool,
    /// The host's name for the provider that the call is routed to, if it has one.
    pub upstream: Option<&'a [u8]>,
    /// The values of [`Plan::properties`](crate::plan::Plan::properties), in that order.
    pub properties: &'a [Option<Vec<u8>>],
    /// No body follows.
    pub end_of_stream: bool,
}

/// An answer's head.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// All headers, `:status` among them.
    pub headers: Headers<'a>,
    /// As in [`RequestHead::upstream`], read anew: routing may have changed. Of interest where
    /// [`Exchange::asks_for_upstream`](crate::exchange::Exchange::asks_for_upstream) says so.
    pub upstream: Option<&'a [u8]>,
    /// The provider gave this answer, not the host itself.
    pub from_provider: bool,
    /// No body follows.
    pub end_of_stream: bool,
}

/// A part of a body.
#[derive(Debug)]
pub enum Body<'a> {
    /// Held: so many bytes are with the host by now. If the flow is still `Hold`
    /// when the body has ended, `Whole` or `Unreadable` follows.
    Held(usize),
    /// Held: all of the body.
    Whole(Roomy),
    /// Held: all of the body, shown while the request's headers are handed in, and such that
    /// it can be replaced. Follows `Held`, on hosts that replace no others ([`Replace::Early`](crate::host::Replace::Early)).
    Early(Roomy),
    /// Held: all of the body once more, where
    /// [`Exchange::wants_request`](crate::exchange::Exchange::wants_request) says so.
    Again(Bytes),
    /// Held: the body has ended, and the host cannot hand it over. Copied: the next bytes, likewise.
    Unreadable,
    /// Copied: the next bytes, which are on their way already.
    Chunk(&'a [u8]),
    /// Copied: the body ended.
    End,
}
