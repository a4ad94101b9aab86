"""Clients: they ask, and compare every byte of what comes back."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import re
import time
from dataclasses import dataclass, field
from typing import AsyncIterator

import httpx

from kit.dialects import ALL, CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES
from kit.streams import events

from chaos import Chaos
from questions import Question
from services import Wrong

# What a call without any disturbance must never take; clients wait a little longer.
LONGEST = 12.0
HTTP_ERRORS = (httpx.HTTPError, httpx.StreamError)


@dataclass
class Tally:
    """What became of the calls, by kind."""

    ends: dict[str, collections.Counter] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter))
    # Why calls were bypassed.
    reasons: collections.Counter = field(default_factory=collections.Counter)
    # Bounded: enough for percentiles.
    seconds: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=200_000))

    def add(self, question: Question, end: str, seconds: float) -> None:
        kind = f"{question.dialect}, {'streamed' if question.stream else 'plain'}"
        self.ends[kind][end] += 1
        self.seconds.append(seconds)

    @property
    def total(self) -> collections.Counter:
        return sum(self.ends.values(), collections.Counter())


def connections(http2: bool) -> httpx.AsyncClient:
    """A client's connections: kept and used again; over HTTP/2 it is one, used by several calls at a time."""
    return httpx.AsyncClient(http1=not http2, http2=http2, timeout=LONGEST + 3)


class Client:
    """One caller that asks one question after the other."""

    def __init__(self, number: int, url: str, http: httpx.AsyncClient, http2: bool, chaos: Chaos,
                 tally: Tally, wrong: Wrong, seed: int):
        self.caller, self.url, self.http, self.http2 = f"caller{number}", url, http, http2
        self.chaos, self.tally, self.wrong = chaos, tally, wrong
        self.chance = random.Random(f"{seed} {number}")
        self.asked = 100

    async def run(self, until: float, pause: float) -> None:
        """Asks until the time is up, with a pause of so long on average."""
        try:
            while time.monotonic() < until:
                await self.ask(self.next())
                await asyncio.sleep(self.chance.uniform(0, 2 * pause))
        except Exception as error:  # A client that stops asking would prove nothing any more.
            self.wrong(f"{self.caller}: {error!r}")

    def next(self) -> Question:
        dialect = self.chance.choice(ALL)
        stream = dialect is not EMBEDDINGS and self.chance.random() < 0.5
        if self.chance.random() < 0.4:
            return Question(dialect, self.caller, self.chance.randrange(4), stream)
        self.asked += 1
        return Question(dialect, self.caller, self.asked, stream)

    async def ask(self, question: Question) -> None:
        body = question.request()
        headers = {"content-type": "application/json", "authorization": question.key,
                   "x-anyray-metadata": json.dumps({"user": self.caller})}
        if self.chance.random() < 0.03:
            headers["x-anyray-optimize"] = "off"
        # Without a length the host may not hold it: it passes.
        content = body if self.chance.random() < 0.9 else _pieces(body)
        path = self.chance.choice(["", "/h2"]) + question.dialect.path
        leaves = self.chance.random() < 0.03
        # Leaving closes the connection, so it is one of its own.
        http = connections(self.http2) if leaves else self.http
        reply, got, error = None, bytearray(), None
        began = time.monotonic()
        try:
            async with http.stream("POST", self.url + path, headers=headers, content=content) as reply:
                async for piece in reply.aiter_raw():
                    got += piece
                    if leaves:
                        break
        except HTTP_ERRORS as failure:
            error = failure
        finally:
            if leaves:
                with contextlib.suppress(*HTTP_ERRORS):
                    await http.aclose()
        ended = time.monotonic()
        end = self.judge(question, reply, bytes(got), error, leaves, began, ended)
        self.tally.add(question, end, ended - began)

    def judge(self, question: Question, reply: httpx.Response | None, got: bytes, error: Exception | None,
              leaves: bool, began: float, ended: float) -> str:
        """How a call ended; `wrong`, with the evidence, if it must not end like this."""
        def wrong(what: str) -> str:
            at = f"{question.name}: {what}, after {ended - began:.2f} s"
            self.wrong(f"{at}: {reply and (reply.status_code, dict(reply.headers))} {error!r} {got[:200]!r}")
            return "wrong"

        if ended - began > LONGEST:
            return wrong("too slow")
        dead = self.chaos.was_provider_dead(began, ended)
        if reply is None:
            return "failed" if dead else wrong("no answer")
        if reply.status_code != 200:
            return "failed" if dead and reply.status_code in (502, 503, 504) else wrong("not a 200")
        live = reply.headers.get("x-live")
        original = b"".join(question.live(live == "shortened")) if live else b""
        if leaves or error:
            # What came of an answer that nothing replaced is the beginning of it.
            replaced = question.is_reviewed and not question.stream
            if live and not replaced and not original.startswith(got):
                return wrong("a wrong beginning")
            return "left" if leaves else "cut off" if dead else wrong("cut off")
        if live and got == original or self.is_answer(question, got):
            told = json.loads(reply.headers["x-anyray-optimization"])
            self.tally.reasons.update([told["reason"]] if "reason" in told else [])
            return told["status"]
        return wrong("another answer")

    @staticmethod
    def is_answer(question: Question, got: bytes) -> bool:
        """Whether these bytes say an answer that may be given to this question."""
        try:
            if not question.stream:
                return json.loads(got) in question.answers()
            return any(_said(got, question) == "".join(question.pieces(shortened))
                       for shortened in {False, question.is_shortened})
        except (ValueError, KeyError, LookupError):
            return False


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 9000):
        yield body[at:at + 9000]


def _said(stream: bytes, question: Question) -> str:
    """The text that a replayed stream tells."""
    datas = [re.sub(rb"^event: .*\n", b"", event).removeprefix(b"data: ") for event in events(stream)]
    if question.dialect in (CHAT, COMPLETIONS):
        if datas.pop().strip() != b"[DONE]":
            raise ValueError("no end")
    told = [json.loads(data) for data in datas]
    if question.dialect is CHAT:
        return "".join(choice["delta"].get("content") or "" for event in told for choice in event["choices"])
    if question.dialect is COMPLETIONS:
        return "".join(choice["text"] for event in told for choice in event["choices"])
    if told[-1]["type"] not in ("response.completed", "message_stop"):
        raise ValueError("no end")
    deltas = [event["delta"] for event in told
              if event["type"] in ("response.output_text.delta", "content_block_delta")]
    return "".join(delta["text"] if question.dialect is MESSAGES else delta for delta in deltas)
