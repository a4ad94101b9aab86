"""The official SDKs, and what they make of an answer."""

from __future__ import annotations

import copy
from typing import Any, Iterator

import anthropic
import openai

from .dialects import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Dialect

# What makes a provider tell the usage in a stream.
COUNTED: dict[str, dict] = {dialect.name: {} for dialect in (RESPONSES, MESSAGES)} | {
    dialect.name: {"stream_options": {"include_usage": True}} for dialect in (CHAT, COMPLETIONS)
}


class Sdks:
    """Both SDKs with one key, pointed at one proxy."""

    def __init__(self, url: str, key: str):
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)

    def close(self) -> None:
        self.openai.close()
        self.anthropic.close()

    def plain(self, dialect: Dialect, **members: Any) -> dict:
        """What a plain call gives."""
        answer = self._api(dialect).create(**dialect.body(**members))
        return comparable(answer.to_dict(mode="json", warnings=False))

    def streamed(self, dialect: Dialect, **members: Any) -> tuple[dict, list[dict]]:
        """What a streamed call gives in the end, and its events."""
        request = dialect.body(**members)
        if dialect is COMPLETIONS:
            # The SDK has no accumulator for them.
            told = [event.to_dict() for event in self._api(dialect).create(**request, stream=True)]
            return comparable(_completion(told)), told
        told = []
        with self._api(dialect).stream(**request) as stream:
            for event in stream:
                told.append(event.to_dict(mode="json", warnings=False))
            final = {
                CHAT.name: lambda: stream.current_completion_snapshot,
                RESPONSES.name: lambda: stream.get_final_response(),
                MESSAGES.name: lambda: stream.get_final_message(),
            }[dialect.name]()
        return comparable(final.to_dict(mode="json", warnings=False)), told

    def _api(self, dialect: Dialect):
        return {
            CHAT.name: self.openai.chat.completions,
            COMPLETIONS.name: self.openai.completions,
            RESPONSES.name: self.openai.responses,
            # Knows what the other one knows, and what is in beta.
            MESSAGES.name: self.anthropic.beta.messages,
        }[dialect.name]


def comparable(value: Any) -> Any:
    """To the SDKs, what is absent and what is null are the same."""
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items() if item is not None}
    if isinstance(value, str):
        # Python's JSON leaves two surrogates apart that came in two deltas.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return [comparable(item) for item in value] if isinstance(value, list) else value


def the_same(dialect: Dialect, answer: dict, streamed: dict) -> bool:
    """Whether an answer is that of a stream, of which the SDK may have lost something.

    Of chat it keeps no members that come late, and it leaves in a tool call its place in the list.
    """
    if dialect is not CHAT:
        return answer == streamed

    def known(whole: dict) -> dict:
        choices = [
            {name: choice.get(name) for name in ("index", "finish_reason", "logprobs", "message")}
            for choice in copy.deepcopy(whole["choices"])
        ]
        for choice in choices:
            for call in choice["message"].get("tool_calls", []):
                call.pop("index", None)
        return whole | {"object": "chat.completion", "choices": choices}

    answer, streamed = known(answer), known(streamed)
    return {name: answer.get(name) for name in streamed} == streamed


def kinds(told: list[dict]) -> list[tuple]:
    """Each kind of event once, by what it is about: how many bring a text is nobody's promise."""
    about = ("type", "index", "item_id", "output_index", "content_index", "summary_index")

    def each() -> Iterator[tuple]:
        for event in told:
            delta = event.get("delta")
            yield (*map(event.get, about), delta.get("type") if isinstance(delta, dict) else None)

    return list(dict.fromkeys(each()))


def _completion(chunks: list[dict]) -> dict:
    whole: dict[str, Any] = {}
    choices: dict[int, dict] = {}
    for chunk in chunks:
        for told in chunk["choices"]:
            choice = choices.setdefault(told["index"], {"index": told["index"], "text": ""})
            choice["text"] += told["text"]
            choice["finish_reason"] = told["finish_reason"]
            for name, values in (told["logprobs"] or {}).items():
                choice.setdefault("logprobs", {}).setdefault(name, []).extend(values)
        whole |= {name: value for name, value in chunk.items() if value is not None}
    return whole | {"choices": [choices[index] for index in sorted(choices)]}
