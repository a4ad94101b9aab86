"""Streamed answers pass through untouched, event by event, when they come."""

import pytest

from kit.dialects import CHAT
from kit.message import Answer
from kit.optimizer import OPTIMIZE, says, transforms
from kit.provider import sse
from kit.streams import RECORDED, STREAMING, dialect_of, events, recorded, told

from gateway import UNPREPARED, Setup


@pytest.mark.parametrize("prepare", ["prepared", "unprepared"])
@pytest.mark.parametrize("dialect", STREAMING, ids=str)
def test_events_come_one_by_one_as_they_were_sent(
    gateways, module, optimizer, provider, http, dialect, prepare, cache_key
):
    setup = Setup(module()) if prepare == "prepared" else Setup(module(), prepare=UNPREPARED)
    gateway = gateways.get(setup)
    sent = told(dialect)
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    call = dialect.call(stream=True)
    provider.answers(sse(*sent, gap=call.arrived))
    reply = gateway.send(call, http)
    assert reply.body == b"".join(sent) and reply.complete
    assert reply.headers.get("content-type") == "text/event-stream"
    optimizer.written_back(cache_key)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.sse")))
def test_recorded_streams_are_not_touched(prepared, optimizer, provider, http, name, cache_key):
    dialect, stream = dialect_of(name), recorded(name)
    optimizer.on(OPTIMIZE, transforms(dialect.shorten, cacheEligible=True, cacheKey=cache_key))
    provider.answers(sse(*events(stream)))
    reply = prepared.send(dialect.call(stream=True), http)
    assert reply.body == stream and reply.complete


@pytest.mark.parametrize("end", ["reset", "close"])
def test_a_stream_that_breaks_off_reaches_the_client_as_far_as_it_came(prepared, optimizer, provider, http, end):
    provider.answers(sse(*told(CHAT)[:3], gap=0.02, end=end))
    reply = prepared.send(CHAT.call(stream=True), http)
    assert reply.status == 200
    assert b"".join(told(CHAT)).startswith(reply.body)
    assert not reply.complete


def test_a_stream_of_many_megabytes_passes(prepared, optimizer, provider, http):
    line = b"data: " + b"x" * 60_000 + b"\n\n"
    provider.answers(Answer(headers=[("content-type", "text/event-stream")], body=[line] * 200, framing="chunked"))
    reply = prepared.send(CHAT.call(stream=True), http, timeout=60)
    assert reply.body == line * 200
