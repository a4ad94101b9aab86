"""The write-back: what a live answer puts into the cache, and what never gets there."""

import json
import time
import uuid

import pytest

from conftest import barrier, module
from kit.dialects import ALL, CHAT, RESPONSES
from kit.envoy_config import Setup
from kit.message import NEVER, Answer, as_json
from kit.optimizer import CACHE, OPTIMIZE, OPTIMIZE_RESPONSE, QUEUED_SECONDS, hits, raw_members, rewrites, says, transforms
from kit.provider import sse


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_live_answer_is_written_back(plain, optimizer, provider, http, dialect, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    counting = plain.counting()
    call = dialect.call(key="sk-1")
    reply = plain.send(call, http)
    written = optimizer.written_back(cache_key)
    assert written["cacheKey"] == cache_key
    assert written["response"] == dialect.answer
    assert written["request"] == json.loads(call.body)
    assert "ttlSeconds" not in written
    assert reply.json == dialect.answer
    counting.expect(write_backs={"queued none": 1}, callouts={"cache ok": 1})


def test_it_carries_what_was_sent_and_what_the_client_got(plain, optimizer, provider, cache_key):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, cacheEligible=True, cacheKey=cache_key))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"model": "rewritten"}))
    reply = plain.send(CHAT.call(key="sk-1"))
    written = optimizer.written_back(cache_key)
    assert reply.json["model"] == "rewritten"
    assert written["response"] == reply.json
    assert written["request"] == provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)


def test_the_answer_is_written_back_as_it_is_spelled(plain, optimizer, provider, cache_key):
    spelled = b'{ "n":12345678901234567890,\n "choices":[ ], "id" : "\\u00e9" }'
    provider.answers(as_json(spelled))
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    plain.send(CHAT.call())
    optimizer.written_back(cache_key)
    [seen] = [seen for seen in optimizer.to(CACHE) if cache_key.encode() in seen.body]
    assert raw_members(seen.body)["response"] == spelled.decode()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_an_answer_of_unknown_length_is_written_back(
    plain, optimizer, provider, http, framing, cache_key
):
    whole = json.dumps(CHAT.answer).encode()
    provider.answers(as_json(whole, framing=framing))
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    reply = plain.send(CHAT.call(), http)
    assert reply.body == whole
    assert optimizer.written_back(cache_key)["response"] == CHAT.answer


def test_a_refused_hit_is_written_back_afresh(plain, optimizer, provider, key, cache_key):
    optimizer.on(OPTIMIZE, hits({"id": "old"}, cacheEligible=True, cacheKey=cache_key))
    reply = plain.send(CHAT.call(key=key))
    assert plain.outcome(reply) == "bypassed:hit_unproven"
    assert optimizer.written_back(cache_key)["response"] == CHAT.answer


def test_a_time_to_live_is_told_where_configured(proxies, optimizer, cache_key):
    proxy = proxies.get(Setup(module(cache={"ttl_seconds": 60})))
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    proxy.send(CHAT.call())
    assert optimizer.written_back(cache_key)["ttlSeconds"] == 60


def test_nobody_waits_for_it(plain, optimizer, cache_key, http):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    optimizer.on(CACHE, NEVER)
    reply = plain.send(CHAT.call(), http)
    assert reply.complete and reply.elapsed < QUEUED_SECONDS
    optimizer.written_back(cache_key)


