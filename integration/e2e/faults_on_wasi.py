"""What becomes of the fault matrix's calls on a wasi:http host, where that differs.

There the component is the proxy: what the client gets is compared with what the provider itself says to it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fault_matrix import Expected, Row


def expected(row: Row, stream: bool, found: Expected) -> Expected | None:
    """`found` as it is on Envoy."""
    fault, hook = row.fault, row.hook.name
    if fault.upstream != "optimizer":
        # A cluster of Envoy's.
        return None
    if fault.name == "says too small a `content-length`":
        # The host may see the surplus first, or the answer: `test_wasi.py` has what holds for both.
        return None
    if fault.party == "provider" and fault.name in ("is absent", "resets without an answer"):
        return replace(found, client="component's")
    if fault.leaves:
        return without_news(row, stream, found)
    if found.client == "502":
        return replace(found, client="broken")
    if fault.name == "answers with 64 MB":
        # Not read further than what an answer can need.
        return too_large(row, found)
    return found


def without_news(row: Row, stream: bool, found: Expected) -> Expected:
    """The host tells only somebody who writes that nobody is there: until then the call goes on."""
    hook = row.hook.name
    if row.fault.leaves == "optimize":
        response = "bypassed:request_bypassed" if hook == "response" else None
        return replace(found, exchange="bypassed:optimizer_timeout", response=response, provider=1,
                       callouts=found.callouts | {"optimize": "timeout"})
    if row.fault.leaves == "optimize_response":
        return replace(found, response="bypassed:optimizer_timeout").callout(row.hook, "timeout")
    if row.fault.leaves == "provider" and hook == "response":
        return replace(found, response="transformed").callout(row.hook, "ok")
    if row.fault.leaves == "provider" and hook == "write-back":
        # A stream is broken off at its first event; an answer that has come whole is worth keeping.
        if stream:
            return replace(found, write_back="bypassed:stream_incomplete")
        return replace(found, write_back="queued").callout(row.hook, "ok")
    return found


def too_large(row: Row, found: Expected) -> Expected:
    found = found.callout(row.hook, "too_large")
    if row.hook.name == "request":
        return replace(found, exchange="bypassed:answer_too_large")
    if row.hook.name == "response":
        return replace(found, response="bypassed:answer_too_large")
    return found
