"""The scripted optimizer: by default it has nothing to change."""

from __future__ import annotations

import json
from typing import Any, Callable

from .message import Answer, Raw, Seen, as_json
from .service import Script, Service

OPTIMIZE = "/v1/optimize"
OPTIMIZE_RESPONSE = "/v1/optimize-response"
CACHE = "/v1/cache"
RECORD = "/v1/record"

# So long the module waits for an answer to what it queues, write-backs and records: a reply that
# took less has not waited for one.
QUEUED_SECONDS = 5.0

DECISION = {"kind": "prompt_compression", "summary": "2 of 5 words", "applied": True}


def says(**members: Any) -> Script:
    """An answer of `/v1/optimize`; the request comes back re-serialised, as services do."""

    def script(seen: Seen) -> Answer:
        answer = {"protocolVersion": 1, "optimizationId": "opt-1", "decisions": [],
                  "request": seen.json["request"]}
        return as_json(answer | members)

    return script


def transforms(change: Callable[[dict], Any], **members: Any) -> Script:
    """An answer of `/v1/optimize` with the request changed."""

    def script(seen: Seen) -> Answer:
        changed = change(seen.json["request"])
        return says(request=changed, **({"decisions": [DECISION]} | members))(seen)

    return script


def hits(response: Any, **members: Any) -> Script:
    """An answer of `/v1/optimize` from the cache."""
    return says(**({"cacheHit": True, "cachedResponse": response} | members))


def rewrites(change: Callable[[dict], Any], **members: Any) -> Script:
    """An answer of `/v1/optimize-response` with the response changed."""

    def script(seen: Seen) -> Answer:
        changed = change(seen.json["response"])
        answer = {"protocolVersion": 1, "response": changed, "decisions": [DECISION]}
        return as_json(answer | members)

    return script


def keeps(seen: Seen) -> Answer:
    return rewrites(lambda response: response, decisions=[])(seen)


class Optimizer(Service):
    """Answers the calls of Protocol v1 as scripted, by path."""

    def __init__(self) -> None:
        super().__init__(self._by_path)
        self.scripts: dict[str, Script] = {}

    def on(self, path: str, script: "Script | Answer | Raw") -> None:
        """Scripts the answers at one path, whatever prefix the adapter puts before it."""
        self.scripts[path] = script if callable(script) else lambda seen: script

    def reset(self) -> None:
        super().reset()
        self.scripts = {}

    def asked(self) -> Seen:
        """The one `/v1/optimize` call of this test."""
        calls = self.to(OPTIMIZE)
        assert len(calls) == 1, [call.path for call in calls]
        return calls[0]

    def of_request(self, id: str) -> list[Seen]:
        """The callouts of the call with this `x-request-id`."""
        with self.changed:
            return [seen for seen in self.calls if seen.headers.get("x-request-id") == id]

    def written_back(self, key: str, seconds: float = 5.0) -> dict:
        """The write-back with this key, once it has come."""
        return self.wait_for(
            lambda seen: seen.path.endswith(CACHE) and seen.json.get("cacheKey") == key, seconds
        ).json

    def record(self, id: str, seconds: float = 5.0) -> dict:
        """The record with this id, once it has come; there must be no second one."""
        self.wait_for(lambda seen: seen.path.endswith(RECORD) and seen.json["id"] == id, seconds)
        [record] = [seen.json for seen in self.to(RECORD) if seen.complete and seen.json["id"] == id]
        return record

    def _by_path(self, seen: Seen) -> "Answer | Raw":
        defaults = {
            OPTIMIZE: says(),
            OPTIMIZE_RESPONSE: keeps,
            CACHE: lambda seen: Answer(status=204),
            RECORD: lambda seen: Answer(status=204),
        }
        for path, script in (defaults | self.scripts).items():
            if seen.path.endswith(path):
                return script(seen)
        return as_json({"error": "not found"}, status=404)


def raw_members(body: bytes) -> dict[str, str]:
    """The top-level members of a JSON object, each value as it is spelled."""
    text, decoder = body.decode(), json.JSONDecoder()
    found: dict[str, str] = {}
    at = text.index("{") + 1
    while True:
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "}":
            return found
        name, at = decoder.raw_decode(text, at)
        at = text.index(":", at) + 1
        while text[at] in " \t\r\n":
            at += 1
        _, end = decoder.raw_decode(text, at)
        found[name], at = text[at:end], end
