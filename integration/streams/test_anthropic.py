"""Anthropic's messages: the SDK's own accumulator is the judge."""

import json
import random

import anthropic
import pytest
from conftest import RECORDED, NoResult, answering, comparable, recorded, same_at_any_split

MESSAGES = "/v1/messages"
BROKEN = {
    "anthropic_cut.sse": "Incomplete",
    "anthropic_cut_input.sse": "NotJson",
    "anthropic_error.sse": "ErrorEvent",
    "anthropic_unknown_delta.sse": "Unexpected",
}
WHOLE = sorted(path.name for path in RECORDED.glob("anthropic_*.sse") if path.name not in BROKEN)
QUESTION = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}


def api(name: str, kind: str, content: bytes):
    """The part of the SDK that knows what the recording holds, answered with `content`."""
    transport = anthropic.DefaultHttpxClient(transport=answering(kind, content))
    client = anthropic.Anthropic(api_key="none", base_url="http://provider", http_client=transport)
    return client.beta.messages if "_beta_" in name else client.messages


def streamed(name: str, stream: bytes) -> tuple[dict, list[tuple]]:
    """What the SDK makes of a stream: the final message and the kinds of its events."""
    kinds = []
    with api(name, "text/event-stream", stream).stream(**QUESTION) as events:
        for event in events:
            delta = getattr(event, "delta", None)
            kinds.append((event.type, getattr(event, "index", None), getattr(delta, "type", None)))
        return comparable(events.get_final_message().to_dict(mode="json", warnings=False)), kinds


def plain(name: str, body: dict) -> dict:
    """What the SDK makes of a plain answer."""
    content = json.dumps(body).encode()
    return comparable(api(name, "application/json", content).create(**QUESTION).to_dict(mode="json", warnings=False))


@pytest.mark.parametrize("name", WHOLE)
def test_messages_are_assembled_as_by_the_sdk(streams, name):
    body = streams.assemble(MESSAGES, recorded(name))
    final, _ = streamed(name, recorded(name))
    assert plain(name, body) == final
    assert comparable(body) == final


def test_what_only_the_stream_tells_is_kept(streams):
    tools = streams.assemble(MESSAGES, recorded("anthropic_tools_parallel.sse"))
    assert tools["content"][1]["input"]["big"] == 12345678901234567890
    assert [block["input"] for block in tools["content"][2:4]] == [{}, {}]
    thinking = streams.assemble(MESSAGES, recorded("anthropic_thinking.sse"))
    assert [block["type"] for block in thinking["content"]] == ["thinking", "redacted_thinking", "thinking", "text"]
    server = streams.assemble(MESSAGES, recorded("anthropic_server_tools.sse"))
    assert server["content"][-1] == {"type": "hologram", "frames": [{"a": 1.0}], "label": None}
    assert server["container"]["id"] == "container_1"
    merged = streams.assemble(MESSAGES, recorded("anthropic_usage_merged.sse"))
    assert merged["usage"] == {
        "input_tokens": 2680,
        "cache_creation_input_tokens": 188086,
        "cache_read_input_tokens": 7,
        "output_tokens": 12,
        "service_tier": "priority",
    }


@pytest.mark.parametrize("name", WHOLE + list(BROKEN))
def test_any_split_gives_the_same(streams, name):
    same_at_any_split(streams, MESSAGES, name)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_give_nothing(streams, name):
    with pytest.raises(NoResult, match=f"^{BROKEN[name]}$"):
        streams.assemble(MESSAGES, recorded(name))


def test_the_sdk_fails_on_errors_too():
    with pytest.raises(anthropic.APIStatusError):
        streamed("anthropic_error.sse", recorded("anthropic_error.sse"))


def in_short(kinds: list[tuple]) -> list[tuple]:
    """Each kind once: how many events bring a text is nobody's promise."""
    return list(dict.fromkeys(kinds))


@pytest.mark.parametrize("name", WHOLE)
def test_a_replay_is_consumed_as_a_live_stream(streams, name):
    body = streams.assemble(MESSAGES, recorded(name))
    stream = streams.replay(MESSAGES, body)
    assert streams.assemble(MESSAGES, stream) == body
    replayed, kinds = streamed(name, stream)
    live, live_kinds = streamed(name, recorded(name))
    assert replayed == live
    if name not in UNLIKE:
        assert in_short(kinds) == in_short(live_kinds)


# Recorded with what a replay has no reason to repeat: deltas of several blocks, or of
# several kinds, that take turns, and events that nobody knows.
UNLIKE = {"anthropic_server_tools.sse", "anthropic_tools_interleaved.sse", "anthropic_unknown_event.sse"}


