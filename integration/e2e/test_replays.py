"""Hits for streaming clients: the cached answer told as the stream that a provider would send."""

import json

import pytest

from kit.dialects import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from kit.message import Answer
from kit.optimizer import OPTIMIZE, hits, says
from kit.provider import sse
from kit.sdks import COUNTED, kinds, the_same
from kit.streams import STREAMING, WHOLE, data, dialect_of, document, events, recorded, told

streaming = pytest.mark.parametrize("dialect", STREAMING, ids=str)

# Told live in turns: a replay has no reason to repeat that, nor events that nobody knows.
TAKING_TURNS = {"anthropic_server_tools", "anthropic_tools_interleaved", "chat_tool_calls_interleaved",
                "chat_two_choices", "completions_two_choices", "responses_tools_interleaved"}
UNKNOWN = {"billing", "progress"}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", WHOLE)
def test_the_sdks_take_a_replay_for_the_live_stream(sdks, optimizer, provider, name, cache_key):
    dialect, stream = dialect_of(name), recorded(name)
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    # With a length: the end is there with the last byte. The SDKs hang up at the end marker, and
    # a stream whose end has not been seen by then is not written back.
    provider.answers(Answer(
        headers=[("content-type", "text/event-stream")], body=list(events(stream))))
    live, live_events = sdks.streamed(dialect, **COUNTED[dialect.name])
    cached = optimizer.written_back(cache_key)["response"]

    optimizer.on(OPTIMIZE, hits(cached))
    replayed, replayed_events = sdks.streamed(dialect, **COUNTED[dialect.name])
    assert the_same(dialect, replayed, live)
    order = set if name in TAKING_TURNS else list
    known = [kind for kind in kinds(live_events) if kind[0] not in UNKNOWN]
    assert order(kinds(replayed_events)) == order(known)
    assert the_same(dialect, sdks.plain(dialect), live)
    assert len(provider.calls) == 1


@streaming
def test_a_plain_answer_serves_a_stream(plain, optimizer, provider, http, dialect, key, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    plain.send(dialect.call(key=key), http)
    optimizer.on(OPTIMIZE, hits(optimizer.written_back(cache_key)["response"]))
    counting = plain.counting()
    reply = plain.send(dialect.call(key=key, stream=True), http)
    assert (reply.status, plain.outcome(reply)) == (200, "hit")
    assert reply.headers.all("content-type") == ["text/event-stream"]
    assert reply.headers.all("content-length") in ([], [str(len(reply.body))])
    assert reply.body.endswith(b"\n\n") and reply.complete
    counting.expect(exchanges={"hit none": 1}, callouts={"optimize ok": 1}, responses={}, write_backs={})
    assert len(provider.calls) == 1


@streaming
def test_a_streamed_answer_serves_a_plain_client(
    plain, optimizer, provider, http, dialect, key, cache_key
):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    provider.answers(sse(*told(dialect)))
    plain.send(dialect.call(key=key, stream=True), http)
    optimizer.on(OPTIMIZE, hits(optimizer.written_back(cache_key)["response"]))
    reply = plain.send(dialect.call(key=key), http)
    assert (reply.status, plain.outcome(reply)) == (200, "hit")
    assert reply.headers.all("content-type") == ["application/json"]
    assert reply.json == document(dialect)
    assert len(provider.calls) == 1


@streaming
def test_the_sdks_take_a_plain_answer_s_replay(sdks, optimizer, provider, dialect):
    live = sdks.plain(dialect)
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    replayed, _ = sdks.streamed(dialect, **COUNTED[dialect.name])
    assert the_same(dialect, replayed, live)
    assert len(provider.calls) == 1


def chunks(reply) -> list[dict]:
    *found, end = reply.body.decode().removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in found]


USAGE = {
    "asked for": ({"stream_options": {"include_usage": True}}, True),
    "not asked for": ({}, False),
    "declined": ({"stream_options": {"include_usage": False}}, False),
    "with other options": ({"stream_options": {"include_obfuscation": False}}, False),
    "with no options": ({"stream_options": None}, False),
}


@pytest.mark.parametrize("members, wanted", USAGE.values(), ids=USAGE.keys())
@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS], ids=str)
def test_openai_s_usage_is_told_exactly_when_asked_for(plain, optimizer, key, dialect, members, wanted):
    plain.send(dialect.call(key=key))
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    told_so = chunks(plain.send(dialect.call(key=key, stream=True, **members)))
    usages = [chunk["usage"] for chunk in told_so if "usage" in chunk]
    if wanted:
        assert told_so[-1]["choices"] == []
        assert usages == [None] * (len(told_so) - 1) + [dialect.answer["usage"]]
    else:
        assert usages == [] and all(chunk["choices"] for chunk in told_so)


