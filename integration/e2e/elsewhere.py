"""What these tests show of Envoy only, and why not of a wasi:http host. `test_wasi.py` shows what that does instead.

Of each function that an entry names the first case is played there all the same, and must fail: what holds after all is
found out, and taken off the list. Only what fails by chance (`CHANCE`, `LATE`) is not played.
"""

from __future__ import annotations

import pytest

NO_MEMORY = "an instance may serve one call only: nothing is remembered of earlier ones"
NO_BUFFER = "the component holds bodies itself: there is no host's buffer to be spared"
NO_ROUTES = "there is one provider, over HTTP/1.1, and nobody else who answers"
NO_NEWS = "the host does not say that a client left before something is written to it"
TRAILERS = "wasmtime passes on trailers only where `trailer` announced them"
CHANCE = "the host may see what is behind an answer before the answer: `test_wasi.py` has what holds for both"
LATE = "the host says up to half a second later that a client left: what is counted by then is chance"
OTHER_ERRORS = "failures have this host's own statuses and headers"
ENVOY_S_OWN = "what Envoy's set-up, admin interface, files or other filters do"

# By the beginning of a test's name.
ON_ENVOY_ONLY = {
    "test_breaker.py": NO_MEMORY,
    "test_buffers.py::test_a_host_with_less_room": NO_BUFFER,
    "test_bypassed_requests.py::test_the_provider_gets_the_request_as_it_was_sent[HTTP/1.1-a body over the host's": NO_BUFFER,
    "test_bypassed_requests.py::test_the_provider_gets_the_request_as_it_was_sent[HTTP/1.1-a body of unknown": NO_BUFFER,
    "test_cache_hits.py::test_every_credential_header_can": NO_MEMORY,
    "test_cache_hits.py::test_credentials_count_together": NO_MEMORY,
    "test_cache_hits.py::test_a_caller_never_proven": NO_MEMORY,
    "test_cache_hits.py::test_a_proof_proves_nothing": NO_MEMORY,
    "test_cache_hits.py::test_a_caller_without_credentials": NO_MEMORY,
    "test_cache_hits.py::test_a_provider_s_refusal_revokes": NO_MEMORY,
    "test_encodings.py::test_identity_where_a_refused_hit": NO_MEMORY,
    "test_encodings.py::test_the_client_s_own_is_put_back_when[HTTP/1.1-its hit": NO_MEMORY,
    "test_records.py::test_a_refused_hit": NO_MEMORY,
    "test_replays.py::test_streams_are_served_to_the_same": NO_MEMORY,
    "test_write_backs.py::test_a_refused_hit": NO_MEMORY,
    "test_bypassed_requests.py::test_a_request_over_a_limit_passes[HTTP/1.1-a body of unknown length over the host's": NO_BUFFER,
    "test_callout_failures.py::test_the_response_goes_on_when_the_optimizer[HTTP/1.1-says a length": CHANCE,
    "test_callout_failures.py::test_the_request_goes_on_when_the_optimizer[HTTP/1.1-says a length": CHANCE,
    "test_stream_endings.py::test_nothing_is_kept": LATE,
    "test_cache_hits.py::test_other_errors_neither_prove_nor_revoke": NO_MEMORY,
    "test_cache_hits.py::test_only_the_provider_s_own_answer_proves": NO_MEMORY,
    "test_cache_hits.py::test_a_proof_ends": NO_MEMORY,
    "test_cache_hits.py::test_proofs_are_shared": NO_MEMORY,
    "test_cache_hits.py::test_the_cache_scope_stands_for_upstream": NO_ROUTES,
    "test_callout_failures.py::test_an_answer_over_the_host_s_own_limit": NO_BUFFER,
    "test_callout_failures.py::test_a_client_that_leaves": NO_NEWS,
    "test_credentials.py::test_a_token_by_name_shows_nowhere": ENVOY_S_OWN,
    "test_headers.py::test_trusted_attribution_wins": NO_ROUTES,
    "test_headers.py::test_attribution_that_comes_twice": NO_ROUTES,
    "test_headers.py::test_authority_and_path_prefix": NO_ROUTES,
    "test_headers.py::test_the_authority_is_the_upstream": NO_ROUTES,
    "test_headers.py::test_decisions_are_told_always": NO_ROUTES,
    "test_kit.py": ENVOY_S_OWN,
    "test_no_content.py::test_what_the_module_says_holds_no_content[example": ENVOY_S_OWN,
    "test_no_content.py::test_the_breaker_s_lines": NO_MEMORY,
    "test_no_content.py::test_a_host_set_up_wrongly": ENVOY_S_OWN,
    "test_refused_transforms.py::test_the_original_goes_on[HTTP/1.1-a body over the host's": NO_BUFFER,
    "test_response_hook.py::test_left_alone[HTTP/1.1-an answer of unknown": NO_BUFFER,
    "test_response_hook.py::test_left_alone[HTTP/1.1-an answer over the host's": NO_BUFFER,
    "test_response_hook.py::test_the_proxy_s_own_answer": OTHER_ERRORS,
    "test_response_hook.py::test_a_chunked_answer_is_rewritten_where_the_host_has_room[HTTP/1.1-with trailers": TRAILERS,
    "test_response_hook.py::test_an_answer_grown_over": NO_BUFFER,
    "test_stream_endings.py::test_each_is_counted_once": ENVOY_S_OWN,
    "test_stream_response_hook.py::test_a_stream_larger_than": NO_BUFFER,
    "test_stream_response_hook.py::test_without_room": NO_BUFFER,
    "test_stream_response_hook.py::test_a_client_that_leaves": NO_NEWS,
    "test_stream_write_backs.py::test_however_it_is_spelled_and_split[with CR over": NO_ROUTES,
    "test_stream_write_backs.py::test_however_it_is_spelled_and_split[with CRLF over": NO_ROUTES,
    "test_streams.py::test_a_stream_split_anywhere": TRAILERS,
    "test_traffic.py::test_a_retry": NO_ROUTES,
    "test_traffic.py::test_the_host_s_own_200": NO_ROUTES,
    "test_transforms.py::test_a_chunked_body_is_transformed_where_the_host_has_room[HTTP/1.1-to HTTP/1.1-with trailers": TRAILERS,
    "test_traffic.py::test_a_retry": NO_ROUTES,
    "test_traffic.py::test_the_host_s_own_200": NO_ROUTES,
    "test_transforms.py::test_a_chunked_body_is_transformed_where_the_host_has_room[HTTP/1.1-to HTTP/2-with trailers": TRAILERS,
    "test_wrong_host.py": ENVOY_S_OWN,
    "test_records.py::test_an_unreachable_provider": OTHER_ERRORS,
    "test_records.py::test_a_client_that_leaves_before": NO_NEWS,
}


def mark(items: list[pytest.Item]) -> set[str]:
    """Marks what does not hold on a wasi:http host; returns the entries of the list that name nothing."""
    unseen, played = set(ON_ENVOY_ONLY), set()
    for item in items:
        name = f"{item.path.name}::{item.name}"
        start = next((start for start in ON_ENVOY_ONLY if name.startswith(start)), None)
        if start is None:
            continue
        unseen.discard(start)
        why, case = ON_ENVOY_ONLY[start], (start, item.path.name, getattr(item, "originalname", name))
        skips = why in (CHANCE, LATE) or case in played
        item.add_marker(pytest.mark.skip(reason=why) if skips else pytest.mark.xfail(reason=why, strict=True))
        played.add(case)
    return unseen
