"""The short circuit: who is answered from the cache, with what, and who never is."""

import hashlib
import json
import time

import pytest

from conftest import module
from kit.dialects import ALL, CHAT, EMBEDDINGS, MESSAGES, RESPONSES
from kit.envoy_config import Setup
from kit.message import as_json
from kit.optimizer import OPTIMIZE, hits

CACHED = {"id": "from-the-cache", "choices": [{"index": 0}], "big": 12345678901234567890}


def prove(proxy, dialect, key, **more):
    """One live call with this key, which the provider accepts."""
    reply = proxy.send(dialect.call(key=key, **more))
    assert reply.status == 200


def served(proxy, provider, call, http="HTTP/1.1") -> bool:
    """Whether this call is answered from the cache."""
    reply = proxy.send(call, http)
    if hit := proxy.outcome(reply) == "hit":
        assert (reply.status, reply.json) == (200, CACHED)
        assert reply.headers.all("content-type") == ["application/json"]
        assert reply.headers.all("content-length") in ([], [str(len(reply.body))])
    assert len(provider.of(reply.case)) == (0 if hit else 1)
    return hit


@pytest.mark.parametrize("route", ["", "/h2"], ids=["before HTTP/1.1", "before HTTP/2"])
@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_proven_caller_s_repeat_never_reaches_the_provider(
    plain, optimizer, provider, http, key, dialect, route
):
    prove(plain, dialect, key, prefix=route)
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    counting = plain.counting()
    reply = plain.send(dialect.call(key=key, prefix=route), http)
    assert (reply.status, reply.json) == (200, dialect.answer)
    assert reply.headers.all("content-type") == ["application/json"]
    assert len(provider.calls) == 1
    assert plain.outcome(reply) == "hit"
    counting.expect(exchanges={"hit none": 1}, callouts={"optimize ok": 1}, responses={})


def test_a_hit_is_the_bytes_that_the_optimizer_gave(plain, optimizer, key):
    prove(plain, CHAT, key)
    spelled = '{ "id":"x",  "n":12345678901234567890, "t":"\\u00e9", "choices":[]}'
    optimizer.on(OPTIMIZE, as_json(
        b'{"request":{}, "cacheHit":true, "cachedResponse":' + spelled.encode() + b"}"
    ))
    assert plain.send(CHAT.call(key=key)).body == spelled.encode()


def test_megabytes_are_served_from_the_cache(plain, optimizer, key, http):
    prove(plain, CHAT, key)
    answer = {"id": "x", "choices": ["c" * 3_000_000]}
    optimizer.on(OPTIMIZE, hits(answer))
    reply = plain.send(CHAT.call(key=key), http)
    assert (reply.status, reply.json) == (200, answer)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_every_credential_header_can_be_proven(plain, optimizer, provider, key, header, http):
    optimizer.on(OPTIMIZE, hits(CACHED))
    call = CHAT.call(headers=[(header, key)])
    assert not served(plain, provider, call, http)
    assert served(plain, provider, call, http)
    assert not served(plain, provider, CHAT.call(headers=[(header, key + "x")]), http)


def test_credentials_count_together(plain, optimizer, provider, key):
    prove(plain, CHAT, key)
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert not served(plain, provider, CHAT.call(key=key, headers=[("x-api-key", "other")]))
    assert not served(plain, provider, CHAT.call(headers=[("x-api-key", f"Bearer {key}")]))
    assert served(plain, provider, CHAT.call(key=key))


def test_two_keys_in_one_kind_of_header_are_not_the_first_one(plain, optimizer, provider, key, http):
    prove(plain, CHAT, key)
    optimizer.on(OPTIMIZE, hits(CACHED))
    other = ("authorization", f"Bearer {key}x")
    assert not served(plain, provider, CHAT.call(key=key, headers=[other]), http)


def refused(proxy, optimizer, provider, call, reason, http="HTTP/1.1"):
    """A hit that is not served: the provider gets the original body."""
    optimizer.on(OPTIMIZE, hits(CACHED, request=CHAT.shorten(CHAT.request)))
    counting = proxy.counting()
    reply = proxy.send(call, http)
    assert reply.status == 200 and b"from-the-cache" not in reply.body
    [seen] = provider.of(reply.case)
    assert seen.body == call.body
    assert proxy.outcome(reply) == f"bypassed:{reason}"
    counting.expect(exchanges={f"bypassed {reason}": 1})


def test_a_caller_never_proven_is_not_answered(plain, optimizer, provider, key, http):
    refused(plain, optimizer, provider, CHAT.call(key=key), "hit_unproven", http)


ELSEWHERE = {
    "on another endpoint": lambda key: EMBEDDINGS.call(key=key),
    "on another upstream": lambda key: CHAT.call(key=key, prefix="/b"),
    "with another key": lambda key: CHAT.call(key=key + "x"),
    "with the key in another header": lambda key: CHAT.call(headers=[("api-key", key)]),
}