ERROR = {"error": {"message": "overloaded"}}
# What was called, what the provider said, and the reason counted where one was promised a key.
EXCLUDED = {
    "no-store": (CHAT.call(headers=[("cache-control", "no-store")]), None, "no_store"),
    "a response in the background": (RESPONSES.call(background=True), None, "no_store"),
    "a response after another": (RESPONSES.call(previous_response_id="r"), None, "no_store"),
    "a response in a conversation": (RESPONSES.call(conversation={"id": "c"}), None, "no_store"),
    "a response that is stored by default": (RESPONSES.call(store=None), None, "no_store"),
    "a 400": (CHAT.call(), as_json(ERROR, status=400), "response_status"),
    "a 500": (CHAT.call(), as_json(ERROR, status=500), "response_status"),
    "a 200 with an error": (CHAT.call(), as_json(CHAT.answer | ERROR), "response_error"),
    "an answer that is no JSON": (CHAT.call(), as_json(b"<html>"), "response_not_json"),
    "an array": (CHAT.call(), as_json([CHAT.answer]), "response_not_object"),
    "plain text": (
        CHAT.call(), Answer(headers=[("content-type", "text/plain")], body=b"{}"),
        "response_content_type"),
    "an empty answer": (CHAT.call(), as_json(b""), "response_empty"),
    "an encoded answer": (
        CHAT.call(), as_json(CHAT.answer, headers=[("content-encoding", "br")]),
        "response_encoded"),
    "an answer cut short": (
        CHAT.call(), as_json(CHAT.answer, framing=100000, end="close"), "response_unreadable"),
    "a stream without an end": (CHAT.call(), sse(b": nothing yet\n\n"), "stream_incomplete"),
}


@pytest.mark.parametrize("call, answer, reason", EXCLUDED.values(), ids=EXCLUDED.keys())
def test_never_written_back(plain, optimizer, provider, http, call, answer, reason, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    if answer:
        provider.answers(answer)
    counting = plain.counting()
    plain.send(call, http)
    counting.expect(write_backs={f"bypassed {reason}": 1})
    barrier(plain, optimizer, provider)
    assert not any(cache_key.encode() in seen.body for seen in optimizer.to(CACHE))


def test_a_no_cache_call_is_written_back(plain, optimizer, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    plain.send(CHAT.call(headers=[("cache-control", "no-cache")]))
    optimizer.written_back(cache_key)


@pytest.mark.parametrize("members", [
    {"cacheEligible": False, "cacheKey": "ck-not-eligible"},
    {"cacheEligible": None, "cacheKey": "ck-not-eligible"},
    {"cacheEligible": True, "cacheKey": None},
    {"cacheEligible": True, "cacheKey": 7},
    {"cacheEligible": True},
], ids=str)
def test_the_optimizer_decides_what_is_eligible(plain, optimizer, provider, members):
    optimizer.on(OPTIMIZE, says(**members))
    counting = plain.counting()
    plain.send(CHAT.call())
    counting.expect(write_backs={})
    barrier(plain, optimizer, provider)
    assert len(optimizer.to(CACHE)) == 1


def test_a_served_hit_is_not_written_back(plain, optimizer, provider, key, cache_key):
    plain.send(CHAT.call(key=key))
    optimizer.on(OPTIMIZE, hits(CHAT.answer, cacheEligible=True, cacheKey=cache_key))
    assert plain.outcome(plain.send(CHAT.call(key=key))) == "hit"
    barrier(plain, optimizer, provider)
    assert len(optimizer.to(CACHE)) == 1


def test_without_the_cache_hook_nothing_is_written(proxies, optimizer, cache_key):
    proxy = proxies.get(Setup(module(hooks={"cache": False})))
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    proxy.send(CHAT.call())
    time.sleep(0.5)
    assert optimizer.to(CACHE) == []


def test_none_leaves_while_the_breaker_is_open(proxies, optimizer, cache_key):
    proxy = proxies.get(Setup(module(breaker={"failures": 1, "open_ms": 600000})))
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    optimizer.on(OPTIMIZE_RESPONSE, as_json({}, status=500))
    counting = proxy.counting()
    proxy.send(CHAT.call())
    counting.expect(write_backs={"bypassed breaker_open": 1})
    time.sleep(0.3)
    assert optimizer.to(CACHE) == []


def test_many_at_once_all_arrive_or_are_counted(plain, optimizer):
    keys = [f"ck-{uuid.uuid4().hex}" for _ in range(40)]
    counting = plain.counting()
    for cache_key in keys:
        optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
        plain.send(CHAT.call())
    counting.expect(write_backs={"queued none": 40}, callouts={"cache ok": 40}, seconds=10)
    assert {seen.json["cacheKey"] for seen in optimizer.to(CACHE)} >= set(keys)