def test_a_chat_replay_has_a_provider_s_shape(plain, optimizer, key, http):
    plain.send(CHAT.call(key=key))
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    told_so = chunks(plain.send(CHAT.call(key=key, stream=True), http))
    assert {chunk["object"] for chunk in told_so} == {"chat.completion.chunk"}
    assert {(chunk["id"], chunk["model"], chunk["created"]) for chunk in told_so} == {
        ("chatcmpl-1", "gpt-x", 1)}
    choices = [choice for chunk in told_so for choice in chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Hello."
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


def test_a_messages_replay_has_anthropic_s_order(plain, optimizer, key, http):
    plain.send(MESSAGES.call(key=key))
    optimizer.on(OPTIMIZE, hits(MESSAGES.answer))
    reply = plain.send(MESSAGES.call(key=key, stream=True), http)
    names = [line.removeprefix("event: ") for line in reply.body.decode().split("\n")
             if line.startswith("event: ")]
    order = list(dict.fromkeys(name for name in names if name != "ping"))
    assert order == ["message_start", "content_block_start", "content_block_delta",
                     "content_block_stop", "message_delta", "message_stop"]


def test_a_long_answer_is_replayed_whole(sdks, optimizer, provider):
    long = CHAT.answer | {"choices": [{
        "index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Grüße \U0001f600\n" * 100_000},
    }]}
    sdks.plain(CHAT)
    optimizer.on(OPTIMIZE, hits(long))
    replayed, _ = sdks.streamed(CHAT, **COUNTED[CHAT.name])
    assert replayed["choices"][0]["message"]["content"] == long["choices"][0]["message"]["content"]
    assert len(provider.calls) == 1


def refused(proxy, provider, call, reason, http) -> None:
    """The hit is not served: the original call goes on, and its live answer comes back."""
    provider.answers(sse(*data({"live": True})))
    reply = proxy.send(call, http)
    assert (reply.status, reply.body) == (200, data({"live": True})[0])
    assert provider.of(reply.case)[0].body == call.body
    assert proxy.outcome(reply) == f"bypassed:{reason}"


UNREPLAYABLE = {
    "nothing but an id": (CHAT, {"id": "x"}),
    "no choices": (CHAT, {"id": "x", "choices": []}),
    "a choice without a message": (CHAT, {"id": "x", "choices": [{"index": 0}]}),
    "another dialect's answer": (CHAT, MESSAGES.answer),
    "chat's answer to completions": (COMPLETIONS, CHAT.answer),
    "a message without content": (MESSAGES, MESSAGES.answer | {"content": None}),
    "a message whose content is text": (MESSAGES, MESSAGES.answer | {"content": "Hello."}),
    "a response without output": (RESPONSES, RESPONSES.answer | {"output": None}),
    "a response that failed": (RESPONSES, RESPONSES.answer | {"status": "failed"}),
    "embeddings": (EMBEDDINGS, EMBEDDINGS.answer),
}


@pytest.mark.parametrize("dialect, cached", UNREPLAYABLE.values(), ids=UNREPLAYABLE.keys())
def test_what_cannot_be_told_as_a_stream_is_not_served(
    plain, optimizer, provider, http, dialect, cached, key
):
    plain.send(dialect.call(key=key))
    optimizer.on(OPTIMIZE, hits(cached, request=dialect.shorten(dialect.body(stream=True))))
    refused(plain, provider, dialect.call(key=key, stream=True), "hit_unreplayable", http)


def test_streams_are_served_to_the_same_callers_only(plain, optimizer, provider, http, key):
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    refused(plain, provider, CHAT.call(key=key, stream=True), "hit_unproven", http)
    refused(plain, provider, CHAT.call(key=key + "x", stream=True), "hit_unproven", http)
    fresh = CHAT.call(key=key, stream=True, headers=[("cache-control", "no-cache")])
    refused(plain, provider, fresh, "hit_no_cache", http)
    reply = plain.send(CHAT.call(key=key, stream=True), http)
    assert plain.outcome(reply) == "hit"


@streaming
def test_the_client_is_told_of_the_hit(plain, optimizer, http, dialect, key):
    plain.send(dialect.call(key=key))
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    reply = plain.send(
        dialect.call(key=key, stream=True, headers=[("x-anyray-test", "1")]), http)
    assert json.loads(reply.headers.get("x-anyray-optimization")) == {
        "status": "hit", "decisions": [], "suppressedKinds": []}
