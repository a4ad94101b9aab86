"""Streamed answers pass through untouched, chunk by chunk, when they come."""

import pytest

from kit.dialects import CHAT, MESSAGES, RESPONSES
from kit.message import Answer
from kit.optimizer import CACHE, OPTIMIZE, OPTIMIZE_RESPONSE, rewrites, says, transforms
from kit.provider import sse

EVENTS = [
    'data: {"choices":[{"delta":{"content":"é"}}]}\n\n'.encode(),
    b": a comment\r\n\r\n",
    'data: {"choices":[{"delta":{"content":"\U0001f600"}}]}\r\n\r\n'.encode(),
    b"data: [DONE]\n\n",
]
streaming = pytest.mark.parametrize("dialect", [CHAT, RESPONSES, MESSAGES], ids=str)


@streaming
@pytest.mark.parametrize("route", ["", "/h2"], ids=["from HTTP/1.1", "from HTTP/2"])
def test_timing_and_bytes_are_kept(plain, optimizer, provider, http, dialect, route):
    provider.answers(sse(*EVENTS, gap=0.15))
    reply = plain.send(dialect.call(stream=True, prefix=route), http)
    assert reply.body == b"".join(EVENTS) and reply.complete
    assert reply.headers.get("content-type") == "text/event-stream"
    # A held stream would come in one piece, at its end.
    first, last = reply.arrivals[0][0], reply.arrivals[-1][0]
    assert len(reply.arrivals) >= 3 and last - first > 0.3
    assert optimizer.to(OPTIMIZE_RESPONSE) == []


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
    provider.answers(Answer(headers=[("content-type", "text/event-stream")],
                            body=[EVENTS[0], 0.2, EVENTS[3]]))
    reply = plain.send(CHAT.call(stream=True), http)
    assert reply.body == EVENTS[0] + EVENTS[3]
    assert reply.arrivals[-1][0] - reply.arrivals[0][0] > 0.1


def test_a_stream_is_not_written_back(plain, optimizer, provider):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-stream"))
    provider.answers(sse(*EVENTS))
    counting = plain.counting()
    plain.send(CHAT.call(stream=True))
    counting.expect(
        responses={"bypassed response_stream": 1}, write_backs={"bypassed response_stream": 1})
    assert optimizer.to(CACHE) == []


def test_json_in_answer_to_a_stream_request_passes(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: {"forged": True}))
    reply = plain.send(CHAT.call(stream=True), http)
    assert reply.json == CHAT.answer
