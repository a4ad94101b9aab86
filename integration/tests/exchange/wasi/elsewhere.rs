//! Cases that do not hold on this host, and why. `reasons` that it never has are left out where a case has many.

use optimizer_core::bypass::Bypass;

const NO_MEMORY: &str =
    "an instance may serve one call only: nothing is remembered of earlier ones";
const NO_BUFFER: &str = "the component holds bodies itself: there is no host's buffer to be spared";
const NO_QUEUE: &str = "what an exchange leaves is sent by its own instance, one after the other";
const NO_ROUTES: &str = "there is one provider, and nobody else who answers";
const NO_NEWS: &str = "the host does not say that a client left before something is written to it";
const OTHER_ERRORS: &str = "failures have this host's own statuses and reasons";

/// Ends of the cases' paths, and the reasons.
pub const CASES: &[(&str, &str)] = &[
    ("breaker::a_probe_is_waited_for", NO_MEMORY),
    ("breaker::answers_that_wait_are_let_go", NO_MEMORY),
    ("breaker::it_opens_probes_reopens_and_closes", NO_MEMORY),
    ("breaker::requests_that_wait_are_let_go", NO_MEMORY),
    ("cache::a_bypassed_call_proves_too", NO_MEMORY),
    ("cache::a_key_proves_nothing_for_another_key_endpoint_or_provider", NO_MEMORY),
    ("cache::a_proof_runs_out_and_a_hit_does_not_renew_it", NO_MEMORY),
    ("cache::a_proven_caller_is_answered_and_the_provider_never_contacted", NO_MEMORY),
    ("cache::callers_without_credentials_are_one_caller", NO_MEMORY),
    ("cache::only_a_2xx_of_the_provider_proves", NO_MEMORY),
    ("replays::a_streaming_caller_is_proven_like_any_other", NO_MEMORY),
    ("replays::what_a_plain_call_left_answers_streams", NO_MEMORY),
    ("replays::what_a_stream_left_answers_streams_and_plain_calls", NO_MEMORY),
    ("queue::nothing_is_queued_while_the_breaker_is_open", NO_MEMORY),
    ("fail_open::an_answer_too_large_for_the_hook_is_still_written_back", NO_BUFFER),
    ("fail_open::an_untouched_envoy_never_gives_a_413_or_a_500", NO_BUFFER),
    ("stream_hook::a_stream_over_the_hosts_buffer_flows_on_and_is_still_read", NO_BUFFER),
    ("headers::callouts_go_where_the_configuration_says", NO_ROUTES),
    ("headers::what_the_client_claims_is_overlaid_by_what_the_host_knows", NO_ROUTES),
    ("records::calls_that_were_answered", NO_ROUTES),
    ("responses::a_local_answer_of_the_host_is_not_reviewed", NO_ROUTES),
    ("transforms::a_providers_refusal_of_a_transform_is_counted", NO_ROUTES),
    ("queue::a_burst_of_records_leaves_bit_by_bit", NO_QUEUE),
    ("queue::copies_of_streams_count_against_the_budget", NO_QUEUE),
    ("queue::records_and_write_backs_share_the_queue", NO_QUEUE),
    ("queue::the_oldest_records_go_first_and_are_counted", NO_QUEUE),
    ("queue::what_waits_counts_against_the_budget", NO_QUEUE),
    ("records::what_cannot_be_delivered_is_counted_and_not_tried_again", NO_QUEUE),
    ("write_backs::a_burst_leaves_bit_by_bit", NO_QUEUE),
    ("write_backs::a_busy_worker_still_writes_back", NO_QUEUE),
    ("write_backs::a_write_back_that_cannot_be_sent_is_counted", NO_QUEUE),
    ("records::calls_that_failed", OTHER_ERRORS),
    ("records::who_leaves_in_the_middle_of_a_stream", NO_NEWS),
    ("seeing::time_to_the_first_token_and_to_the_end", NO_NEWS),
    ("stream_hook::who_leaves_while_a_stream_is_held", NO_NEWS),
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
