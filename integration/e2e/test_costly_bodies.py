"""Bodies made to be costly cost no more than their size: other calls wait for none of them."""

import json
import random
import time

import pytest

from kit.dialects import CHAT
from kit.message import as_json
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, says, transforms
from kit.provider import sse

# Just below Envoy's untouched buffer.
ROOM = 1_000_000
# Quadratic work on a body of this size takes minutes; linear work some milliseconds.
LONGEST = 5.0
HEAD = b'{"model":"m","messages":[{"role":"user","content":"x"}],'


def filled(piece: bytes, end: bytes = b"", begin: bytes = b"") -> bytes:
    """A call's body with as many repetitions of a piece in it as there is room for."""
    room = ROOM - len(HEAD) - len(begin) - len(end) - 16
    return HEAD + b'"note":' + begin + piece * (room // len(piece)) + end + b"}"


def members(count: int, long: str = "") -> bytes:
    return HEAD + b",".join(b'"%b%d":%d' % (long.encode(), n, n) for n in range(count)) + b"}"


BODIES = {
    "as many members as are read": members(4000),
    "more members than are read": members(70_000),
    "members with long names that begin alike": members(2000, long="x" * 400),
    "nested lists": filled(b"[", b"]" * 490_000)[: len(HEAD) + 7] + b"[" * 490_000 + b"]" * 490_000 + b"}",
    "nested objects": HEAD + b'"note":' + b'{"a":' * 150_000 + b"1" + b"}" * 150_000 + b"}",
    "a long list": filled(b"1,", b"1]", b"["),
    "a list of empty objects": filled(b"{},", b"{}]", b"["),
    "escapes": filled(rb"\u0061", b'"', b'"'),
    "surrogates": filled(rb"\ud83d\ude00", b'"', b'"'),
    "backslashes": filled(rb"\\", b'"', b'"'),
    "blanks": filled(b" ", b"1"),
    "a long number": filled(b"9", b"", b"1"),
    "a number with a huge exponent": filled(b"9", b"", b"1e"),
}


def shuffled(request: dict) -> dict:
    """The same request with its members in another order at every depth that Python reaches."""
    chance = random.Random(1)

    def shuffle(value):
        if isinstance(value, dict):
            items = [(name, shuffle(item)) for name, item in value.items()]
            chance.shuffle(items)
            return dict(items)
        return [shuffle(item) for item in value] if isinstance(value, list) else value

    return shuffle(request)


def echo(seen):
    """The request as it came, which Python's parser would not take."""
    start, end = seen.body.index(b'"request":'), seen.body.rindex(b',"metadata":')
    return as_json(b'{"decisions":[],' + seen.body[start:end] + b"}")


KEEPS = as_json({"decisions": [], "response": {}})


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_request_costs_no_more_than_its_size(plain, optimizer, provider, body):
    assert len(body) <= 1 << 20
    optimizer.on(OPTIMIZE, echo)
    optimizer.on(OPTIMIZE_RESPONSE, KEEPS)
    reply = plain.send(CHAT.call(raw=body))
    assert (reply.status, provider.of(reply.case)[0].body) == (200, body)
    assert reply.elapsed < LONGEST


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_an_answer_costs_no_more_than_its_size(plain, optimizer, provider, body):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-costly"))
    optimizer.on(OPTIMIZE_RESPONSE, lambda seen: as_json(b'{"decisions":[{}],"response":' + body + b"}"))
    provider.answers(as_json(body))
    reply = plain.send(CHAT.call())
    assert (reply.status, reply.body) == (200, body)
    assert reply.elapsed < LONGEST


def test_telling_reordered_members_apart_costs_no_more_than_their_size(plain, optimizer, provider):
    wide = {f"member{n}": {f"inner{m}": m for m in range(30)} for n in range(600)}
    optimizer.on(OPTIMIZE, transforms(shuffled))
    call = CHAT.call(**wide, note=wide)
    reply = plain.send(call)
    assert provider.of(reply.case)[0].body == call.body
    assert (plain.outcome(reply), reply.elapsed < LONGEST) == ("unchanged", True)


EVENTS = {
    "a byte each": b"data: x\n\n" * 100_000,
    "empty ones": b"\n" * 1_000_000,
    "one without an end": b"data: " + b"x" * 1_000_000,
    "one of many lines": b"data:\n" * 170_000,
    "comments": b":\n" * 500_000,
    "lone CRs": b"\r" * 1_000_000,
    "deltas at many places": b"".join(
        b'data: {"choices":[{"index":%d,"delta":{"content":"x","a%d":"y"}}]}\n\n' % (n, n) for n in range(15_000)),
    "deltas that grow one text": b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n' * 18_000,
}


@pytest.mark.parametrize("stream", EVENTS.values(), ids=EVENTS.keys())
def test_a_stream_costs_no_more_than_its_size(plain, optimizer, provider, stream):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-costly"))
    provider.answers(sse(stream))
    reply = plain.send(CHAT.call(stream=True))
    assert (reply.body, reply.complete) == (stream, True)
    assert reply.elapsed < LONGEST


def test_decisions_without_number_cost_no_more_than_their_size(plain, optimizer, provider):
    many = b'{"decisions":[' + b"{}," * 330_000 + b'{}],"request":{"model":"m","note":1}}'
    optimizer.on(OPTIMIZE, as_json(many))
    reply = plain.send(CHAT.call(headers=[("x-anyray-test", "1")]))
    assert reply.status == 200 and reply.elapsed < LONGEST
    assert len(reply.headers.get("x-anyray-optimization")) <= 2048


def test_other_calls_do_not_wait(plain, optimizer, provider):
    """All on one worker: the costly one is in the middle of the others."""
    optimizer.on(OPTIMIZE, echo)
    optimizer.on(OPTIMIZE_RESPONSE, KEEPS)
    started = time.monotonic()
    for body in BODIES.values():
        plain.send(CHAT.call(raw=body))
        plain.send(CHAT.call(raw=json.dumps(CHAT.request).encode()))
    assert time.monotonic() - started < LONGEST * 2
