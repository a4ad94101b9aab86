"""The optimizer is trusted with content, not with validity: what it broke is not applied."""

import json

import pytest

from kit.dialects import ALL, CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from kit.envoy_config import MIB
from kit.message import as_json
from kit.optimizer import transforms

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def without(*names):
    return lambda request: {k: v for k, v in request.items() if k not in names}


def with_(**members):
    return lambda request: request | members


def swapped(old, new):
    return lambda request: {new if k == old else k: v for k, v in request.items()}


REFUSED = {
    "messages: null": (CHAT, {}, with_(messages=None), "transform_required_retyped"),
    "messages: a string": (CHAT, {}, with_(messages="x"), "transform_required_retyped"),
    "messages: an object": (CHAT, {}, with_(messages={"0": "x"}), "transform_required_retyped"),
    "messages swapped for input": (
        CHAT, {}, swapped("messages", "input"), "transform_required_missing"),
    "messages: empty": (CHAT, {}, with_(messages=[]), "transform_array_emptied"),
    "model: null": (CHAT, {}, with_(model=None), "transform_required_retyped"),
    "model: a number": (CHAT, {}, with_(model=4), "transform_required_retyped"),
    "prompt: null": (COMPLETIONS, {}, with_(prompt=None), "transform_required_retyped"),
    "prompt: an array": (COMPLETIONS, {}, with_(prompt=["x"]), "transform_required_retyped"),
    "a list of prompts: empty": (
        COMPLETIONS, {"prompt": ["a", "b"]}, with_(prompt=[]), "transform_array_emptied"),
    "prompt swapped for messages": (
        COMPLETIONS, {}, swapped("prompt", "messages"), "transform_required_missing"),
    "embeddings' input: empty": (
        EMBEDDINGS, {"input": ["a"]}, with_(input=[]), "transform_array_emptied"),
    "embeddings' input: null": (EMBEDDINGS, {}, with_(input=None), "transform_required_retyped"),
    "responses' input swapped for messages": (
        RESPONSES, {}, swapped("input", "messages"), "transform_required_missing"),
    "responses' input: null": (RESPONSES, {}, with_(input=None), "transform_required_retyped"),
    "Anthropic's messages: null": (MESSAGES, {}, with_(messages=None), "transform_required_retyped"),
    "Anthropic's max_tokens: gone": (
        MESSAGES, {}, without("max_tokens"), "transform_required_missing"),
    "Anthropic's max_tokens: a string": (
        MESSAGES, {}, with_(max_tokens="64"), "transform_required_retyped"),
    "tools: empty": (CHAT, {"tools": TOOLS}, with_(tools=[]), "transform_array_emptied"),
    "tools gone, tool_choice left": (
        CHAT, {"tools": TOOLS, "tool_choice": "auto"}, without("tools"),
        "transform_tool_choice_without_tools"),
    "Anthropic's tools gone, tool_choice left": (
        MESSAGES, {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "auto"}},
        without("tools"), "transform_tool_choice_without_tools"),
    "stream switched on": (CHAT, {}, with_(stream=True), "transform_stream_changed"),
    "a member named twice": (
        CHAT, {}, b'{"model":"gpt-x","model":"gpt-y","messages":[{"role":"user"}]}',
        "transform_duplicate_member"),
    "a body over the host's buffer": (
        CHAT, {}, with_(user="u" * (MIB - 100)), "transform_too_large"),
}


@pytest.mark.parametrize("dialect, members, change, reason", REFUSED.values(), ids=REFUSED.keys())
def test_the_original_goes_on(plain, optimizer, provider, http, dialect, members, change, reason):
    if isinstance(change, bytes):
        optimizer.on("/v1/optimize", as_json(b'{"request":' + change + b"}"))
    else:
        optimizer.on("/v1/optimize", transforms(change))
    call = dialect.call(**members)
    counting = plain.counting()
    reply = plain.send(call, http)
    assert (reply.status, reply.json) == (200, dialect.answer)
    [seen] = provider.of(reply.case)
    assert seen.body == call.body
    assert plain.outcome(reply) == f"bypassed:{reason}"
    counting.expect(exchanges={f"bypassed {reason}": 1}, callouts={"optimize ok": 1})


@pytest.mark.parametrize("before, after", [
    (True, False), (True, None), (False, True),
], ids=["off", "away", "on"])
def test_stream_is_never_switched(plain, optimizer, provider, before, after):
    change = without("stream") if after is None else with_(stream=after)
    optimizer.on("/v1/optimize", transforms(change))
    call = CHAT.call(stream=before)
    reply = plain.send(call)
    assert provider.of(reply.case)[0].body == call.body
    assert plain.outcome(reply) == "bypassed:transform_stream_changed"


def test_what_only_looks_broken_is_applied(plain, optimizer, provider):
    change = lambda request: without("tools", "tool_choice")(request) | {"stop": []}
    optimizer.on("/v1/optimize", transforms(change))
    call = CHAT.call(tools=TOOLS, tool_choice="auto")
    reply = plain.send(call)
    assert provider.of(reply.case)[0].json == change(json.loads(call.body))


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_request_that_was_broken_already_is_the_provider_s_to_judge(
    plain, optimizer, provider, dialect
):
    optimizer.on("/v1/optimize", transforms(lambda request: request | {"user": "u"}))
    call = dialect.call(**{dialect.prompt: None})
    reply = plain.send(call)
    assert provider.of(reply.case)[0].json == json.loads(call.body) | {"user": "u"}
