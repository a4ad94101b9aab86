"""Records: one for each call of an endpoint, however it went, with exactly what is known of it."""

import json
import threading
import time
import uuid

import pytest

from conftest import barrier, module
from kit import client
from kit.client import Reply, Request
from kit.dialects import ALL, CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, Dialect
from kit.envoy_config import Setup
from kit.message import NEVER, RESET, Answer, as_json
from kit.optimizer import (
    CACHE, DECISION, OPTIMIZE, OPTIMIZE_RESPONSE, QUEUED_SECONDS, RECORD, hits, rewrites, says, transforms,
)
from kit.provider import sse
from kit.proxy import HTTP1, ON
from kit.streams import STREAMING, data, document, recorded, told

streaming = pytest.mark.parametrize("dialect", STREAMING, ids=str)

TOKENS = {
    CHAT.name: {"promptTokens": 5, "completionTokens": 2, "totalTokens": 7},
    COMPLETIONS.name: {"promptTokens": 4, "completionTokens": 2, "totalTokens": 6},
    EMBEDDINGS.name: {"promptTokens": 2, "totalTokens": 2},
    RESPONSES.name: {"promptTokens": 3, "completionTokens": 2, "totalTokens": 5,
                     "cachedTokens": 0, "reasoningTokens": 0},
    MESSAGES.name: {"promptTokens": 3, "completionTokens": 2},
}
SKIPPED = {"optimizationId": "opt-1", "optimizationStatus": "skipped"}
APPLIED = {"optimizationId": "opt-1", "optimizationStatus": "applied"}


def send(proxy, call: Request, http: str = HTTP1) -> tuple[str, Reply]:
    """Sends a call with an id of its own."""
    id = uuid.uuid4().hex
    call.headers = [*(field for field in call.headers if field[0] != "x-request-id"),
                    ("x-request-id", id)]
    return id, proxy.send(call, http)


def facts(record: dict) -> dict:
    """A record less its times, which must be sensible."""
    record = dict(record)
    record.pop("id")
    if ON != "envoy":
        # The host knows the provider by its address alone.
        assert record["provider"].startswith("127.0.0.1:")
        record["provider"] = "provider"
    assert abs(record.pop("ts") / 1000 - time.time()) < 30
    assert 0 <= record.pop("durationMs") < 15000
    assert 0 <= record.pop("optimizationLatencyMs", 0) < 15000
    return record


def of(dialect: Dialect, status: int | None = 200, **members) -> dict:
    """What every record of a call says."""
    known = {"endpoint": dialect.path, "method": "POST", "status": status,
             "model": dialect.request["model"], "provider": "provider"} | members
    return {name: value for name, value in known.items() if value is not None}


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_plain_call(recording, optimizer, http, dialect):
    counting = recording.counting()
    id, _ = send(recording, dialect.call(key="sk-1"), http)
    record = optimizer.record(id)
    assert facts(record) == of(dialect, **TOKENS[dialect.name], **SKIPPED)
    assert record["optimizationLatencyMs"] <= record["durationMs"]
    counting.expect(records={"queued none": 1}, callouts={"record ok": 1})


@streaming
def test_a_streamed_call(recording, optimizer, provider, http, dialect):
    provider.answers(sse(*told(dialect), gap=0.01))
    id, _ = send(recording, dialect.call(stream=True), http)
    record = optimizer.record(id)
    assert facts(record) == of(dialect, **TOKENS[dialect.name], **SKIPPED)
    assert record["durationMs"] >= 50


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("dialect", STREAMING, ids=str)
def test_a_hit(recording, optimizer, http, dialect, key, stream):
    recording.send(dialect.call(key=key))
    optimizer.on(OPTIMIZE, hits(dialect.answer, decisions=[DECISION]))
    id, reply = send(recording, dialect.call(key=key, **({"stream": True} if stream else {})), http)
    assert recording.outcome(reply) == "hit"
    assert facts(optimizer.record(id)) == of(
        dialect, **TOKENS[dialect.name], decisions=[DECISION], **APPLIED)


def test_a_transformed_call(recording, optimizer, http):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, suppressedKinds=[]))
    id, _ = send(recording, CHAT.call(), http)
    assert facts(optimizer.record(id)) == of(
        CHAT, **TOKENS[CHAT.name], decisions=[DECISION], **APPLIED)


