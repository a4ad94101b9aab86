"""The optimizer and the provider, each a process of its own that can be killed and stopped.

Both check what they get. What is wrong goes to a file, because they do not live long.
"""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

from kit.child import die_with_parent
from kit.message import NEVER, RESET, Answer, Raw, Seen, as_json
from kit.optimizer import CACHE, DECISION, OPTIMIZE, OPTIMIZE_RESPONSE, RECORD
from kit.provider import sse
from kit.service import Service

from questions import Question

TOKEN = "Bearer token-of-the-optimizer"
SPAWN = multiprocessing.get_context("spawn")

NONSENSE = [
    as_json({"error": "sick"}, status=500), Answer(status=404), Answer(status=204), RESET,
    as_json(b'{"request":'), as_json(b"[" * 100_000), as_json([]), as_json({}),
    as_json({"request": {"model": "m", "messages": None, "prompt": None, "input": None}}),
    as_json({"request": {"model": "m"}, "response": [], "decisions": [{}]}),
    as_json({"request": "x", "response": None, "decisions": [1]}),
    as_json({"cacheHit": True, "cachedResponse": "x", "request": {}, "decisions": None}),
    Answer(headers=[("content-type", "application/json")], body=b'{"request":{', framing=400, end="close"),
    Answer(headers=[("content-type", "application/json")], body=b"{" + b" " * 3_000_000 + b"}"),
    Answer(headers=[("content-encoding", "gzip")], body=b"\xff\xfe\x00"),
]


