"""What is asked and what is answered. Every byte follows from the question's name alone, so
that clients, provider and optimizer can each tell whether what came is what was sent."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from dataclasses import dataclass
from typing import Any

from kit.dialects import ALL, CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, Dialect
from kit.streams import document, told

# How long prompts and answers are, and how often. The last ones pass Envoy's untouched buffers.
SIZES = {200: 70, 4_000: 22, 60_000: 7, 600_000: 0.7, 1_300_000: 0.3}
WORDS = ["Grüezi", "naïve", "𝄞", "\u2028", '"quoted"', "back\\slash", "tab\t", "data:", "end"]


@dataclass(frozen=True)
class Question:
    dialect: Dialect
    caller: str
    number: int
    stream: bool

    @property
    def name(self) -> str:
        place = ALL.index(self.dialect)
        return f"{place}/{self.caller}/{self.number}/{'stream' if self.stream else 'plain'}"

    @classmethod
    def named(cls, name: str) -> "Question":
        place, caller, number, mode = name.split("/")
        return cls(ALL[int(place)], caller, int(number), mode == "stream")

    @property
    def topic(self) -> str:
        """What the answer is about: the same for a plain and a streamed call."""
        return self.name.rpartition("/")[0]

    @property
    def key(self) -> str:
        """The caller's credentials."""
        return f"Bearer sk-of-{self.caller}"

    def chance(self, of: str) -> random.Random:
        return random.Random(f"{of} {self.topic}")

    @property
    def is_shortened(self) -> bool:
        """Whether the optimizer changes the request."""
        return self.chance("shortened").random() < 0.6

    @property
    def is_reviewed(self) -> bool:
        """Whether the optimizer changes the answer."""
        return self.chance("reviewed").random() < 0.3

    @property
    def is_kept(self) -> bool:
        """Whether the optimizer wants the answer for its cache."""
        return self.chance("kept").random() < 0.8

    def request(self, shortened: bool = False) -> bytes:
        """The bytes of the request, with spellings that only survive where nothing rewrites them."""
        prompt = _text(self.chance("prompt"), "   ")
        value = self._prompt(prompt.replace("   ", " ") if shortened else prompt)
        members = [f'"model":"m" , "soak": "{self.name}"', '"temperature" :1.50e0',
                   f'"{self.dialect.prompt}":{json.dumps(value)}', r'"note":"\u00fc\/<>"']
        if self.stream:
            members.append('"stream":true')
        if self.stream and self.dialect in (CHAT, COMPLETIONS):
            members.append('"stream_options": {"include_usage":true}')
        if self.dialect is RESPONSES:
            members.append('"store": false')
        if self.dialect is MESSAGES:
            members.append('"max_tokens":  64')
        return ("{" + ", ".join(members) + "}").encode()

    def _prompt(self, text: str) -> Any:
        if self.dialect in (CHAT, MESSAGES):
            return [{"role": "user", "content": text}]
        return text

    def pieces(self, shortened: bool) -> list[str]:
        """The pieces in which a stream tells the answer; the last one is the checksum."""
        chance = self.chance("answer")
        text = ("short " if shortened else "long ") + _text(chance, " ")
        step = max(3, len(text) // chance.randint(1, 40))
        cut = [text[at:at + step] for at in range(0, len(text), step)]
        return [*cut, f" #{hashlib.sha256(text.encode()).hexdigest()}"]

    def answer(self, shortened: bool, reviewed: bool = False) -> dict[str, Any]:
        """The answer as a plain call gets it."""
        if self.dialect is EMBEDDINGS:
            answer = copy.deepcopy(EMBEDDINGS.answer)
            chance = self.chance(f"answer {shortened}")
            answer["data"][0]["embedding"] = [chance.random() for _ in range(chance.choice([8, 768]))]
        else:
            answer = document(self.dialect, "".join(self.pieces(shortened)))
        return answer | ({"reviewed": True} if reviewed else {})

    def live(self, shortened: bool) -> list[bytes]:
        """What the provider sends, in one write each."""
        if self.stream:
            return told(self.dialect, self.pieces(shortened))
        return [json.dumps(self.answer(shortened), ensure_ascii=False).encode()]

    def answers(self) -> list[dict[str, Any]]:
        """Every answer that may be given to this question."""
        return [self.answer(shortened, reviewed)
                for shortened in {False, self.is_shortened}
                for reviewed in {False, self.is_reviewed}]


def _text(chance: random.Random, gap: str) -> str:
    length = chance.choices(list(SIZES), list(SIZES.values()))[0]
    letters = chance.randbytes(length // 2).hex()
    words = [chance.choice(WORDS), *(letters[at:at + 12] for at in range(0, length, 12))]
    return gap.join(words)
