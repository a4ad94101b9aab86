"""One plain call of each dialect: what a client asks and what a provider answers."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

from .client import Request
from .message import Pairs


@dataclass(frozen=True)
class Dialect:
    name: str
    path: str
    # The member that carries the prompt; a dialect without it is no request.
    prompt: str
    request: dict[str, Any]
    answer: dict[str, Any]
    shorter_prompt: Any

    def body(self, **members: Any) -> dict[str, Any]:
        """The request with members set; None takes one out."""
        body = copy.deepcopy(self.request) | members
        return {name: value for name, value in body.items() if value is not None}

    def call(self, key: str | None = None, headers: Pairs = (), prefix: str = "",
             raw: bytes | None = None, query: str = "", **members: Any) -> Request:
        """A client's call with a key, to be sent through the proxy."""
        fields = [("content-type", "application/json"), *headers]
        if key:
            fields.append(("authorization", f"Bearer {key}"))
        body = json.dumps(self.body(**members)).encode() if raw is None else raw
        return Request(path=prefix + self.path + query, headers=fields, body=body)

    def shorten(self, request: dict[str, Any]) -> dict[str, Any]:
        """A transform as an optimizer does it: a shorter prompt."""
        return request | {self.prompt: self.shorter_prompt}

    def __str__(self) -> str:
        return self.name


CHAT = Dialect(
    name="OpenAI chat",
    path="/v1/chat/completions",
    prompt="messages",
    request={
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "Say   hello, very   politely."}],
        "temperature": 0.5,
    },
    shorter_prompt=[{"role": "user", "content": "Say hello."}],
    answer={
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-x",
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hello."},
        }],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    },
)
COMPLETIONS = Dialect(
    name="OpenAI completions",
    path="/v1/completions",
    prompt="prompt",
    request={"model": "gpt-x", "prompt": "Once   upon   a time", "max_tokens": 16},
    shorter_prompt="Once upon a time",
    answer={
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-x",
        "choices": [{"index": 0, "text": " there was", "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
    },
)
EMBEDDINGS = Dialect(
    name="OpenAI embeddings",
    path="/v1/embeddings",
    prompt="input",
    request={"model": "embed-x", "input": "a   text", "encoding_format": "float"},
    shorter_prompt="a text",
    answer={
        "object": "list", "model": "embed-x",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 1.0]}],
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    },
)
RESPONSES = Dialect(
    name="OpenAI responses",
    path="/v1/responses",
    prompt="input",
    request={"model": "gpt-x", "input": "Say   hello.", "store": False},
    shorter_prompt="Say hello.",
    answer={
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-x",
        "status": "completed", "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "output": [{
            "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hello.", "annotations": []}],
        }],
        "usage": {
            "input_tokens": 3, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 5,
        },
    },
)
MESSAGES = Dialect(
    name="Anthropic messages",
    path="/v1/messages",
    prompt="messages",
    request={
        "model": "claude-x",
        "max_tokens": 64,
        "system": "Be   polite.",
        "messages": [{"role": "user", "content": "Say   hello."}],
    },
    shorter_prompt=[{"role": "user", "content": "Say hello."}],
    answer={
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
)

ALL = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES)


def of_path(path: str) -> Dialect | None:
    plain = path.split("?")[0]
    return next((dialect for dialect in ALL if plain.endswith(dialect.path)), None)
