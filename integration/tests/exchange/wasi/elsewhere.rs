//! Cases that do not hold on this host, and why. `reasons` that it never has are left out where a case has many.

use optimizer_core::bypass::Bypass;

const NO_MEMORY: &str =
    "an instance may serve one call only: nothing is remembered of earlier ones";
const NO_BUFFER: &str = "the component holds bodies itself: there is no host's buffer to be spared";
const NO_QUEUE: &str =
    "what an exchange leaves is sent by its own instance, at once: nothing waits";
const NO_ROUTES: &str = "there is one provider, and nobody else who answers";
const NO_NEWS: &str = "the host does not say that a client left before something is written to it";
const OTHER_ERRORS: &str = "failures have this host's own statuses and reasons";

/// Ends of the cases' paths, the reasons, and a part of what the first assertion that fails says.
pub const CASES: &[(&str, &str, &str)] = &[
    (
        "breaker::a_probe_is_waited_for",
        NO_MEMORY,
        "left: None\n right: Some(\"bypassed:breaker_open\")",
    ),
    ("breaker::answers_that_wait_are_let_go", NO_MEMORY, "still held"),
    ("breaker::it_opens_probes_reopens_and_closes", NO_MEMORY, "is_open(&*proxy)"),
    ("breaker::requests_that_wait_are_let_go", NO_MEMORY, "still held"),
    (
        "cache::a_bypassed_call_proves_too",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    (
        "cache::a_key_proves_nothing_for_another_key_endpoint_or_provider",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    (
        "cache::a_proof_runs_out_and_a_hit_does_not_renew_it",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    (
        "cache::a_proven_caller_is_answered_and_the_provider_never_contacted",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    (
        "cache::callers_without_credentials_are_one_caller",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    ("cache::only_a_2xx_of_the_provider_proves", NO_MEMORY, "nobody else answers on this host"),
    (
        "replays::a_streaming_caller_is_proven_like_any_other",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    (
        "replays::what_a_plain_call_left_answers_streams",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    (
        "replays::what_a_stream_left_answers_streams_and_plain_calls",
        NO_MEMORY,
        "left: \"bypassed:hit_unproven\"\n right: \"hit\"",
    ),
    ("queue::nothing_is_queued_while_the_breaker_is_open", NO_MEMORY, "left: 0\n right: 1"),
    (
        "fail_open::an_answer_too_large_for_the_hook_is_still_written_back",
        NO_BUFFER,
        "right: \"bypassed:response_over_host_buffer\"",
    ),
    (
        "fail_open::an_untouched_envoy_never_gives_a_413_or_a_500",
        NO_BUFFER,
        "1048575 true unchanged",
    ),
    (
        "stream_hook::a_stream_over_the_hosts_buffer_flows_on_and_is_still_read",
        NO_BUFFER,
        "right: \"bypassed:response_over_host_buffer\"",
    ),
    (
        "headers::callouts_go_where_the_configuration_says",
        NO_ROUTES,
        "wasi-http sends the authority that it connects to",
    ),
    (
        "headers::what_the_client_claims_is_overlaid_by_what_the_host_knows",
        NO_ROUTES,
        "wasi-http knows no properties",
    ),
    (
        "responses::a_local_answer_of_the_host_is_not_reviewed",
        NO_ROUTES,
        "left: Some(502)\n right: Some(503)",
    ),
    (
        "transforms::a_providers_refusal_of_a_transform_is_counted",
        NO_ROUTES,
        "nobody else answers on this host",
    ),
    ("queue::a_burst_of_records_leaves_bit_by_bit", NO_QUEUE, "so many at a time\n  left: 100"),
    ("queue::copies_of_streams_count_against_the_budget", NO_QUEUE, "one copy was dropped"),
    ("queue::records_and_write_backs_share_the_queue", NO_QUEUE, "left: 0\n right: 22"),
    ("queue::the_oldest_records_go_first_and_are_counted", NO_QUEUE, "left: 0\n right: 44"),
    (
        "queue::what_waits_counts_against_the_budget",
        NO_QUEUE,
        "outcome.queued.reason.none\": 3, \"optimizer_write_backs",
    ),
    (
        "records::what_cannot_be_delivered_is_counted_and_not_tried_again",
        NO_QUEUE,
        "no entry found for key",
    ),
    ("write_backs::a_burst_leaves_bit_by_bit", NO_QUEUE, "so many under way at once\n  left: 100"),
    ("write_backs::a_busy_worker_still_writes_back", NO_QUEUE, "0 left so far"),
    (
        "write_backs::a_write_back_that_cannot_be_sent_is_counted",
        NO_QUEUE,
        "no entry found for key",
    ),
    ("records::calls_that_failed", OTHER_ERRORS, "it is unreachable"),
    ("records::who_leaves_in_the_middle_of_a_stream", NO_NEWS, "anthropic_text 452"),
    ("seeing::time_to_the_first_token_and_to_the_end", NO_NEWS, "also of calls that failed"),
    (
        "stream_hook::who_leaves_while_a_stream_is_held",
        NO_NEWS,
        "write_backs(&mut *proxy).is_empty()",
    ),
];

/// Reasons that this host never has for leaving a call alone.
pub const REASONS: &[(&[Bypass], &str)] = &[
    (
        &[
            Bypass::RequestOverHostBuffer,
            Bypass::ResponseOverHostBuffer,
            Bypass::RequestLengthUnknown,
            Bypass::ResponseLengthUnknown,
            Bypass::TransformTooLarge,
        ],
        NO_BUFFER,
    ),
    (&[Bypass::HostCannotHold, Bypass::RequestBodyOverdue], "the component holds bodies itself"),
    (&[Bypass::BreakerOpen], NO_MEMORY),
    (&[Bypass::HostAnswered, Bypass::ResponseNotFromProvider], NO_ROUTES),
    (&[Bypass::OverTotalBytes], "each call has an instance and a budget of its own"),
    (&[Bypass::QueueFull], NO_QUEUE),
    (&[Bypass::ClientGone], NO_NEWS),
    (&[Bypass::OptimizerDispatchFailed], OTHER_ERRORS),
];
