"""Write-backs and records: by timer, after the exchange, one at a time."""

import json
import uuid

import pytest

from kit.dialects import ALL, CHAT
from kit.message import NEVER, Answer, as_json
from kit.optimizer import CACHE, OPTIMIZE, QUEUED_SECONDS, raw_members, says, transforms
from kit.provider import sse
from kit.streams import STREAMING, document, told

from gateway import Setup


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_live_answer_is_written_back(prepared, optimizer, http, dialect, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    call = dialect.call(key="sk-1")
    assert prepared.send(call, http).json == dialect.answer
    written = optimizer.written_back(cache_key)
    assert written["response"] == dialect.answer
    assert written["request"] == json.loads(call.body)


@pytest.mark.parametrize("dialect", STREAMING, ids=str)
def test_a_stream_is_written_back_as_the_plain_answer(prepared, optimizer, provider, http, dialect, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    provider.answers(sse(*told(dialect)))
    reply = prepared.send(dialect.call(stream=True), http)
    assert reply.body == b"".join(told(dialect))
    assert optimizer.written_back(cache_key)["response"] == document(dialect)


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_however_the_answer_ends_it_is_written_back_as_it_is_spelled(
    gateways, module, optimizer, provider, http, framing, buffering, cache_key
):
    gateway = gateways.get(Setup(module(), proxy={"proxy_buffering": buffering}))
    spelled = b'{ "n":12345678901234567890,\n "choices":[ ], "id" : "\\u00e9", "x": "' + b"y" * 100_000 + b'" }'
    provider.answers(as_json(spelled, framing=framing))
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    assert gateway.send(CHAT.call(), http).body == spelled
    optimizer.written_back(cache_key)
    [seen] = [seen for seen in optimizer.to(CACHE) if cache_key.encode() in seen.body]
    assert raw_members(seen.body)["response"] == spelled.decode()


def test_it_carries_the_request_as_it_was_sent(prepared, optimizer, provider, http, cache_key):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, cacheEligible=True, cacheKey=cache_key))
    reply = prepared.send(CHAT.call(), http)
    written = optimizer.written_back(cache_key)
    assert written["request"] == provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)


def test_errors_and_unwhole_streams_are_not_written_back(prepared, optimizer, provider, http, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    for answer in (as_json({"error": {}}), as_json({"x": 1}, status=500), sse(*told(CHAT)[:3])):
        provider.answers(answer)
        prepared.send(CHAT.call(stream="event-stream" in str(answer.headers)), http)
    last = f"{cache_key}-last"
    provider.answers(provider.default)
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=last))
    prepared.send(CHAT.call(), http)
    optimizer.written_back(last)
    assert len(optimizer.to(CACHE)) == 1


def test_nobody_waits_for_it_and_one_that_hangs_stops_nothing(gateways, module, optimizer, http):
    gateway = gateways.get(Setup(module()))
    optimizer.on(CACHE, NEVER)
    for number in range(20):
        optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=f"hang-{number}"))
        reply = gateway.send(CHAT.call(), http)
        assert reply.json == CHAT.answer and reply.elapsed < QUEUED_SECONDS
    # Each is given up after its own 5 s: what comes later is delivered once the optimizer is well.
    optimizer.on(CACHE, Answer(status=204))
    key = f"ck-{uuid.uuid4().hex}"
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=key))
    gateway.send(CHAT.call(), http)
    optimizer.written_back(key, 20)


def test_a_call_leaves_a_record(gateways, module, optimizer, http):
    gateway = gateways.get(Setup(module(hooks={"record": True})))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    id = uuid.uuid4().hex
    assert gateway.send(CHAT.call(headers=[("x-request-id", id)]), http).status == 200
    seen = optimizer.wait_for(lambda seen: seen.path.endswith("/v1/record"))
    assert seen.json["status"] == 200
    assert seen.json["totalTokens"] == 7
    assert seen.json["optimizationStatus"] == "applied"


def test_a_burst_is_delivered_bit_by_bit(gateways, module, optimizer, http):
    gateway = gateways.get(Setup(module(hooks={"record": True}), workers=2))
    for number in range(40):
        optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=f"burst-{number}"))
        assert gateway.send(CHAT.call(), http).status == 200
    for number in range(40):
        optimizer.written_back(f"burst-{number}", 20)