def test_a_refused_hit(recording, optimizer, key, http):
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    id, _ = send(recording, CHAT.call(key=key), http)
    assert facts(optimizer.record(id)) == of(CHAT, **TOKENS[CHAT.name], **SKIPPED)


WRONG = {
    "an error": as_json({"error": {"message": "no"}}, status=429),
    "an error as a stream": sse(*data({"error": {}}), status=500),
    "a redirect": Answer(status=307, headers=[("location", "/x")]),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_a_call_that_the_provider_answers_with(recording, optimizer, provider, http, answer):
    provider.answers(answer)
    id, _ = send(recording, CHAT.call(), http)
    assert facts(optimizer.record(id)) == of(CHAT, answer.status, **SKIPPED)


def test_an_unreachable_provider(recording, optimizer, http):
    id, reply = send(recording, CHAT.call(prefix="/gone"), http)
    assert reply.status == 503
    assert facts(optimizer.record(id)) == of(CHAT, 503, provider="provider_gone", **SKIPPED)


def test_a_provider_that_resets(recording, optimizer, provider, http):
    provider.answers(RESET)
    id, reply = send(recording, CHAT.call(), http)
    assert facts(optimizer.record(id)) == of(CHAT, reply.status, **SKIPPED)


def test_a_provider_that_dies_in_the_middle(recording, optimizer, provider, http):
    """What it said of the tokens until then counts."""
    provider.answers(sse(*told(MESSAGES)[:5], gap=0.01, end="reset"))
    id, _ = send(recording, MESSAGES.call(stream=True), http)
    assert facts(optimizer.record(id)) == of(
        MESSAGES, promptTokens=3, completionTokens=1, **SKIPPED)


def test_an_error_in_the_middle(recording, optimizer, provider, http):
    provider.answers(sse(recorded("anthropic_error")))
    id, _ = send(recording, MESSAGES.call(stream=True), http)
    record = facts(optimizer.record(id))
    assert record["status"] == 200 and record["promptTokens"] > 0


def test_an_endless_stream(recording, optimizer, provider, http):
    """Of a stream that never tells its usage nothing is said."""
    provider.answers(sse(*told(CHAT)[:-2]))
    id, _ = send(recording, CHAT.call(stream=True), http)
    assert facts(optimizer.record(id)) == of(CHAT, **SKIPPED)


def leave(proxy, call: Request, http: str, when) -> str:
    """Sends a call and leaves; returns the call's id."""
    id = uuid.uuid4().hex
    call.headers = [*call.headers, ("x-request-id", id)]
    sock = client.begin(proxy.port, call, http)
    when(sock)
    sock.close()
    return id


def test_a_client_that_leaves_in_the_middle(recording, optimizer, provider, http):
    provider.answers(sse(*told(MESSAGES)[:5], gap=0.01, end="hang"))

    def when(sock) -> None:
        got = b""
        while told(MESSAGES)[4] not in got:
            got += sock.recv(1 << 16)

    id = leave(recording, MESSAGES.call(stream=True), http, when)
    assert facts(optimizer.record(id)) == of(
        MESSAGES, promptTokens=3, completionTokens=1, **SKIPPED)


def test_a_client_that_leaves_before_the_answer(recording, optimizer, provider, http):
    provider.answers(NEVER)
    id = leave(recording, CHAT.call(), http,
               lambda sock: provider.wait_for(lambda seen: seen.path == CHAT.path))
    assert facts(optimizer.record(id)) == of(CHAT, None, **SKIPPED)


def test_a_client_that_leaves_before_the_optimizer_answers(recording, optimizer, http):
    optimizer.on(OPTIMIZE, as_json({"request": {}}, delay=0.3))
    id = leave(recording, CHAT.call(), http,
               lambda sock: optimizer.wait_for(lambda seen: seen.path == OPTIMIZE))
    assert facts(optimizer.record(id)) == of(CHAT, None)


OPTED_OUT = [("x-anyray-optimize", "off")]
# What was called, what the optimizer said, and what is not known of it.
BYPASSED = {
    "opted out": (CHAT.call(headers=OPTED_OUT), says(), {"model": None}),
    "an opted-out stream": (CHAT.call(headers=OPTED_OUT, stream=True), says(), {"model": None}),
    "signed": (CHAT.call(headers=[("content-digest", "x")]), says(), {"model": None}),
    "no JSON": (CHAT.call(raw=b"no json"), says(), {"model": None}),
    "no object": (CHAT.call(raw=b"[]"), says(), {"model": None}),
    "a failing optimizer": (CHAT.call(), as_json({}, status=500), {}),
    "an optimizer that says nothing": (CHAT.call(), Answer(body=b""), {}),
    "an optimizer that resets": (CHAT.call(), RESET, {}),
    "a model that is no name": (CHAT.call(model=7), says(), {"model": None} | SKIPPED),
    "a transform that is refused": (CHAT.call(), says(request=CHAT.body(messages=[])), SKIPPED),
}


@pytest.mark.parametrize("call, script, known", BYPASSED.values(), ids=BYPASSED.keys())
def test_a_bypassed_call(recording, optimizer, http, call, script, known):
    optimizer.on(OPTIMIZE, script)
    id, _ = send(recording, call, http)
    assert facts(optimizer.record(id)) == of(CHAT, **TOKENS[CHAT.name] | known)


def test_an_opted_out_stream_is_read_along(recording, optimizer, provider, http):
    provider.answers(sse(*told(MESSAGES)))
    id, reply = send(recording, MESSAGES.call(stream=True, headers=OPTED_OUT), http)
    assert reply.body == b"".join(told(MESSAGES))
    assert facts(optimizer.record(id)) == of(MESSAGES, **TOKENS[MESSAGES.name], model=None)


def test_without_any_other_hook(proxies, optimizer, provider, http):
    proxy = proxies.get(Setup(module(hooks={"request": False, "response": False, "record": True})))
    for answer in (sse(*told(CHAT)), provider.default):
        provider.answers(answer)
        id, _ = send(proxy, CHAT.call(stream=True), http)
        assert facts(optimizer.record(id)) == of(CHAT, **TOKENS[CHAT.name])
    assert optimizer.to(OPTIMIZE) == []


NOT_RECORDED = {
    "a GET": Request(method="GET", path=CHAT.path),
    "a form": Request(path=CHAT.path, headers=[("content-type", "text/plain")], body=b"x"),
    "another path": Request(path="/v1/models", headers=[("content-type", "application/json")],
                            body=b"{}"),
}


def test_what_is_no_call_of_an_endpoint_is_not_recorded(recording, optimizer, http):
    counting = recording.counting()
    for call in NOT_RECORDED.values():
        assert recording.send(call, http).status == 200
    id, _ = send(recording, CHAT.call(), http)
    optimizer.record(id)
    counting.expect(records={"queued none": 1})
    assert len(optimizer.to(RECORD)) == 1


def test_it_is_off_unless_configured(plain, optimizer, provider, http):
    counting = plain.counting()
    plain.send(CHAT.call(), http)
    barrier(plain, optimizer, provider)
    counting.expect(records={})
    assert optimizer.to(RECORD) == []


# Usage as each dialect spells it, and what the record makes of it.
USAGES = {
    "chat": (
        CHAT, {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30,
               "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
               "completion_tokens_details": {"reasoning_tokens": 6}},
        {"promptTokens": 10, "completionTokens": 20, "totalTokens": 30, "cachedTokens": 4,
         "reasoningTokens": 6}),
    "responses": (
        RESPONSES, {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30,
                    "input_tokens_details": {"cached_tokens": 4},
                    "output_tokens_details": {"reasoning_tokens": 6}},
        {"promptTokens": 10, "completionTokens": 20, "totalTokens": 30, "cachedTokens": 4,
         "reasoningTokens": 6}),
    "messages": (
        MESSAGES, {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 4,
                   "cache_creation_input_tokens": 5, "service_tier": "standard"},
        {"promptTokens": 10, "completionTokens": 20, "cachedTokens": 4,
         "cacheCreationTokens": 5}),
    "nulls": (
        CHAT, {"prompt_tokens": 10, "completion_tokens": None, "prompt_tokens_details": None},
        {"promptTokens": 10}),
    "nonsense": (
        CHAT, {"prompt_tokens": "10", "completion_tokens": -1, "total_tokens": 1.5}, {}),
    "none": (CHAT, None, {}),
}


@pytest.mark.parametrize("dialect, usage, tokens", USAGES.values(), ids=USAGES.keys())
def test_tokens_are_read_as_each_dialect_spells_them(
    recording, optimizer, provider, dialect, usage, tokens
):
    provider.answers(as_json(dialect.answer | {"usage": usage}))
    id, _ = send(recording, dialect.call())
    assert facts(optimizer.record(id)) == of(dialect, **tokens, **SKIPPED)


def test_a_messages_stream_s_usage_is_cumulative(recording, optimizer, provider, http):
    provider.answers(sse(recorded("anthropic_usage_merged")))
    id, _ = send(recording, MESSAGES.call(stream=True), http)
    assert facts(optimizer.record(id)) == of(
        MESSAGES, promptTokens=2680, completionTokens=12, cachedTokens=7,
        cacheCreationTokens=188086, **SKIPPED)


def test_attribution_is_what_is_known(recording, optimizer, http):
    claim = {"user_id": "ann", "team": "red", "sessionId": "s-1", "tool": "t", "intent": None}
    id, _ = send(recording, CHAT.call(headers=[("x-anyray-metadata", json.dumps(claim))]), http)
    attribution = {"user": "ann", "team": "red", "sessionId": "s-1"}
    assert facts(optimizer.record(id)) == of(
        CHAT, **TOKENS[CHAT.name], attribution=attribution, **SKIPPED)


@pytest.fixture
def with_content(proxies):
    """Records carry prompts and answers, and what a trusted source says of the caller."""
    return proxies.get(Setup(module(
        hooks={"record": True}, record={"content": True},
        attribution={"user": {"header": "x-verified-user"}, "intent": {"header": "x-intent"}})))


def test_trusted_attribution_wins(with_content, optimizer):
    claims = [("x-anyray-metadata", '{"user":"eve","intentLabel":"mine"}'),
              ("x-verified-user", "ann"), ("x-intent", "answer")]
    id, _ = send(with_content, CHAT.call(headers=claims))
    assert optimizer.record(id)["attribution"] == {
        "user": "ann", "intent": "answer", "intentLabel": "mine"}


NULLS = {"optimizationId": None, "decisions": None}


def test_what_the_optimizer_left_out_is_left_out(recording, optimizer, http):
    for members in (NULLS, {"decisions": []} | NULLS):
        optimizer.on(OPTIMIZE, says(**members))
        id, _ = send(recording, CHAT.call(), http)
        assert facts(optimizer.record(id)) == of(
            CHAT, **TOKENS[CHAT.name], optimizationStatus="skipped")


def test_content_is_what_was_sent_and_what_the_client_got(with_content, optimizer, http):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"model": "rewritten"}))
    id, reply = send(with_content, CHAT.call(), http)
    assert optimizer.record(id)["content"] == {
        "input": CHAT.shorten(CHAT.request), "output": reply.json}


