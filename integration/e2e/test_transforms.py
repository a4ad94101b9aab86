"""The request hook: what the optimizer makes of a request is what the provider gets."""

import json

import pytest

from conftest import PATIENT, module
from kit.client import Request
from kit.dialects import ALL, CHAT, MESSAGES
from kit.envoy_config import Setup
from kit.message import as_json
from kit.optimizer import raw_members, says, transforms

CALLER_SPELLING = (
    b'{ "model" : "gpt-x",\n "seed":12345678901234567890, "temperature":1.50,"top_p":1e0 ,'
    b' "user":"caf\\u00e9", "x_unknown":{"b":1, "a":[ ]},"messages":[{"role":"user",'
    b'"content":"a  b"}]  }'
)


def rounded(request: dict) -> dict:
    """The request as a JavaScript service gives it back: every number is a double."""
    return json.loads(json.dumps(request), parse_int=lambda digits: int(float(digits)))


def provider_got(provider, reply):
    [seen] = provider.of(reply.case)
    assert seen.headers.all("content-length") in ([], [str(len(seen.body))])
    return seen


@pytest.mark.parametrize("route", ["", "/h2"], ids=["to HTTP/1.1", "to HTTP/2"])
@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_full_request_is_applied(plain, optimizer, provider, http, dialect, route):
    optimizer.on("/v1/optimize", transforms(dialect.shorten, estimatedTokensSaved=3))
    counting = plain.counting()
    call = dialect.call(key="sk-1", prefix=route)
    reply = plain.send(call, http)

    assert (reply.status, reply.json) == (200, dialect.answer)
    seen = provider_got(provider, reply)
    assert seen.json == dialect.shorten(dialect.request)
    before, after = raw_members(call.body), raw_members(seen.body)
    for name in before.keys() - {dialect.prompt}:
        assert after[name] == before[name]
    assert not reply.headers.has("x-anyray-optimization")
    assert plain.outcome(reply) == "transformed"
    counting.expect(exchanges={"transformed none": 1}, callouts={"optimize ok": 1})
    assert counting.moved("tokens_saved") == {"": 3}


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_the_optimizer_is_asked_as_the_protocol_says(plain, optimizer, http, dialect):
    call = dialect.call(key="sk-1", prefix="/openai/deep", query="?api-version=1")
    plain.send(call, http)
    asked = optimizer.asked()
    envelope = raw_members(asked.body)
    assert (asked.method, asked.path) == ("POST", "/v1/optimize")
    assert asked.headers.get("content-type") == "application/json"
    assert json.loads(envelope["endpoint"]) == dialect.path
    assert json.loads(envelope["capabilities"]) == {"canShortCircuit": True}
    assert envelope["request"] == call.body.decode()


def test_unchanged_members_keep_their_spelling(plain, optimizer, provider, http):
    change = lambda request: rounded(request) | {"messages": CHAT.shorter_prompt}
    optimizer.on("/v1/optimize", transforms(change))
    reply = plain.send(CHAT.call(raw=CALLER_SPELLING), http)
    before = raw_members(CALLER_SPELLING)
    after = raw_members(provider_got(provider, reply).body)
    assert after.keys() == before.keys()
    for name in before.keys() - {"messages"}:
        assert after[name] == before[name]
    assert json.loads(after["messages"]) == CHAT.shorter_prompt


@pytest.mark.parametrize("change", [
    lambda request: request,
    lambda request: dict(sorted(request.items())),
    lambda request: dict(sorted(rounded(request).items(), reverse=True)),
], ids=["re-serialised", "with members in another order", "with numbers rounded to doubles"])
def test_an_equal_request_leaves_the_original_bytes(plain, optimizer, provider, http, change):
    optimizer.on("/v1/optimize", transforms(change))
    counting = plain.counting()
    reply = plain.send(CHAT.call(raw=CALLER_SPELLING), http)
    assert provider_got(provider, reply).body == CALLER_SPELLING
    assert plain.outcome(reply) == "unchanged"
    counting.expect(exchanges={"unchanged none": 1})


def test_a_member_missing_from_a_full_request_is_removed(plain, optimizer, provider, http):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    optimizer.on("/v1/optimize", transforms(
        lambda request: {k: v for k, v in request.items() if k != "tools"}
    ))
    reply = plain.send(CHAT.call(tools=tools), http)
    assert provider_got(provider, reply).json == CHAT.request
    assert plain.outcome(reply) == "transformed"


@pytest.mark.parametrize("sparse", [
    {"temperature": 0},
    {"messages": CHAT.shorter_prompt},
    {"model": "gpt-small"},
], ids=["without model and prompt", "without the model", "without the prompt"])
def test_a_sparse_request_removes_nothing(plain, optimizer, provider, http, sparse):
    optimizer.on("/v1/optimize", says(request=sparse))
    reply = plain.send(CHAT.call(), http)
    assert provider_got(provider, reply).json == CHAT.request | sparse
    assert plain.outcome(reply) == "transformed"


