"""The calls of the tour, and what each shows."""

import contextlib
import json
import re
import time
from dataclasses import dataclass, field

import httpx

RULES = (
    "You are the assistant of a travel agency.   Answer from the search results only,\n\n\n\n"
    "and   say so where they   do not hold the answer.   Prices are in euros.\n\n"
)
REMINDER = (
    "Reminder: never promise a seat that the search results do not show as free, never quote a "
    "price without its date, and always name the train number, so that the customer can check "
    "every word of the answer against the timetable.\n\n"
)
QUESTION = "Which    train gets me from Basel to Hamburg   before noon,   and what does it cost?"
# The streamed call asks something else: to the cache a stream and a plain call are the same.
STREAMED = "And    which one gets me back   after six in the evening?"
RESULTS = {
    "from": "Basel SBB",
    "to": "Hamburg Hbf",
    "connections": [
        {
            "train": f"ICE {70 + 2 * n}",
            "departs": f"{5 + n:02}:13",
            "arrives": f"{11 + n:02}:35",
            "free_seats": 12 * n,
            "price": {"amount": 89.9 + 10 * n, "currency": "EUR"},
        }
        for n in range(8)
    ],
}
SCHEMA = {"type": "object", "properties": {"from": {"type": "string"}, "to": {"type": "string"}}}
SYSTEM = RULES + REMINDER + REMINDER
RESULT = json.dumps(RESULTS, indent=4)
SEARCH = {"from": "Basel", "to": "Hamburg"}


class OpenAI:
    """Chat completions: a turn in which a tool's result goes back to the model."""

    name = "OpenAI"
    path = "/v1/chat/completions"

    @staticmethod
    def body(model, question, **more):
        call = {"name": "search", "arguments": json.dumps(SEARCH)}
        return {
            "model": model,
            "max_completion_tokens": 16000,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": question},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": RESULT},
            ],
            "tools": [{"type": "function", "function": {"name": "search", "parameters": SCHEMA}}],
            **more,
        }

    @staticmethod
    def headers(key):
        return {"authorization": f"Bearer {key}"} if key else {}


class Anthropic:
    """Messages: the same turn."""

    name = "Anthropic"
    path = "/v1/messages"

    @staticmethod
    def body(model, question, **more):
        call = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": SEARCH}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": RESULT}
        return {
            "model": model,
            "max_tokens": 16000,
            "system": SYSTEM,
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result]},
            ],
            "tools": [{"name": "search", "input_schema": SCHEMA}],
            **more,
        }

    @staticmethod
    def headers(key):
        return {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})


@dataclass
class Shown:
    """What a call showed."""

    sent: str
    status: int = 0
    streamed: bool = False
    body: str = ""
    protocol: str = ""
    chunks: list = field(default_factory=list)  # when each came, in ms
    ms: float = 0
    module: dict = field(default_factory=dict)
    called: bool = False
    received: str | None = None

    @property
    def status_word(self):
        """What the module says it did."""
        return self.module.get("status", "nothing said")

    @property
    def events(self):
        """How many events the stream had."""
        return len(re.findall(r"^data:", self.body, re.MULTILINE))

    @property
    def complete(self):
        """Whether the stream came to its end."""
        return "data: [DONE]" in self.body or "event: message_stop" in self.body

    @property
    def json(self):
        """The body as JSON, the text where it is none."""
        with contextlib.suppress(ValueError):
            return json.loads(self.body)
        return self.body

    @property
    def text(self):
        """The answer's text, or whatever else came."""
        events = [self.json]
        if self.streamed:
            found = re.findall(r"^data: (\{.*\})\s*$", self.body, re.MULTILINE)
            events = [json.loads(event) for event in found]
        return "".join(text_of(event) for event in events if isinstance(event, dict)) or self.body


def text_of(body):
    """The text in an answer or in an event of a stream, of either API."""
    if body.get("choices"):
        choice = body["choices"][0]
        return (choice.get("message") or choice.get("delta") or {}).get("content") or ""
    if body.get("type") == "content_block_delta":
        return body["delta"].get("text", "")
    return "".join(part.get("text", "") for part in body.get("content") or [])


def call(stage, api, body, key, http2=False):
    """Sends a call and gathers what it shows."""
    shown = Shown(sent=json.dumps(body))
    headers = {"content-type": "application/json", "x-anyray-test": "1"} | api.headers(key)
    before, _ = stage.provider_calls()
    with httpx.Client(http1=not http2, http2=http2, timeout=600, trust_env=False) as client:
        start = time.monotonic()
        with client.stream(
            "POST", stage.url + api.path, headers=headers, content=shown.sent
        ) as answer:
            parts = []
            for part in answer.iter_bytes():
                shown.chunks.append((time.monotonic() - start) * 1000)
                parts.append(part)
        shown.ms = (time.monotonic() - start) * 1000
    shown.status, shown.protocol = answer.status_code, answer.http_version
    shown.streamed = answer.headers.get("content-type", "").startswith("text/event-stream")
    shown.body = b"".join(parts).decode(errors="replace")
    shown.module = json.loads(answer.headers.get("x-anyray-optimization", "{}"))
    after, received = stage.provider_calls()
    shown.called = after > before
    shown.received = received if shown.called else None
    return shown