@streaming
def test_content_of_a_stream_is_the_plain_answer(with_content, optimizer, provider, http, dialect):
    provider.answers(sse(*told(dialect)))
    id, _ = send(with_content, dialect.call(stream=True), http)
    assert optimizer.record(id)["content"] == {
        "input": dialect.body(stream=True), "output": document(dialect)}


def test_content_of_a_hit(with_content, optimizer, key, http):
    with_content.send(CHAT.call(key=key))
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    id, _ = send(with_content, CHAT.call(key=key, stream=True), http)
    content = optimizer.record(id)["content"]
    assert content["output"] == CHAT.answer
    assert content.get("input", CHAT.body(stream=True)) == CHAT.body(stream=True)


def test_content_that_is_not_known_is_left_out(with_content, optimizer, provider, http):
    provider.answers(sse(*told(CHAT)[:3], gap=0.01, end="reset"))
    id, _ = send(with_content, CHAT.call(stream=True), http)
    assert optimizer.record(id)["content"] == {"input": CHAT.body(stream=True)}


@pytest.mark.parametrize("body", [b"no json", b'{"a":', b'"\xff"', b"[]"], ids=str)
def test_content_that_is_no_json_is_left_out(with_content, optimizer, provider, body, http):
    """So that the record is JSON whatever the provider answers."""
    provider.answers(as_json(body))
    id, reply = send(with_content, CHAT.call(), http)
    assert reply.body == body
    assert optimizer.record(id)["content"]["input"] == CHAT.request


