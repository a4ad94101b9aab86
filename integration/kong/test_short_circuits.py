"""The short circuit: who is answered from the cache, and with what."""

import json

import pytest

from kit.dialects import ALL, CHAT, MESSAGES
from kit.message import as_json
from kit.optimizer import OPTIMIZE, hits
from kit.streams import STREAMING, events

from gateway import PREPARE, UNPREPARED, Place, Setup

CACHED = {"id": "from-the-cache", "choices": [{"index": 0}], "big": 12345678901234567890}


@pytest.fixture(params=[PREPARE, UNPREPARED], ids=["prepared", "unprepared"])
def gateway(request, gateways, module):
    """Short circuits need no preparation, nor transforms switched on."""
    switched = {} if request.param == PREPARE else {"kong": {"transform": False}}
    return gateways.get(Setup(module(**switched), prepare=request.param))


def prove(gateway, key, dialect=CHAT, **more):
    """One live call with this key, which the provider accepts."""
    assert gateway.send(dialect.call(key=key, **more)).status == 200


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_proven_caller_s_repeat_never_reaches_the_provider(gateway, optimizer, provider, http, key, dialect):
    prove(gateway, key, dialect)
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    for _ in range(3):
        reply = gateway.send(dialect.call(key=key), http)
        assert (reply.status, reply.json) == (200, dialect.answer)
        assert reply.headers.all("content-type") == ["application/json"]
        assert reply.headers.all("content-length") in ([], [str(len(reply.body))])
        assert gateway.outcome(reply) == "hit"
    assert len(provider.calls) == 1


@pytest.mark.parametrize("dialect", STREAMING, ids=str)
def test_a_stream_is_answered_with_a_stream(gateway, optimizer, provider, http, key, dialect):
    prove(gateway, key, dialect)
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    reply = gateway.send(dialect.call(key=key, stream=True), http)
    assert reply.status == 200 and reply.complete
    assert reply.headers.all("content-type") == ["text/event-stream"]
    assert len(provider.calls) == 1
    told = [event for event in events(reply.body) if event.strip()]
    assert len(told) > 2
    assert all(event.startswith((b"data: ", b"event: ")) for event in told)


def test_a_hit_is_the_bytes_that_the_optimizer_gave_and_a_line_end(gateway, optimizer, http, key):
    prove(gateway, key)
    spelled = b'{ "id":"x",  "n":12345678901234567890, "t":"\\u00e9", "choices":[]}'
    optimizer.on(OPTIMIZE, as_json(b'{"request":{}, "cacheHit":true, "cachedResponse":' + spelled + b"}"))
    reply = gateway.send(CHAT.call(key=key), http)
    assert reply.body.removesuffix(b"\n") == spelled


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_megabytes_are_served_from_the_cache(gateway, optimizer, http, key, stream):
    prove(gateway, key)
    answer = json.loads(json.dumps(CHAT.answer))
    answer["choices"][0]["message"]["content"] = "é" * 1_000_000
    optimizer.on(OPTIMIZE, hits(answer))
    reply = gateway.send(CHAT.call(key=key, stream=stream), http)
    assert reply.status == 200 and reply.complete
    if not stream:
        assert reply.json == answer


def test_an_unproven_caller_is_not_answered_from_the_cache(gateway, optimizer, provider, http, key):
    optimizer.on(OPTIMIZE, hits(CACHED))
    reply = gateway.send(CHAT.call(key=key), http)
    assert reply.json == CHAT.answer
    assert len(provider.of(reply.case)) == 1
    # Now it is proven, here and for this endpoint only.
    assert gateway.send(CHAT.call(key=key), http).json == CACHED
    assert gateway.send(MESSAGES.call(key=key), http).json == MESSAGES.answer


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_only_the_provider_s_2xx_proves(gateway, optimizer, provider, http, key, status):
    optimizer.on(OPTIMIZE, hits(CACHED))
    provider.answers(as_json({"error": "no"}, status=status))
    for _ in range(2):
        reply = gateway.send(CHAT.call(key=key), http)
        assert (reply.status, reply.json) == (status, {"error": "no"})


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_revokes(gateway, optimizer, provider, http, key, status):
    prove(gateway, key)
    provider.answers(as_json({"error": "no"}, status=status))
    assert gateway.send(CHAT.call(key=key), http).status == status
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert gateway.send(CHAT.call(key=key), http).status == status


def test_the_proxy_s_own_answer_proves_nothing(gateways, module, optimizer, http, key):
    gateway = gateways.get(Setup(module(), places=[Place("/own", module(), answer="{}")]))
    for _ in range(2):
        assert gateway.send(CHAT.call(key=key, prefix="/own"), http).json == {}
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert gateway.send(CHAT.call(key=key), http).json == CHAT.answer
