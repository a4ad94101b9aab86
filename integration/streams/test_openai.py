"""OpenAI's chat and completions: the SDK's own accumulator is the judge."""

import json
import random

import openai
import pytest
from conftest import RECORDED, NoResult, comparable, openai_client, recorded, same_at_any_split
from openai.types import Completion
from openai.types.chat import ChatCompletion

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BROKEN = {
    "chat_cut_off.sse": "Incomplete",
    "chat_without_done.sse": "Incomplete",
    "chat_unfinished.sse": "Incomplete",
    "chat_error.sse": "ErrorEvent",
    "chat_error_event.sse": "ErrorEvent",
    "chat_not_json.sse": "NotJson",
    "completions_cut_off.sse": "Incomplete",
    "completions_error.sse": "ErrorEvent",
}


def names(prefix: str) -> list[str]:
    return sorted(path.name for path in RECORDED.glob(f"{prefix}*.sse") if path.name not in BROKEN)


def endpoint(name: str) -> str:
    return CHAT if name.startswith("chat") else COMPLETIONS


def client(stream: bytes) -> openai.OpenAI:
    return openai_client("text/event-stream", stream)


def chat_events(stream: bytes) -> tuple[dict, list[str]]:
    """What the SDK makes of a stream: its accumulated object and the kinds of its events."""
    kinds = []
    messages = [{"role": "user", "content": "?"}]
    with client(stream).chat.completions.stream(model="m", messages=messages) as events:
        for event in events:
            kinds.append(event.type)
        return events.current_completion_snapshot.to_dict(), kinds


def completion_of(stream: bytes) -> dict:
    """The SDK has no accumulator for completions: its chunks, put together by hand."""
    body, choices = {}, {}
    for chunk in client(stream).completions.create(model="m", prompt="?", stream=True):
        chunk = chunk.to_dict()
        for choice in chunk.pop("choices"):
            whole = choices.setdefault(choice["index"], {"index": choice["index"], "text": "", "logprobs": None})
            whole["text"] += choice["text"]
            whole["finish_reason"] = choice["finish_reason"]
            for name, values in (choice["logprobs"] or {}).items():
                whole["logprobs"] = whole["logprobs"] or {}
                whole["logprobs"].setdefault(name, []).extend(values)
        body.update({name: value for name, value in chunk.items() if value is not None})
    return {**body, "choices": [choices[index] for index in sorted(choices)]}


def told_by_sdk(body: dict) -> dict:
    """The part of a body that the SDK's chat accumulator collects from more than the first chunk."""
    choices = []
    for choice in body["choices"]:
        choice = {name: choice.get(name) for name in ("index", "message", "finish_reason", "logprobs")}
        for call in choice["message"].get("tool_calls") or []:
            call.pop("index", None)
        choices.append(choice)
    return comparable({**body, "choices": choices})


def assert_same_chat(body: dict, sdk: dict):
    ours, theirs = told_by_sdk(body), told_by_sdk(sdk)
    # Further members of later chunks are lost to the SDK, not to us.
    assert {name: ours.get(name) for name in theirs} == theirs


@pytest.mark.parametrize("name", names("chat"))
def test_chat_is_assembled_as_by_the_sdk(streams, name):
    body = streams.assemble(CHAT, recorded(name))
    ChatCompletion.model_validate(body)
    assert_same_chat(body, chat_events(recorded(name))[0])
    for choice in body["choices"]:
        assert {"role", "content"} <= choice["message"].keys()
        assert all("index" not in call for call in choice["message"].get("tool_calls") or [])


@pytest.mark.parametrize("name", names("completions"))
def test_completions_are_assembled_as_by_the_sdk(streams, name):
    body = streams.assemble(COMPLETIONS, recorded(name))
    Completion.model_validate(body)
    for choice in body["choices"]:
        choice.pop("stop_reason", None)
    assert comparable(body) == comparable(completion_of(recorded(name)))


def test_members_beyond_the_sdk_are_kept(streams):
    azure = streams.assemble(CHAT, recorded("chat_azure.sse"))
    assert azure["prompt_filter_results"][0]["content_filter_results"]["jailbreak"] == {"filtered": False, "detected": False}
    assert azure["choices"][0]["content_filter_results"]["hate"] == {"filtered": False, "severity": "safe"}
    vllm = streams.assemble(CHAT, recorded("chat_vllm.sse"))
    assert vllm["choices"][0]["stop_reason"] == 151645
    assert vllm["choices"][0]["token_ids"][:2] == [1000, 12345678901234567890]
    assert "obfuscation" not in streams.assemble(CHAT, recorded("chat_text.sse"))


@pytest.mark.parametrize("name", names("chat") + names("completions") + list(BROKEN))
def test_any_split_gives_the_same(streams, name):
    same_at_any_split(streams, endpoint(name), name)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_give_nothing(streams, name):
    with pytest.raises(NoResult, match=f"^{BROKEN[name]}$"):
        streams.assemble(endpoint(name), recorded(name))


def test_the_sdk_fails_on_errors_too():
    with pytest.raises(openai.APIError):
        chat_events(recorded("chat_error.sse"))