def test_no_prompt_answer_or_key_is_in_a_record(recording, optimizer, provider, http, key):
    canary = f"canary-{uuid.uuid4().hex}"
    asked = {"messages": [{"role": "user", "content": canary}], "user": canary}
    metadata = [("x-anyray-metadata", json.dumps({"tool": canary, "user": "ann"}))]
    provider.answers(lambda seen: as_json(CHAT.answer | {"id": canary, "x": canary}))
    ids = [send(recording, CHAT.call(key=key, headers=metadata, **asked), http)[0]]
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"metadata": {"a": canary}}))
    ids.append(send(recording, CHAT.call(key=key, headers=metadata, **asked), http)[0])
    provider.answers(sse(*data({"id": canary, "choices": []}), *told(CHAT)))
    ids.append(send(recording, CHAT.call(key=key, headers=metadata, stream=True, **asked), http)[0])
    optimizer.on(OPTIMIZE, hits(CHAT.answer | {"id": canary}))
    ids.append(send(recording, CHAT.call(key=key, headers=metadata, **asked), http)[0])
    for id in ids:
        optimizer.record(id)
    records = optimizer.to(RECORD)
    assert len(records) == len(ids)
    assert not [seen.body for seen in records if canary in seen.everything or key in seen.everything]


def test_each_call_has_its_own_id(recording, optimizer):
    """The host gives one to a call that comes without."""
    for _ in range(5):
        recording.send(CHAT.call())
    optimizer.wait_for(lambda seen: len([r for r in optimizer.to(RECORD) if r.complete]) == 5)
    ids = {seen.json["id"] for seen in optimizer.to(RECORD)}
    assert len(ids) == 5 and all(len(id) > 16 for id in ids)


