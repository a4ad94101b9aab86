//! Every reason for leaving a call alone. The names are the metrics' names.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why the plan was not carried out. One variant per reason; each is
        /// counted under [`Bypass::name`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bypass { $($(#[doc = $doc])+ $variant,)+ }

        impl Bypass {
            /// Every reason, in the order of the exchange.
            pub const ALL: &[Bypass] = &[$(Bypass::$variant,)+];

            /// The reason as metrics, access logs and headers spell it.
            pub const fn name(self) -> &'static str {
                match self { $(Bypass::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// The client sent `x-anyray-optimize: off`.
    OptedOut = "opted_out",
    /// The path is an LLM endpoint's, the method is not `POST`.
    Method = "method",
    /// The host shows only some of the request's many headers.
    RequestHeadersTruncated = "request_headers_truncated",
    /// The request's content type is not JSON.
    RequestContentType = "request_content_type",
    /// The request has a `content-encoding`.
    RequestEncoded = "request_encoded",
    /// The request's body is signed (AWS SigV4 or a digest header).
    RequestSigned = "request_signed",
    /// The request has no body.
    RequestEmpty = "request_empty",
    /// The request's body is larger than `limits.request_bytes`.
    RequestTooLarge = "request_too_large",
    /// The request's body is larger than the host may buffer.
    RequestOverHostBuffer = "request_over_host_buffer",
    /// The request's length is not known beforehand and the host buffers too little to wait and see.
    RequestLengthUnknown = "request_length_unknown",
    /// The host did not hand over the request's body.
    RequestUnreadable = "request_unreadable",
    /// The request's body is not JSON in UTF-8.
    RequestNotJson = "request_not_json",
    /// The request's body is JSON, but no object.
    RequestNotObject = "request_not_object",
    /// The request's body names one top-level member twice.
    RequestDuplicateMember = "request_duplicate_member",
    /// The request's body has thousands of top-level members.
    RequestTooManyMembers = "request_too_many_members",
    /// All bodies held in this VM together would exceed `limits.total_bytes`.
    OverTotalBytes = "over_total_bytes",
    /// The host cannot hold a call while the optimizer is asked.
    HostCannotHold = "host_cannot_hold",
    /// Nothing of the request's body came in time, and the host is not known to show
    /// the bodies of held requests.
    RequestBodyOverdue = "request_body_overdue",
    /// The client left while the call was held.
    ClientGone = "client_gone",
    /// The host answered by itself while the request was held (413: its buffer is
    /// smaller than `limits.host_buffer_bytes` says).
    HostAnswered = "host_answered",
    /// The breaker is open: the optimizer failed too often in a row.
    BreakerOpen = "breaker_open",
    /// The host refused to send the callout (unknown upstream, no healthy host).
    OptimizerDispatchFailed = "optimizer_dispatch_failed",
    /// The optimizer could not be reached.
    OptimizerUnreachable = "optimizer_unreachable",
    /// The optimizer did not answer in time.
    OptimizerTimeout = "optimizer_timeout",
    /// The optimizer's answer broke off, or was larger than the host takes.
    OptimizerReset = "optimizer_reset",
    /// The optimizer answered with a status other than 2xx.
    OptimizerStatus = "optimizer_status",
    /// The optimizer's answer is larger than any body we would apply.
    AnswerTooLarge = "answer_too_large",
    /// The optimizer's answer is not JSON in UTF-8.
    AnswerNotJson = "answer_not_json",
    /// The optimizer's answer is JSON without what the protocol demands.
    AnswerWrongShape = "answer_wrong_shape",
    /// The transformed request names one top-level member twice.
    TransformDuplicateMember = "transform_duplicate_member",
    /// The transform took away a member that the dialect requires.
    TransformRequiredMissing = "transform_required_missing",
    /// The transform made a required member null or gave it another JSON type.
    TransformRequiredRetyped = "transform_required_retyped",
    /// The transform emptied an array that was not empty.
    TransformArrayEmptied = "transform_array_emptied",
    /// The transform switched streaming on or off.
    TransformStreamChanged = "transform_stream_changed",
    /// The transform took the tools away and left what refers to them.
    TransformToolChoiceWithoutTools = "transform_tool_choice_without_tools",
    /// The transform brought in a member nested deeper than JSON readers go.
    TransformTooDeep = "transform_too_deep",
    /// A transform, on Kong without `kong.transform`.
    TransformSwitchedOff = "transform_switched_off",
    /// A transform of a body that the host cannot replace (Kong: nothing read it and set it anew before the module).
    TransformUnprepared = "transform_unprepared",
    /// The transformed body is larger than the host may be given.
    TransformTooLarge = "transform_too_large",
    /// A hit, for a caller who may not be answered from the cache.
    HitUnproven = "hit_unproven",
    /// A hit, for a client that asked for a fresh answer (`cache-control`).
    HitNoCache = "hit_no_cache",
    /// A hit, for a client that asked for a stream, that cannot be told as one.
    HitUnreplayable = "hit_unreplayable",
    /// A hit, for a call that refers to state stored at the provider.
    HitStateful = "hit_stateful",
    /// A hit, for a call whose caller is ambiguous (a credential, attribution or encoding header came twice).
    HitAmbiguousCaller = "hit_ambiguous_caller",
    /// The request hook left the call alone, so the response hook does too.
    RequestBypassed = "request_bypassed",
    /// The answer did not come from the provider (the host's own, or another filter's).
    ResponseNotFromProvider = "response_not_from_provider",
    /// The provider's status is not 2xx.
    ResponseStatus = "response_status",
    /// The answer is a stream, and `hooks.stream_response` is off.
    ResponseStream = "response_stream",
    /// The stream is not what its dialect sends.
    StreamUnexpected = "stream_unexpected",
    /// The stream ended without its dialect's end marker, or says itself that it is not complete.
    StreamIncomplete = "stream_incomplete",
    /// The transformed answer cannot be told as a stream.
    TransformUnreplayable = "transform_unreplayable",
    /// The answer's content type is not JSON.
    ResponseContentType = "response_content_type",
    /// The answer came encoded although identity was asked for.
    ResponseEncoded = "response_encoded",
    /// The answer has no body.
    ResponseEmpty = "response_empty",
    /// The answer is larger than `limits.response_bytes`.
    ResponseTooLarge = "response_too_large",
    /// The answer is larger than the host may buffer.
    ResponseOverHostBuffer = "response_over_host_buffer",
    /// The answer's length is not known beforehand and the host buffers too little to wait and see.
    ResponseLengthUnknown = "response_length_unknown",
    /// The host did not hand over the answer's body, or it ended early.
    ResponseUnreadable = "response_unreadable",
    /// The answer's body is not JSON in UTF-8.
    ResponseNotJson = "response_not_json",
    /// The answer's body is JSON, but no object.
    ResponseNotObject = "response_not_object",
    /// The answer's body names one top-level member twice.
    ResponseDuplicateMember = "response_duplicate_member",
    /// The answer's body has thousands of top-level members.
    ResponseTooManyMembers = "response_too_many_members",
    /// The answer carries an `error`, or is not complete: not for the cache.
    ResponseError = "response_error",
    /// The call may not be written to the cache (`no-store`, or state stored at the provider).
    NoStore = "no_store",
    /// Too many write-backs and records wait: the oldest one went.
    QueueFull = "queue_full",
}
