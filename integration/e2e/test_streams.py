"""Streamed answers pass through untouched, chunk by chunk, when they come."""

import json
import threading

import pytest

from conftest import barrier
from kit.dialects import CHAT, RESPONSES
from kit.message import Answer
from kit.optimizer import CACHE, DECISION, OPTIMIZE, OPTIMIZE_RESPONSE, QUEUED_SECONDS, rewrites, says, transforms
from kit.provider import sse
from kit.streams import STREAMING, told

EVENTS = [
    'data: {"choices":[{"delta":{"content":"é"}}]}\n\n'.encode(),
    b": a comment\r\n\r\n",
    'data: {"choices":[{"delta":{"content":"\U0001f600"}}]}\r\n\r\n'.encode(),
    b"data: [DONE]\n\n",
]
streaming = pytest.mark.parametrize("dialect", STREAMING, ids=str)


ROUTED = [*((dialect, "") for dialect in STREAMING), (CHAT, "/h2"), (RESPONSES, "/h2")]


@pytest.mark.parametrize("dialect, route", ROUTED, ids=lambda value: str(value) or "from HTTP/1.1")
def test_events_come_one_by_one_as_they_were_sent(plain, optimizer, provider, http, dialect, route, cache_key):
    events = told(dialect)
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    call = dialect.call(stream=True, prefix=route)
    provider.answers(sse(*events, gap=call.arrived))
    reply = plain.send(call, http)
    assert reply.body == b"".join(events) and reply.complete
    assert reply.headers.get("content-type") == "text/event-stream"
    assert optimizer.to(OPTIMIZE_RESPONSE) == []
    optimizer.written_back(cache_key)


@streaming
def test_nobody_waits_for_the_write_back(plain, optimizer, provider, http, dialect, cache_key):
    read = threading.Event()

    def unanswered(seen) -> Answer:
        read.wait(QUEUED_SECONDS)
        return Answer(status=204)

    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    optimizer.on(CACHE, unanswered)
    provider.answers(sse(*told(dialect), gap=0.01))
    reply = plain.send(dialect.call(stream=True), http)
    optimizer.written_back(cache_key)
    assert reply.body == b"".join(told(dialect)) and reply.complete
    assert reply.elapsed < QUEUED_SECONDS
    read.set()
    barrier(plain, optimizer, provider)


@streaming
def test_the_request_is_transformed_as_usual(plain, optimizer, provider, http, dialect):
    optimizer.on(OPTIMIZE, transforms(dialect.shorten))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: {"forged": True}))
    provider.answers(sse(*EVENTS))
    reply = plain.send(dialect.call(stream=True), http)
    assert provider.of(reply.case)[0].json == dialect.shorten(dialect.body(stream=True))
    assert reply.body == b"".join(EVENTS)
    assert plain.outcome(reply) == "transformed"


def test_a_stream_split_anywhere_is_the_same_stream(plain, optimizer, provider, http):
    whole = b"".join(EVENTS)
    bytewise = [step for at in range(len(whole)) for step in (whole[at:at + 1], 0.001)]
    provider.answers(Answer(headers=[("content-type", "text/event-stream; charset=utf-8")],
                            body=bytewise, framing="chunked", trailers=[("x-end", "t")]))
    reply = plain.send(CHAT.call(stream=True), http)
    assert reply.body == whole
    assert reply.trailers.get("x-end") == "t"


def test_a_long_stream_passes(plain, provider, http):
    events = [b"data: " + b"x" * 60000 + b"\n\n"] * 60
    provider.answers(sse(*events))
    reply = plain.send(CHAT.call(stream=True), http)
    assert reply.body == b"".join(events) and reply.complete


def test_a_stream_that_breaks_off_breaks_off(plain, without, provider, http):
    for proxy in (without, plain):
        answer = sse(*EVENTS[:2], gap=0.05)
        answer.end = "reset"
        provider.answers(answer)
        reply = proxy.send(CHAT.call(stream=True), http)
        assert reply.body == b"".join(EVENTS[:2]) and not reply.complete


def test_a_stream_with_a_length_passes(plain, provider, http):
    call = CHAT.call(stream=True)
    provider.answers(Answer(headers=[("content-type", "text/event-stream")],
                            body=[EVENTS[0], call.arrived, EVENTS[3]]))
    reply = plain.send(call, http)
    assert reply.body == EVENTS[0] + EVENTS[3]


def test_a_stream_larger_than_the_copy_may_be_flows_on(narrow, optimizer, provider, http):
    events = told(CHAT)
    events[1:1] = [b'data: {"choices":[],"padding":"' + b"x" * 500 + b'"}\n\n'] * 10
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-large"))
    call = CHAT.call(stream=True)
    provider.answers(sse(*events, gap=call.arrived))
    counting = narrow.counting()
    reply = narrow.send(call, http)
    assert reply.body == b"".join(events) and reply.complete
    counting.expect(write_backs={"bypassed response_too_large": 1})
    assert optimizer.to(CACHE) == []


@streaming
def test_the_client_is_told_what_was_done(plain, optimizer, provider, http, dialect):
    optimizer.on(OPTIMIZE, transforms(dialect.shorten))
    provider.answers(sse(*told(dialect)))
    asking = [("x-anyray-test", "1")]
    reply = plain.send(dialect.call(stream=True, headers=asking), http)
    assert json.loads(reply.headers.get("x-anyray-optimization")) == {
        "status": "applied", "decisions": [DECISION], "suppressedKinds": []}
    assert reply.body == b"".join(told(dialect))
    reply = plain.send(dialect.call(stream=True), http)
    assert not reply.headers.has("x-anyray-optimization")


def test_json_in_answer_to_a_stream_request_passes(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: {"forged": True}))
    reply = plain.send(CHAT.call(stream=True), http)
    assert reply.json == CHAT.answer