@pytest.mark.parametrize("call", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_a_proof_proves_nothing(plain, optimizer, provider, key, call, http):
    prove(plain, CHAT, key)
    refused(plain, optimizer, provider, call(key), "hit_unproven", http)


def test_a_caller_without_credentials_is_one_caller_like_any_other(proxies, optimizer, provider):
    proxy = proxies.get(Setup(module(cache={"proof_seconds": 120})))
    prove(proxy, CHAT, "sk-some")
    refused(proxy, optimizer, provider, CHAT.call(), "hit_unproven")
    assert served(proxy, provider, CHAT.call())
    assert not served(proxy, provider, CHAT.call(key="sk-any"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_provider_s_refusal_revokes(plain, optimizer, provider, key, status):
    prove(plain, CHAT, key)
    provider.answers(as_json({"error": {}}, status=status))
    assert plain.send(CHAT.call(key=key)).status == status
    provider.answers(provider.default)
    refused(plain, optimizer, provider, CHAT.call(key=key), "hit_unproven")


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_other_errors_neither_prove_nor_revoke(plain, optimizer, provider, key, status):
    provider.answers(as_json({"error": {}}, status=status))
    plain.send(CHAT.call(key=key + "never"))
    provider.answers(provider.default)
    prove(plain, CHAT, key)
    provider.answers(as_json({"error": {}}, status=status))
    plain.send(CHAT.call(key=key))
    provider.answers(provider.default)
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert served(plain, provider, CHAT.call(key=key))
    refused(plain, optimizer, provider, CHAT.call(key=key + "never"), "hit_unproven")


def test_only_the_provider_s_own_answer_proves(plain, optimizer, provider, key):
    assert plain.send(CHAT.call(key=key, prefix="/gone")).status == 503
    optimizer.on(OPTIMIZE, hits(CACHED))
    reply = plain.send(CHAT.call(key=key, prefix="/gone"))
    assert (reply.status, plain.outcome(reply)) == (503, "bypassed:hit_unproven")


def test_a_bypassed_or_streamed_call_proves_as_well(plain, optimizer, provider, key):
    plain.send(CHAT.call(key=key, headers=[("x-anyray-optimize", "off")]))
    plain.send(MESSAGES.call(key=key, stream=True))
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert served(plain, provider, CHAT.call(key=key))
    assert served(plain, provider, MESSAGES.call(key=key))


def test_a_proof_ends_and_a_hit_does_not_renew_it(proxies, optimizer, provider, key):
    seconds = 2
    proxy = proxies.get(Setup(module(cache={"proof_seconds": seconds})))
    before = time.monotonic()
    prove(proxy, CHAT, key)
    proven = time.monotonic()
    optimizer.on(OPTIMIZE, hits(CACHED))
    while served(proxy, provider, CHAT.call(key=key)):
        assert time.monotonic() - proven < seconds + 10
        time.sleep(0.3)
    assert time.monotonic() - before > seconds


NEVER_SERVED = {
    "cache-control: no-cache": (CHAT, [("cache-control", "no-cache")], {}, "hit_no_cache"),
    "cache-control: no-store": (CHAT, [("cache-control", "no-store")], {}, "hit_no_cache"),
    "no-cache among others": (
        CHAT, [("cache-control", "max-age=0, No-Cache")], {}, "hit_no_cache"),
    "no-cache in a second header": (
        CHAT, [("cache-control", "max-age=0"), ("cache-control", "no-cache")], {}, "hit_no_cache"),
    "a stream of what cannot be told as one": (CHAT, [], {"stream": True}, "hit_unreplayable"),
    "a response in the background": (RESPONSES, [], {"background": True}, "hit_stateful"),
    "a response after another": (RESPONSES, [], {"previous_response_id": "r"}, "hit_stateful"),
    "a response in a conversation": (RESPONSES, [], {"conversation": "c"}, "hit_stateful"),
    "a response that is stored": (RESPONSES, [], {"store": True}, "hit_stateful"),
    "a response that is stored by default": (RESPONSES, [], {"store": None}, "hit_stateful"),
    "a credential that came twice": (
        CHAT, [("x-api-key", "a"), ("x-api-key", "b")], {}, "hit_ambiguous_caller"),
    "a credential that came twice the same": (
        CHAT, [("api-key", "a"), ("api-key", "a")], {}, "hit_ambiguous_caller"),
}


@pytest.mark.parametrize("dialect, headers, members, reason", NEVER_SERVED.values(),
                         ids=NEVER_SERVED.keys())
def test_never_answered_from_the_cache(
    plain, optimizer, provider, http, key, dialect, headers, members, reason
):
    prove(plain, dialect, key)
    call = dialect.call(key=key, headers=headers, **members)
    plain.send(call, http)
    refused(plain, optimizer, provider, call, reason, http)


@pytest.mark.parametrize("members", [
    {"cachedResponse": None}, {"cachedResponse": "text"}, {"cachedResponse": [1]},
    {"cacheHit": False}, {"cacheHit": None},
], ids=str)
def test_a_hit_without_a_usable_body_is_no_hit(plain, optimizer, provider, http, key, members):
    prove(plain, CHAT, key)
    optimizer.on(OPTIMIZE, hits(CACHED, request=CHAT.shorten(CHAT.request), **members))
    reply = plain.send(CHAT.call(key=key), http)
    assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)
    assert plain.outcome(reply) == "transformed"


def test_without_the_cache_hook_nothing_is_served(proxies, optimizer, provider, key):
    proxy = proxies.get(Setup(module(hooks={"cache": False})))
    prove(proxy, CHAT, key)
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert not served(proxy, provider, CHAT.call(key=key))


AUTHENTICATED = Setup(module(
    cache={"serve": "authenticated", "scope": "team"},
    attribution={"user": {"header": "x-verified-user"}, "team": {"header": "x-verified-team"}},
))


def test_authenticated_serves_whom_a_trusted_source_named(proxies, optimizer, provider, key, http):
    proxy = proxies.get(AUTHENTICATED)
    user = ("x-verified-user", "ann")
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert served(proxy, provider, CHAT.call(key=key, headers=[user]), http)
    assert not served(proxy, provider, CHAT.call(key=key), http)
    claim = ("x-anyray-metadata", '{"user":"ann"}')
    assert not served(proxy, provider, CHAT.call(key=key, headers=[claim]), http)
    twice = CHAT.call(key=key, headers=[user, ("x-verified-user", "bob")])
    assert not served(proxy, provider, twice, http)


def test_anyone_serves_anyone(proxies, optimizer, provider, key, http):
    proxy = proxies.get(Setup(module(cache={"serve": "anyone", "scope": "shared"})))
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert served(proxy, provider, CHAT.call(key=key), http)
    assert served(proxy, provider, CHAT.call(), http)


def scope(proxy, optimizer, call) -> str | None:
    optimizer.reset()
    proxy.send(call)
    return optimizer.asked().json.get("metadata", {}).get("cacheScope")


def test_the_cache_scope_stands_for_upstream_and_credentials(plain, optimizer):
    first = scope(plain, optimizer, CHAT.call(key="sk-a"))
    digest = hashlib.sha256(b"provider" + b"authorization\0Bearer sk-a\n").hexdigest()
    assert first == digest[:32]
    both = scope(plain, optimizer, CHAT.call(headers=[("api-key", "b"), ("x-api-key", "a")]))
    digest = hashlib.sha256(b"provider" + b"x-api-key\0a\n" + b"api-key\0b\n").hexdigest()
    assert both == digest[:32]
    others = {
        scope(plain, optimizer, CHAT.call(key="sk-b")),
        scope(plain, optimizer, CHAT.call(key="sk-a", prefix="/b")),
        scope(plain, optimizer, CHAT.call()),
    }
    assert len(others) == 3 and first not in others
    claim = ("x-anyray-metadata", json.dumps({"cacheScope": "0" * 32}))
    assert scope(plain, optimizer, CHAT.call(key="sk-a", headers=[claim])) == first


def test_the_cache_scope_can_be_shared_or_an_attribution_s(proxies, optimizer):
    shared = proxies.get(Setup(module(cache={"serve": "anyone", "scope": "shared"})))
    claim = ("x-anyray-metadata", json.dumps({"cacheScope": "0" * 32}))
    assert scope(shared, optimizer, CHAT.call(key="sk-a", headers=[claim])) is None

    by_team = proxies.get(AUTHENTICATED)
    team = lambda name: [("x-verified-team", name)]
    red = scope(by_team, optimizer, CHAT.call(key="sk-a", headers=team("red")))
    assert red and red == scope(by_team, optimizer, CHAT.call(key="sk-b", headers=team("red")))
    assert red != scope(by_team, optimizer, CHAT.call(key="sk-a", headers=team("blue")))


def test_proofs_are_shared_among_workers(proxies, optimizer, provider, key):
    proxy = proxies.get(Setup(module(), concurrency=2))
    prove(proxy, CHAT, key)
    optimizer.on(OPTIMIZE, hits(CACHED))
    assert all(served(proxy, provider, CHAT.call(key=key)) for _ in range(24))
    connections = [
        line for line in proxy.host.ask("/stats?filter=worker_.*downstream_cx_total").splitlines()
        if line.startswith("listener.127.0.0.1")
    ]
    assert len(connections) == 2 and not any(line.endswith(": 0") for line in connections)