def test_the_record_comes_with_the_optimizer_s_token_and_the_call_s_trace(recording, optimizer):
    trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    id, _ = send(recording, CHAT.call(key="sk-secret", headers=[trace]))
    optimizer.record(id)
    [seen] = optimizer.to(RECORD)
    assert (seen.method, seen.headers.get("content-type")) == ("POST", "application/json")
    assert trace in seen.headers and not seen.headers.has("authorization")


UNDELIVERED = {
    "refused": (as_json({"error": "no"}, status=400), "record status"),
    # That is how an optimizer says that it keeps no records.
    "unknown": (as_json({"error": "no"}, status=404), "record ok"),
    "reset": (RESET, "record unreachable"),
}


@pytest.mark.parametrize("answer, result", UNDELIVERED.values(), ids=UNDELIVERED.keys())
def test_what_is_not_delivered_is_counted_and_not_sent_again(recording, optimizer, answer, result):
    optimizer.on(RECORD, answer)
    counting = recording.counting()
    id, reply = send(recording, CHAT.call())
    assert reply.status == 200
    counting.expect(records={"queued none": 1}, callouts={result: 1, "optimize ok": 1})
    time.sleep(0.2)
    assert len(optimizer.to(RECORD)) == 1
    # It is no failure that would keep the optimizer out of the next call.
    id, _ = send(recording, CHAT.call())
    assert optimizer.record(id)["optimizationStatus"] == "skipped"


def test_nobody_waits_for_it(recording, optimizer, provider, http):
    read = threading.Event()

    def unanswered(seen) -> Answer:
        read.wait(QUEUED_SECONDS)
        return Answer(status=204)

    optimizer.on(RECORD, unanswered)
    provider.answers(sse(*told(CHAT)))
    for _ in range(10):
        id, reply = send(recording, CHAT.call(stream=True), http)
        assert reply.complete and reply.elapsed < QUEUED_SECONDS
        optimizer.record(id)
    read.set()


def test_none_leaves_while_the_breaker_is_open(proxies, optimizer):
    proxy = proxies.get(Setup(module(
        hooks={"record": True}, breaker={"failures": 1, "open_ms": 600000})))
    optimizer.on(OPTIMIZE, as_json({}, status=500))
    counting = proxy.counting()
    for _ in range(2):
        proxy.send(CHAT.call())
    counting.expect(records={"bypassed breaker_open": 2})
    assert optimizer.to(RECORD) == [] and optimizer.to(CACHE) == []
