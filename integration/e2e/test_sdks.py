"""The official OpenAI and Anthropic SDKs, pointed at the proxy: nothing to notice but the savings."""

import asyncio

import anthropic
import openai
import pytest

from conftest import module
from kit.dialects import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from kit.envoy_config import Setup
from kit.message import NEVER, Answer, as_json
from kit.optimizer import OPTIMIZE, hits, says, transforms
from kit.provider import sse
from kit.streams import data, named

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.fixture
def openai_client(plain, key):
    with openai.OpenAI(base_url=f"{plain.url}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(plain, key):
    with anthropic.Anthropic(base_url=plain.url, api_key=key, max_retries=0) as client:
        yield client


def transformed(provider, dialect) -> dict:
    """What the provider got of the last call, which must be the transform."""
    got = provider.calls[-1].json
    assert got[dialect.prompt] == dialect.shorter_prompt
    return got


def repeats_are_hits(optimizer, provider, dialect, ask) -> None:
    """One live call, then the same from the cache."""
    optimizer.on(OPTIMIZE, transforms(dialect.shorten))
    live = ask()
    transformed(provider, dialect)
    optimizer.on(OPTIMIZE, hits(dialect.answer))
    assert ask() == live
    assert len(provider.calls) == 1


def test_openai_chat(openai_client, optimizer, provider):
    def ask():
        answer = openai_client.chat.completions.create(**CHAT.request)
        assert answer.choices[0].message.content == "Hello."
        assert answer.usage.total_tokens == 7
        return answer

    repeats_are_hits(optimizer, provider, CHAT, ask)


def test_openai_completions(openai_client, optimizer, provider):
    repeats_are_hits(optimizer, provider, COMPLETIONS,
                     lambda: openai_client.completions.create(**COMPLETIONS.request))


def test_openai_embeddings(openai_client, optimizer, provider):
    def ask():
        answer = openai_client.embeddings.create(**EMBEDDINGS.request)
        assert answer.data[0].embedding == [0.25, -0.5, 1.0]
        return answer

    repeats_are_hits(optimizer, provider, EMBEDDINGS, ask)


def test_openai_responses(openai_client, optimizer, provider):
    def ask():
        answer = openai_client.responses.create(**RESPONSES.request)
        assert answer.output_text == "Hello."
        return answer

    repeats_are_hits(optimizer, provider, RESPONSES, ask)


def test_anthropic_messages(anthropic_client, optimizer, provider):
    def ask():
        answer = anthropic_client.messages.create(**MESSAGES.request)
        assert answer.content[0].text == "Hello."
        return answer

    repeats_are_hits(optimizer, provider, MESSAGES, ask)


def test_openai_chat_with_tools(openai_client, optimizer, provider):
    tool = lambda name: {"type": "function",
                         "function": {"name": name, "description": "d", "parameters": PARAMETERS}}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    provider.answers(as_json(CHAT.answer | {"choices": [choice]}))
    optimizer.on(OPTIMIZE, transforms(
        lambda request: CHAT.shorten(request) | {"tools": request["tools"][:1]}))
    answer = openai_client.chat.completions.create(
        **CHAT.request, tools=[tool("weather"), tool("stocks")], tool_choice="auto")
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    assert transformed(provider, CHAT)["tools"] == [tool("weather")]


def test_anthropic_messages_with_tools(anthropic_client, optimizer, provider):
    tool = lambda name: {"name": name, "description": "d", "input_schema": PARAMETERS}
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm"}}
    provider.answers(as_json(MESSAGES.answer | {"content": [use], "stop_reason": "tool_use"}))
    optimizer.on(OPTIMIZE, transforms(
        lambda request: MESSAGES.shorten(request) | {"tools": request["tools"][:1]}))
    answer = anthropic_client.messages.create(
        **MESSAGES.request, tools=[tool("weather"), tool("stocks")])
    assert answer.content[0].input == {"city": "Ulm"}
    assert transformed(provider, MESSAGES)["tools"] == [tool("weather")]


def test_openai_chat_streamed(openai_client, optimizer, provider):
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    events = data(*[
        chunk | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in ("Hé", "llo", "\U0001f600")
    ])
    provider.answers(sse(*events, b"data: [DONE]\n\n", gap=0.02))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    stream = openai_client.chat.completions.create(**CHAT.request, stream=True)
    assert "".join(part.choices[0].delta.content for part in stream) == "Héllo\U0001f600"
    assert transformed(provider, CHAT)["stream"] is True


def test_openai_responses_streamed(openai_client, optimizer, provider):
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0,
             "content_index": 0, "delta": "Hello.", "sequence_number": 1, "logprobs": []}
    done = {"type": "response.completed", "response": RESPONSES.answer, "sequence_number": 2}
    provider.answers(sse(*named(delta, done), gap=0.02))
    optimizer.on(OPTIMIZE, transforms(RESPONSES.shorten))
    events = list(openai_client.responses.create(**RESPONSES.request, stream=True))
    assert [event.type for event in events] == [delta["type"], done["type"]]
    transformed(provider, RESPONSES)


def test_anthropic_messages_streamed(anthropic_client, optimizer, provider):
    start = MESSAGES.answer | {"content": [], "stop_reason": None}
    text = lambda piece: {"type": "content_block_delta", "index": 0,
                          "delta": {"type": "text_delta", "text": piece}}
    provider.answers(sse(*named(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"}, text("Hé"), text("llo"),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ), gap=0.02))
    optimizer.on(OPTIMIZE, transforms(MESSAGES.shorten))
    with anthropic_client.messages.stream(**MESSAGES.request) as stream:
        assert "".join(stream.text_stream) == "Héllo"
        assert stream.get_final_message().usage.output_tokens == 2
    transformed(provider, MESSAGES)


def test_the_provider_s_errors_are_the_sdk_s_exceptions(
    openai_client, anthropic_client, optimizer, provider
):
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"user": "u"}))
    error = {"error": {"message": "slow down", "type": "rate_limit_error"}}
    provider.answers(as_json(error, status=429, headers=[("retry-after", "1")]))
    with pytest.raises(openai.RateLimitError, match="slow down") as raised:
        openai_client.chat.completions.create(**CHAT.request)
    assert raised.value.response.headers["retry-after"] == "1"
    with pytest.raises(anthropic.RateLimitError, match="slow down"):
        anthropic_client.messages.create(**MESSAGES.request)


@pytest.mark.parametrize("answer", [NEVER, Answer(status=500), says(request=CHAT.body(messages=None))],
                         ids=["silent", "failing", "wrong"])
def test_an_optimizer_that_is_broken_goes_unnoticed(proxies, optimizer, provider, key, answer):
    proxy = proxies.get(Setup(module(optimizer={"upstream": "optimizer", "timeout_ms": 400})))
    optimizer.on(OPTIMIZE, answer)
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(**CHAT.request)
    assert answer.choices[0].message.content == "Hello."
    assert provider.calls[-1].json == CHAT.request


def test_many_callers_at_a_time(plain, optimizer, provider, key):
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"user": "u"}))

    async def all_at_once():
        url = f"{plain.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            return await asyncio.gather(*[
                client.chat.completions.create(
                    model="gpt-x", messages=[{"role": "user", "content": f"call {number}"}])
                for number in range(50)
            ])

    assert len(asyncio.run(all_at_once())) == 50
    contents = {call.json["messages"][0]["content"] for call in provider.calls}
    assert contents == {f"call {number}" for number in range(50)}
    assert all(call.json["user"] == "u" for call in provider.calls)
