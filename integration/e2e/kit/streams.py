"""Streamed answers: a plain one of each dialect, written by hand, and recorded ones."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from .dialects import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Dialect

STREAMING = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
RECORDED = Path(__file__).resolve().parents[2] / "streams" / "recorded"

# Text of one, two, three and four bytes a character.
PIECES = ["Gr", "ü", "ße", " \u2028", "aus Zürich", " \U0001f600\n"]
TEXT = "".join(PIECES)

# Recordings that stand for no whole answer, and why nothing is written back of them.
BROKEN = {
    "chat_cut_off": "stream_incomplete",
    "chat_without_done": "stream_incomplete",
    "chat_unfinished": "stream_incomplete",
    "chat_error": "response_error",
    "chat_error_event": "response_error",
    "chat_not_json": "response_not_json",
    "completions_cut_off": "stream_incomplete",
    "completions_error": "response_error",
    "responses_cut": "stream_incomplete",
    "responses_error": "response_error",
    "responses_failed": "stream_incomplete",
    "responses_incomplete": "stream_incomplete",
    "anthropic_cut": "stream_incomplete",
    "anthropic_cut_input": "response_not_json",
    "anthropic_error": "response_error",
    "anthropic_unknown_delta": "stream_unexpected",
}
WHOLE = sorted({path.stem for path in RECORDED.glob("*.sse")} - BROKEN.keys())


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.sse").read_bytes()


def dialect_of(name: str) -> Dialect:
    """The dialect of a recording."""
    dialects = {"chat": CHAT, "completions": COMPLETIONS, "responses": RESPONSES, "anthropic": MESSAGES}
    return dialects[name.split("_")[0]]


def events(stream: bytes) -> list[bytes]:
    """A stream cut behind each blank line."""
    found = re.split(rb"((?:\r\n|\n|\r){2})", stream)
    return [event + end for event, end in zip(found[::2], [*found[1::2], b""]) if event]


def data(*told: dict) -> list[bytes]:
    """Events without a name, as OpenAI's chat and completions send them."""
    return [b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in told]


def named(*told: dict) -> list[bytes]:
    """Events with their type as name, as OpenAI's responses and Anthropic send them."""
    return [f"event: {event['type']}\n".encode() + line for event, line in zip(told, data(*told))]


def document(dialect: Dialect, text: str = TEXT) -> dict[str, Any]:
    """The dialect's plain answer, saying `text`."""
    answer = copy.deepcopy(dialect.answer)
    if dialect is CHAT:
        answer["choices"][0]["message"]["content"] = text
    elif dialect is COMPLETIONS:
        answer["choices"][0]["text"] = text
    elif dialect is RESPONSES:
        answer["output"][0]["content"][0]["text"] = text
    else:
        answer["content"][0]["text"] = text
    return answer


def told(dialect: Dialect, pieces: list[str] = PIECES) -> list[bytes]:
    """The events of the stream that says `document(dialect)` in these pieces."""
    return {CHAT.name: _chat, COMPLETIONS.name: _completions, RESPONSES.name: _responses,
            MESSAGES.name: _messages}[dialect.name](document(dialect, "".join(pieces)), pieces)


def _chat(answer: dict, pieces: list[str]) -> list[bytes]:
    usage = answer.pop("usage")
    head = answer | {"object": "chat.completion.chunk"}

    def chunk(delta: dict, finish: str | None = None) -> dict:
        return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    return [*data(*map(chunk, deltas), chunk({}, "stop"), head | {"choices": [], "usage": usage}),
            b"data: [DONE]\n\n"]


def _completions(answer: dict, pieces: list[str]) -> list[bytes]:
    usage = answer.pop("usage")

    def chunk(text: str, finish: str | None = None) -> dict:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return answer | {"choices": [choice]}

    return [*data(*map(chunk, pieces), chunk("", "stop"), answer | {"choices": [], "usage": usage}),
            b"data: [DONE]\n\n"]


def _responses(answer: dict, pieces: list[str]) -> list[bytes]:
    [item] = answer["output"]
    [part] = item["content"]
    begun = answer | {"status": "in_progress", "output": [], "usage": None}
    at = {"output_index": 0, "item_id": item["id"], "content_index": 0}
    told_so = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0,
         "item": item | {"status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **at, "part": part | {"text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
          for piece in pieces),
        {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": answer},
    ]
    return named(*(event | {"sequence_number": n} for n, event in enumerate(told_so)))


def _messages(answer: dict, pieces: list[str]) -> list[bytes]:
    usage = answer["usage"]
    start = answer | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    return named(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0,
           "delta": {"type": "text_delta", "text": piece}} for piece in pieces),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": {"output_tokens": usage["output_tokens"]}},
        {"type": "message_stop"},
    )