def test_a_replay_starts_as_a_live_stream(streams):
    body = streams.assemble(MESSAGES, recorded("anthropic_server_tools.sse"))
    events = streams.replay(MESSAGES, body).decode().split("\n\n")
    message = json.loads(events[0].split("data: ")[1])["message"]
    assert message["content"] == [] and message["stop_reason"] is None and message["container"] is None
    assert message["usage"]["output_tokens"] == 1
    end = json.loads(events[-3].split("data: ")[1])
    assert end["delta"] == {"stop_reason": "pause_turn", "stop_sequence": None, "container": body["container"]}
    assert end["usage"]["output_tokens"] == 510
    assert events[-2].startswith("event: message_stop\n") and events[-1] == ""


def test_what_is_no_message_is_not_replayed(streams):
    body = streams.assemble(MESSAGES, recorded("anthropic_text.sse"))
    streams.replay(MESSAGES, body)
    for change in (
        {"type": "error"},
        {"id": None},
        {"role": 1},
        {"usage": None},
        {"content": None},
        {"content": "text"},
        {"content": ["text"]},
        {"content": [{"text": "no type"}]},
        {"content": [{"type": "text", "text": None}]},
        {"content": [{"type": "text", "text": "", "citations": "none"}]},
    ):
        with pytest.raises(NoResult, match="WrongShape"):
            streams.replay(MESSAGES, {**body, **change})


ALPHABET = ["a", "é", "😀", " ", "\n", "\"", "\\", "\\u0041", "\u2028", "word", "{", "}", "\u0000"]


def some_text(most: int) -> str:
    return "".join(random.choices(ALPHABET, k=random.randint(0, most)))


def some_value(depth: int = 0):
    kind = random.randrange(7 if depth < 4 else 5)
    if kind == 5:
        return [some_value(depth + 1) for _ in range(random.randint(0, 4))]
    if kind == 6:
        return {some_text(3): some_value(depth + 1) for _ in range(random.randint(0, 4))}
    return [None, True, some_text(20), random.randint(-(10**20), 10**20), random.random()][kind]


def some_block() -> dict:
    citation = {"type": "char_location", "cited_text": some_text(5), "document_index": 0, "document_title": None}
    citation |= {"start_char_index": 0, "end_char_index": 1}
    return random.choice(
        [
            {"type": "text", "text": some_text(100)},
            {"type": "text", "text": some_text(3000), "citations": [citation] * random.randint(0, 3)},
            {"type": "thinking", "thinking": some_text(100), "signature": some_text(5)},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"x": some_value(), "y": some_text(500)}},
            {"type": "server_tool_use", "id": "t", "name": "web_search", "input": {}},
            {"type": "redacted_thinking", "data": some_text(20)},
        ]
    )


def test_random_messages_survive_a_replay(streams):
    random.seed(11)
    for _ in range(40):
        body = streams.assemble(MESSAGES, recorded("anthropic_text.sse"))
        body["content"] = [some_block() for _ in range(random.randint(0, 5))]
        stream = streams.replay(MESSAGES, body)
        assert streams.assemble(MESSAGES, stream, random.randint(1, 99)) == body
        assert streamed("", stream)[0] == plain("", body)


def test_random_interleaved_deltas_as_by_the_sdk(streams):
    random.seed(12)
    for _ in range(40):
        message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": None}
        message |= {"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
        events, deltas = [{"type": "message_start", "message": message}], []
        for index in range(random.randint(1, 5)):
            block, kind, name, text = random.choice(
                [
                    ({"type": "text", "text": ""}, "text_delta", "text", some_text(60)),
                    ({"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking", some_text(60)),
                    (
                        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                        "input_json_delta",
                        "partial_json",
                        json.dumps({"v": some_value()}, ensure_ascii=random.choice([True, False])),
                    ),
                ]
            )
            events.append({"type": "content_block_start", "index": index, "content_block": block})
            cuts = sorted(random.choices(range(len(text) + 1), k=random.randint(0, 9)))
            pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
            deltas.append([(index, {"type": kind, name: piece}) for piece in pieces])
        while any(deltas):
            index, delta = random.choice([queue for queue in deltas if queue]).pop(0)
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events += [{"type": "content_block_stop", "index": index} for index in range(len(deltas))]
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 9}})
        events.append({"type": "message_stop"})
        line_end, ascii_only = random.choice(["\n", "\r\n", "\r"]), random.choice([True, False])
        stream = "".join(
            f"event: {event['type']}{line_end}data: {json.dumps(event, ensure_ascii=ascii_only)}{line_end}{line_end}"
            for event in events
        ).encode()
        body = streams.assemble(MESSAGES, stream, random.randint(1, 99))
        assert comparable(body) == streamed("", stream)[0]