class Wrong:
    """Collects what must not happen, across processes."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()

    def __call__(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(what.replace("\n", " ")[:500] + "\n")

    def all(self) -> list[str]:
        return self.path.read_text().splitlines()


class Mood:
    """What a service is told while it runs."""

    def __init__(self) -> None:
        self._slow, self._sick = SPAWN.RawValue("b", 0), SPAWN.RawValue("b", 0)

    slow = property(lambda self: self._slow.value, lambda self, on: setattr(self._slow, "value", on))
    sick = property(lambda self: self._sick.value, lambda self, on: setattr(self._sick, "value", on))


class Provider:
    """Answers what it was asked."""

    def __init__(self, wrong: Wrong, mood: Mood):
        self.wrong, self.mood = wrong, mood

    def __call__(self, seen: Seen) -> Answer:
        question = _question(seen.body)
        if question is None:
            self.wrong(f"provider: not what anybody sent: {seen.body[:200]!r}")
            return Answer(status=400)
        shortened = seen.body != question.request()
        if shortened and not (question.is_shortened and seen.body == question.request(True)):
            self.wrong(f"provider: {question.name} came changed: {seen.body[:200]!r}")
        if seen.headers.all("authorization") != [question.key] or not seen.path.endswith(question.dialect.path):
            self.wrong(f"provider: {question.name} came at {seen.path} with {seen.headers}")
        if any(name.startswith("x-anyray-") for name, _ in seen.headers):
            self.wrong(f"provider: {question.name} came with {seen.headers}")
        live = [("x-live", "shortened" if shortened else "original")]
        gap = random.random() * 0.04 if self.mood.slow else random.choice([0.0, 0.0, 0.002])
        time.sleep(random.random() * 0.5 * self.mood.slow)
        pieces = question.live(shortened)
        if question.stream:
            answer = sse(*pieces, gap=gap)
            answer.headers += live
            return answer
        framing = "chunked" if question.number % 5 == 0 else "length"
        return as_json(pieces[0], headers=live, framing=framing)


class Optimizer:
    """Shortens, remembers, reviews; and, in a bad mood, says anything."""

    def __init__(self, wrong: Wrong, mood: Mood):
        self.wrong, self.mood = wrong, mood
        self.cache: collections.OrderedDict[str, dict] = collections.OrderedDict()
        self.records: collections.OrderedDict[str, None] = collections.OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, seen: Seen) -> Answer | Raw:
        told = seen.json
        question = _question(seen.body)
        if seen.headers.all("authorization") != [TOKEN] or b"sk-of-" in seen.body:
            self.wrong(f"optimizer: {seen.path} with {seen.headers}: {seen.body[:200]!r}")
        if question is not None:
            self._check(seen, question, told)
        # Of a request that nobody read no record can tell.
        elif seen.path != RECORD or "input" in told.get("content", {}):
            self.wrong(f"optimizer: {seen.path} about nothing: {seen.body[:200]!r}")
            return Answer(status=400)
        if self.mood.slow:
            # Around the time-out, so that some answers come just in time and some just too late.
            time.sleep(random.random() * 0.8)
        if self.mood.sick:
            return random.choice([*NONSENSE, NEVER])
        return {OPTIMIZE: self._optimize, OPTIMIZE_RESPONSE: self._review, CACHE: self._keep,
                RECORD: self._record}[seen.path](question, told)

    def _check(self, seen: Seen, question: Question, told: dict) -> None:
        shortened = [False, question.is_shortened]
        content = told.get("content", {})
        request = content.get("input") if seen.path == RECORD else told["request"]
        spelled = any(question.request(changed) in seen.body for changed in shortened)
        if request is not None and not spelled:
            self.wrong(f"optimizer: {seen.path}: {question.name} came changed: {seen.body[:200]!r}")
        who = told["attribution"] if seen.path == RECORD else told["metadata"]
        if who.get("user") != question.caller:
            self.wrong(f"optimizer: {seen.path}: {question.name} came from {who}")
        answer = content.get("output") if seen.path == RECORD else told.get("response")
        is_error = seen.path == RECORD and told.get("status") != 200
        if answer is not None and not is_error and answer not in question.answers():
            self.wrong(f"optimizer: {seen.path}: {question.name} was answered {str(answer)[:200]}")

    def _key(self, question: Question, told: dict) -> str:
        return f"{told['metadata']['cacheScope']} {question.topic}"

    def _optimize(self, question: Question, told: dict) -> Answer:
        key = self._key(question, told)
        request, decisions = told["request"], []
        if question.is_shortened:
            request = json.loads(question.request(True))
            decisions = [DECISION]
        answer = {"protocolVersion": 1, "optimizationId": f"o {question.name}", "request": request,
                  "decisions": decisions, "estimatedTokensSaved": 1}
        if question.is_kept:
            answer |= {"cacheEligible": True, "cacheKey": key}
        with self.lock:
            if known := self.cache.get(key):
                answer |= {"cacheHit": True, "cachedResponse": known}
        return as_json(answer)

    def _review(self, question: Question, told: dict) -> Answer:
        response, decisions = told["response"], []
        if question.is_reviewed:
            response, decisions = response | {"reviewed": True}, [DECISION]
        return as_json({"protocolVersion": 1, "response": response, "decisions": decisions})

    def _keep(self, question: Question, told: dict) -> Answer:
        if told["cacheKey"] != self._key(question, told):
            self.wrong(f"optimizer: {question.name} is to be kept as {told['cacheKey']}")
        with self.lock:
            self.cache[told["cacheKey"]] = told["response"]
            while len(self.cache) > 500:
                self.cache.popitem(last=False)
        return Answer(status=204)

    def _record(self, question: Question | None, told: dict) -> Answer:
        with self.lock:
            if told["id"] in self.records:
                self.wrong(f"optimizer: {told['id']} was recorded twice")
            self.records[told["id"]] = None
            while len(self.records) > 10_000:
                self.records.popitem(last=False)
        return Answer(status=204)


def _question(body: bytes) -> Question | None:
    """The question that a body is about."""
    _, _, rest = body.partition(b'"soak": "')
    try:
        return Question.named(rest[:60].split(b'"')[0].decode())
    except (ValueError, IndexError):
        return None


def _serve(script: type, wrong: Wrong, mood: Mood, port: int) -> None:
    die_with_parent()
    answer = script(wrong, mood)

    def checked(seen: Seen) -> Answer | Raw:
        try:
            return answer(seen)
        except Exception as error:
            wrong(f"{script.__name__}: {error!r} about {seen.path}: {seen.body[:200]!r}")
            raise

    service = Service(checked, port, remembers=False)
    while True:
        time.sleep(0.05)
        while service.malformed:
            wrong(f"{script.__name__}: no HTTP: {service.malformed.pop()}")


class Program:
    """A service in a process of its own, at a port that stays its own while it is dead."""

    def __init__(self, script: type, wrong: Wrong):
        self.script, self.wrong, self.mood = script, wrong, Mood()
        self.place = socket.socket()
        self.place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.place.bind(("127.0.0.1", 0))
        self.port = self.place.getsockname()[1]
        self.start()

    def start(self) -> None:
        # Of the main thread, because it dies with the thread that started it.
        self.process = SPAWN.Process(target=_serve, daemon=True,
                                     args=(self.script, self.wrong, self.mood, self.port))
        self.process.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError(f"{self.script.__name__} does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self.kill()
        self.place.close()