PLAIN = {
    "all at once": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1763651337,
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "é 😀 \"quoted\" \\ and a long text " * 40,
                    "refusal": None,
                    "annotations": [],
                    "reasoning_content": "because " * 50,
                    "tool_calls": [
                        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": \"" + "x\\n" * 100 + "\"}"}},
                        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    },
    "empty": {
        "id": "chatcmpl-2",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "", "tool_calls": []}, "finish_reason": "stop"}],
    },
    "both log probabilities": {
        "id": "chatcmpl-3",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": "Well.", "refusal": "No."},
                "finish_reason": "stop",
                "logprobs": {
                    "content": [{"token": "Well.", "logprob": -1.0, "bytes": None, "top_logprobs": []}],
                    "refusal": [{"token": "No.", "logprob": -1.0, "bytes": None, "top_logprobs": []}],
                },
            }
            for index in range(2)
        ],
    },
}


def chunks_of(stream: bytes) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in stream.decode().split("\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def plain_bodies() -> list:
    return [pytest.param(name, id=name) for name in [*names("chat"), *PLAIN]]


def plain(streams, name: str) -> dict:
    return PLAIN[name] if name in PLAIN else streams.assemble(CHAT, recorded(name))


@pytest.mark.parametrize("name", plain_bodies())
def test_replayed_chat_is_consumed_as_a_live_one(streams, name):
    body = plain(streams, name)
    stream = streams.replay(CHAT, body, usage=True)
    assert streams.assemble(CHAT, stream) == body
    sdk, kinds = chat_events(stream)
    assert_same_chat(body, sdk)
    for member, value in body.items():
        if member != "choices":
            assert member == "object" or comparable(sdk).get(member) == comparable(value)
    if name not in PLAIN:
        assert set(kinds) == set(chat_events(recorded(name))[1])


@pytest.mark.parametrize("name", plain_bodies())
def test_usage_is_told_exactly_when_asked_for(streams, name):
    body = plain(streams, name)
    for asked in (False, True):
        chunks = chunks_of(streams.replay(CHAT, body, usage=asked))
        usages = [chunk["usage"] for chunk in chunks if "usage" in chunk]
        if not asked:
            assert usages == []
        elif "usage" in body:
            assert chunks[-1]["choices"] == [] and usages == [None] * (len(chunks) - 1) + [body["usage"]]
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert {chunk["id"] for chunk in chunks} == {body["id"]}
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize("name", names("completions"))
def test_replayed_completions_are_consumed_as_live_ones(streams, name):
    body = streams.assemble(COMPLETIONS, recorded(name))
    stream = streams.replay(COMPLETIONS, body, usage=True)
    assert streams.assemble(COMPLETIONS, stream) == body
    for choice in body["choices"]:
        choice.pop("stop_reason", None)
    assert comparable(completion_of(stream)) == comparable(body)
    assert all("usage" not in chunk for chunk in chunks_of(streams.replay(COMPLETIONS, body)))


def test_what_is_no_answer_is_not_replayed(streams):
    for body in ({}, {"choices": []}, {"choices": [{"index": 0}]}, {"error": {"message": "no"}}):
        for path in (CHAT, COMPLETIONS):
            with pytest.raises(NoResult, match="WrongShape"):
                streams.replay(path, body)


def test_random_deltas_as_by_the_sdk(streams):
    random.seed(7)
    alphabet = ["a", "é", "😀", " ", "\n", "\"", "\\", "\u2028", "word", "<tag>", "\u0000"]
    for _ in range(25):
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        events, choices = [], random.randint(1, 3)
        for index in range(choices):
            delta = {"role": "assistant", "content": random.choice(["", None])}
            events.append({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        calls = {index: 0 for index in range(choices)}
        for _ in range(random.randint(0, 60)):
            index, text = random.randrange(choices), "".join(random.choices(alphabet, k=random.randint(0, 4)))
            kind = random.choice(["content", "refusal", "reasoning_content", "x", "call", "arguments"])
            if kind == "call":
                function = {"name": f"f{calls[index]}", "arguments": ""}
                call = {"index": calls[index], "id": f"call_{calls[index]}", "type": "function", "function": function}
                calls[index] += 1
                delta = {"tool_calls": [call]}
            elif kind == "arguments" and calls[index]:
                delta = {"tool_calls": [{"index": random.randrange(calls[index]), "function": {"arguments": text}}]}
            elif kind == "x":
                delta = {"x": {"text": text, "list": [text], "number": random.randint(0, 9)}}
            else:
                delta = {"content" if kind == "arguments" else kind: text}
            events.append({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        for index in range(choices):
            events.append({**head, "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]})
        ascii_only = random.choice([True, False])
        end = random.choice(["\n", "\r\n", "\r"])
        lines = ["data: " + json.dumps(event, ensure_ascii=ascii_only) for event in events] + ["data: [DONE]"]
        stream = "".join(line + end + end for line in lines).encode()
        body = streams.assemble(CHAT, stream, random.randint(1, 50))
        assert_same_chat(body, chat_events(stream)[0])
        assert streams.assemble(CHAT, streams.replay(CHAT, body)) == body
