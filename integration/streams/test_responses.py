"""OpenAI's responses: the SDK's own accumulator is the judge."""

import json
import random

import openai
import pytest
from conftest import RECORDED, NoResult, comparable, openai_client, recorded, same_at_any_split

RESPONSES = "/v1/responses"
BROKEN = {
    "responses_cut.sse": "Incomplete",
    "responses_error.sse": "ErrorEvent",
    "responses_failed.sse": "Incomplete",
    "responses_incomplete.sse": "Incomplete",
}
# The SDK has its own doubts about items of a type that it does not know.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
WHOLE = sorted(path.name for path in RECORDED.glob("responses_*.sse") if path.name not in BROKEN)


def streamed(stream: bytes) -> tuple[dict, list[dict]]:
    """What the SDK makes of a stream: the final response and its events."""
    told = []
    with openai_client("text/event-stream", stream).responses.stream(model="m", input="?") as events:
        for event in events:
            told.append(event.to_dict(mode="json", warnings=False))
        return comparable(events.get_final_response().to_dict(mode="json", warnings=False)), told


def plain(body: dict) -> dict:
    """What the SDK makes of a plain answer."""
    answer = openai_client("application/json", json.dumps(body).encode()).responses.create(model="m", input="?")
    return comparable(answer.to_dict(mode="json", warnings=False))


@pytest.mark.parametrize("name", WHOLE)
def test_responses_are_assembled_as_by_the_sdk(streams, name):
    body = streams.assemble(RESPONSES, recorded(name))
    final, _ = streamed(recorded(name))
    assert plain(body) == final
    assert comparable(body) == final


@pytest.mark.parametrize("name", WHOLE + list(BROKEN))
def test_any_split_gives_the_same(streams, name):
    same_at_any_split(streams, RESPONSES, name)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_give_nothing(streams, name):
    with pytest.raises(NoResult, match=f"^{BROKEN[name]}$"):
        streams.assemble(RESPONSES, recorded(name))
    with pytest.raises((RuntimeError, openai.APIError, json.JSONDecodeError)):
        streamed(recorded(name))


def in_short(events: list[dict]) -> dict[tuple, dict]:
    """The first event of each kind for its place: how many bring a text is nobody's promise."""
    place = ("type", "item_id", "output_index", "content_index", "summary_index", "annotation_index")
    first = {}
    for event in events:
        first.setdefault(tuple(event.get(name) for name in place), event)
    return first


@pytest.mark.parametrize("name", WHOLE)
def test_a_replay_is_consumed_as_a_live_stream(streams, name):
    body = streams.assemble(RESPONSES, recorded(name))
    stream = streams.replay(RESPONSES, body)
    assert streams.assemble(RESPONSES, stream) == body
    replayed, events = streamed(stream)
    live, live_events = streamed(recorded(name))
    assert replayed == live
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    events, live_events = in_short(events), in_short(live_events)
    assert events.keys() == live_events.keys()
    # Items that take turns are replayed one after the other.
    assert list(events) == list(live_events) or name == "responses_tools_interleaved.sse"
    for kind, event in events.items():
        live_event = live_events[kind]
        # Padding, different in every event.
        live_event.pop("obfuscation", None)
        assert event.keys() == live_event.keys()
        if kind[0].endswith((".delta", ".created", ".in_progress")):
            continue
        if kind[0] == "response.output_item.added":
            # What of an item is no text is known from the beginning.
            event["item"] = {name: value for name, value in event["item"].items() if name in live_event["item"]}
        assert {**event, "sequence_number": None} == {**live_event, "sequence_number": None}


def test_what_has_begun_is_not_told_as_done(streams):
    body = streams.assemble(RESPONSES, recorded("responses_hosted_tools.sse"))
    events = streamed(streams.replay(RESPONSES, body))[1]
    for event in events[:2]:
        begun = event["response"]
        assert begun["status"] == "in_progress" and begun["output"] == []
        assert begun["usage"] is None and begun["completed_at"] is None
    added = {event["item"]["type"]: event["item"] for event in events if event["type"] == "response.output_item.added"}
    assert {item["status"] for item in added.values() if "status" in item} == {"in_progress"}
    assert added["code_interpreter_call"]["code"] == "" and added["code_interpreter_call"]["outputs"] is None
    assert added["mcp_call"]["arguments"] == "" and added["mcp_call"]["output"] is None
    assert added["image_generation_call"]["result"] is None
    assert added["custom_tool_call"]["input"] == ""


def test_an_incomplete_response_is_replayed_as_such(streams):
    body = streams.assemble(RESPONSES, recorded("responses_text.sse"))
    body |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    stream = streams.replay(RESPONSES, body)
    assert b"event: response.incomplete\n" in stream and b"response.completed" not in stream
    with pytest.raises(NoResult, match="Incomplete"):
        streams.assemble(RESPONSES, stream)


def test_items_without_an_id_come_whole(streams):
    body = streams.assemble(RESPONSES, recorded("responses_tools.sse"))
    for item in body["output"]:
        del item["id"]
    stream = streams.replay(RESPONSES, body)
    assert b"item_id" not in stream
    assert streamed(stream)[0] == plain(body)


def test_what_is_no_response_is_not_replayed(streams):
    body = streams.assemble(RESPONSES, recorded("responses_text.sse"))
    text = body["output"][0]
    for change in (
        {"id": None},
        {"model": 1},
        {"status": "in_progress"},
        {"status": "failed"},
        {"output": None},
        {"output": "text"},
        {"output": ["text"]},
        {"output": [{"id": "no type"}]},
        {"output": [{**text, "content": ["text"]}]},
        {"output": [{**text, "content": [{"type": "output_text", "text": None}]}]},
        {"output": [{"id": "rs", "type": "reasoning", "summary": [{"type": "summary_text"}]}]},
        {"output": [{"id": "fc", "type": "function_call", "arguments": {}}]},
    ):
        with pytest.raises(NoResult, match="WrongShape"):
            streams.replay(RESPONSES, {**body, **change})


ALPHABET = ["a", "é", "😀", " ", "\n", "\"", "\\", "\\u0041", "\u2028", "word", "{", "}", "\u0000"]


def some_text(most: int) -> str:
    return "".join(random.choices(ALPHABET, k=random.randint(0, most)))


def some_item(index: int) -> dict:
    content = [
        {"type": "output_text", "text": some_text(500), "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": some_text(50)},
        {"type": "output_text", "text": some_text(5), "annotations": []},
    ]
    summary = [{"type": "summary_text", "text": some_text(90)} for _ in range(random.randint(0, 3))]
    return {"id": f"item_{index}"} | random.choice(
        [
            {"type": "message", "role": "assistant", "status": "completed", "content": random.sample(content, k=2)},
            {"type": "reasoning", "summary": summary, "encrypted_content": some_text(9)},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": some_text(99)}]},
            {"type": "function_call", "call_id": f"c{index}", "name": "f", "arguments": some_text(900)},
            {"type": "custom_tool_call", "call_id": f"c{index}", "name": "f", "input": some_text(9)},
            {"type": "hologram", "content": [some_text(3)], "summary": "s", "nothing": None},
        ]
    )


def test_random_responses_survive_a_replay(streams):
    random.seed(13)
    for _ in range(40):
        body = streams.assemble(RESPONSES, recorded("responses_text.sse"))
        body["output"] = [some_item(index) for index in range(random.randint(0, 6))]
        body["metadata"] = {some_text(5): some_text(5)}
        stream = streams.replay(RESPONSES, body)
        assert streams.assemble(RESPONSES, stream, random.randint(1, 99)) == body
        assert streamed(stream)[0] == plain(body)