@pytest.mark.parametrize("change", [
    lambda request: request | {"max_tokens": 10, "metadata": {"é": "\U0001f600"}},
    lambda request: request | {"messages": [{"role": "user", "content": "long " * 4000}]},
    lambda request: request | {"messages": [{"role": "user", "content": "x"}]},
], ids=["new members", "a longer body", "a shorter body"])
def test_the_length_follows_the_body(plain, optimizer, provider, http, change):
    optimizer.on("/v1/optimize", transforms(change))
    for route in ("", "/h2"):
        reply = plain.send(CHAT.call(prefix=route), http)
        assert provider_got(provider, reply).json == change(CHAT.request)


def test_a_change_without_decisions_is_applied(plain, optimizer, provider):
    optimizer.on("/v1/optimize", transforms(CHAT.shorten, decisions=[]))
    reply = plain.send(CHAT.call())
    assert provider_got(provider, reply).json == CHAT.shorten(CHAT.request)


def test_only_the_request_member_is_needed(plain, optimizer, provider):
    optimizer.on("/v1/optimize", as_json({
        "request": CHAT.shorten(CHAT.request), "decisions": None, "cacheHit": None,
        "cachedResponse": None, "cacheKey": None, "estimatedTokensSaved": None,
        "suppressedKinds": None, "optimizationId": None, "x_new": [1],
    }))
    reply = plain.send(CHAT.call())
    assert provider_got(provider, reply).json == CHAT.shorten(CHAT.request)


@pytest.mark.parametrize("gap", [0.0, 0.05], ids=["at once", "slowly"])
def test_a_body_in_pieces_is_one_body(plain, optimizer, provider, http, gap):
    optimizer.on("/v1/optimize", transforms(MESSAGES.shorten))
    whole = MESSAGES.call(system="é" * 20)
    pieces = [whole.body[at:at + 31] for at in range(0, len(whole.body), 31)]
    slowly = [step for piece in pieces for step in (piece, gap)]
    reply = plain.send(Request(path=whole.path, headers=whole.headers, body=slowly), http)
    assert provider_got(provider, reply).json == MESSAGES.shorten(json.loads(whole.body))


@pytest.mark.parametrize("user", ["u", "u" * 100_000], ids=["small", "shown again with the optimizer's answer"])
@pytest.mark.parametrize("trailers", [[], [("x-tail", "kept")]], ids=["alone", "with trailers"])
@pytest.mark.parametrize("route", ["", "/h2"], ids=["to HTTP/1.1", "to HTTP/2"])
def test_a_chunked_body_is_transformed_where_the_host_has_room(
    roomy, optimizer, provider, http, route, trailers, user
):
    optimizer.on("/v1/optimize", transforms(CHAT.shorten))
    whole = CHAT.call(prefix=route, user=user)
    reply = roomy.send(Request(
        path=whole.path, headers=whole.headers, body=[whole.body[:20], 0.05, whole.body[20:]],
        framing="chunked", trailers=trailers,
    ), http)
    seen = provider_got(provider, reply)
    assert seen.json == CHAT.shorten(json.loads(whole.body))
    assert list(seen.trailers) == trailers
    assert roomy.outcome(reply) == "transformed"


def test_the_optimizer_may_speak_http2(proxies, optimizer, provider):
    proxy = proxies.get(Setup(module(optimizer=PATIENT | {"upstream": "optimizer_h2"})))
    optimizer.on("/v1/optimize", transforms(CHAT.shorten))
    reply = proxy.send(CHAT.call())
    assert provider_got(provider, reply).json == CHAT.shorten(CHAT.request)
    assert {call.http for call in optimizer.calls} == {"HTTP/2"}


def test_calls_on_one_upstream_connection_do_not_mix(plain, optimizer, provider):
    """A wrong content-length would turn a body's rest into the next call's beginning."""
    for count in (1, 50, 3, 400, 2):
        change = lambda request: request | {"messages": [{"role": "user", "content": "x" * count}]}
        optimizer.on("/v1/optimize", transforms(change))
        reply = plain.send(CHAT.call())
        assert provider_got(provider, reply).json == change(CHAT.request)
    assert len(provider.calls) == 5


def test_a_provider_s_refusal_of_a_transform_is_counted(plain, optimizer, provider):
    optimizer.on("/v1/optimize", transforms(CHAT.shorten))
    provider.answers(as_json({"error": {"message": "no"}}, status=400))
    counting = plain.counting()
    assert plain.send(CHAT.call()).status == 400
    counting.expect(provider_rejections={"": 1})
