"""Plays the fault matrix: whatever goes wrong, the client gets what it got without the filter."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Iterator

import pytest

import fault_report
from fault_matrix import (
    KEY, LEAK, NO_FAULT, OTHER_MODEL, REQUEST, RESPONSE, TIMEOUT_MS, TOKEN, Expected, Row, healthy,
    rows,
)
from kit import client
from kit.client import Reply, Request
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.message import NEVER, Answer, Headers, Raw, Seen
from kit.optimizer import CACHE, OPTIMIZE, OPTIMIZE_RESPONSE, RECORD, rewrites, transforms
from kit.proxy import HTTP1, ON, Counting
from kit.streams import TEXT, document

# Beside the time-outs: a slow machine is no fault.
MARGIN_SECONDS = 2.0
# A write-back's or a record's own time-out, and the tick that it waits for.
QUEUED_SECONDS = 7.0
TOGETHER = 3
# Where a report of the whole run is wanted, short calls are measured more than once.
REPORT = os.environ.get("FAULT_REPORT")
REPEATS = 3 if REPORT else 1
# Differ from call to call, or because the module read the answer or changed the body.
VARYING = ("x-request-id", "date", "x-envoy-upstream-service-time", "host", "content-length",
           "accept-encoding", "x-anyray-metadata")
# For whoever the client is connected with.
CONSUMED = () if ON == "envoy" else ("expect", "connection")
FAMILIES = ("exchanges", "responses", "write_backs", "records", "callouts", "provider_rejections")


class Play:
    """One row, plain or streamed, as it is scripted; known to all sides by its labels."""

    def __init__(self, row: Row, stream: bool):
        self.row, self.fault, self.stream = row, row.fault, stream
        self.expected: Expected = row.expected(stream)
        # As long as the id in the provider's answers, which they stand in for.
        fault = self.fault
        once = fault.slow or fault.costly or fault.refuses or fault.leaves
        count = TOGETHER if fault.together else 1 if once else REPEATS
        self.labels = [uuid.uuid4().hex[:10] for _ in range(count)]
        # The optimizer stops listening during this call.
        self.refused = False
        # Milliseconds beyond those that the call takes without the filter.
        self.added: float | None = None

    @property
    def alone(self) -> bool:
        """There is nothing that it can be compared with."""
        return bool(self.fault.leaves) or self.expected.client == "component's"

    def requests(self) -> list[Request]:
        members = {"stream": True} if self.stream else {}
        secrets = [("cookie", f"session={KEY}")]
        plain = CHAT.call(key=KEY, headers=secrets, prefix=self.fault.prefix, **members)
        plain = self.fault.request(plain) if self.fault.request else plain
        return [replace(plain, headers=[*plain.headers, ("x-case", label), ("x-request-id", label)])
                for label in self.labels]

    def optimizer(self, seen: Seen, path: str) -> Answer | Raw:
        """What the optimizer answers at `path`."""
        fault, hook = self.fault, self.row.hook
        if fault.leaves and path.endswith(f"/{fault.leaves.replace('_', '-')}"):
            return NEVER
        if fault.optimizer and path == hook.path:
            script = fault.optimizer(hook)
            return script(seen) if callable(script) else script
        if path == OPTIMIZE:
            key = seen.headers.get("x-request-id")
            cache = {"cacheEligible": True, "cacheKey": key} if hook.path == CACHE else {}
            return transforms(CHAT.shorten, **cache)(seen)
        if path == OPTIMIZE_RESPONSE:
            return rewrites(lambda response: response | {"model": OTHER_MODEL})(seen)
        return Answer(status=204)

    def provider(self, seen: Seen) -> Answer | Raw:
        """The fault's answer, with the call's own id in it."""
        answer = (self.fault.provider or healthy)(self.stream)
        label = seen.headers.get("x-case").encode()
        pieces = [piece if isinstance(piece, float) else piece.replace(b"chatcmpl-1", label)
                  for piece in answer.pieces]
        return replace(answer, **{"pieces" if isinstance(answer, Raw) else "body": pieces})


class Stage:
    """Hosts with and without the filter, and both services scripted by the label of each call."""

    def __init__(self, proxies, optimizer, provider):
        self.proxies, self.optimizer, self.provider = proxies, optimizer, provider
        # Where the component is the proxy, there is none without it.
        self.without = proxies.get(Setup(None)) if ON == "envoy" else provider
        self.plays: dict[str, Play] = {}
        self.aftermath = contextlib.ExitStack()
        for path in (OPTIMIZE, OPTIMIZE_RESPONSE, CACHE, RECORD):
            optimizer.on(path, lambda seen, path=path: self.plays[
                seen.headers.get("x-request-id")].optimizer(seen, path))
        provider.answers(self._provided)

    def _provided(self, seen: Seen) -> Answer | Raw:
        play = self.plays[seen.headers.get("x-case")]
        if play.refused and play.row.hook is not REQUEST:
            self.aftermath.enter_context(self.optimizer.away())
        return play.provider(seen)

    def perform(self, *plays: Play, at_a_time: int = 1) -> None:
        """Plays them all, and counts what came of them together."""
        for play in plays:
            self.plays |= dict.fromkeys(play.labels, play)
        bare = [self._send(self.without, play) for play in plays]
        asked_bare = {label: self.provider.of(label) for play in plays for label in play.labels}
        counted = {play.row.setup.key: self.proxies.get(play.row.setup).counting() for play in plays}
        with self.aftermath, ThreadPoolExecutor(at_a_time) as pool:
            for play in plays:
                play.refused = play.fault.refuses
                if play.refused and play.row.hook is REQUEST:
                    self.aftermath.enter_context(self.optimizer.away())
            filtered = list(pool.map(
                lambda play: self._send(self.proxies.get(play.row.setup), play), plays))
            for key, counting in counted.items():
                expect(counting, [play for play in plays if play.row.setup.key == key])
        for play, without, with_it in zip(plays, bare, filtered):
            for label in play.labels:
                self._check_provider(play, asked_bare[label], label)
            self._check(play, without, with_it)

    def _send(self, proxy, play: Play) -> list[Reply]:
        requests, http = play.requests(), play.row.http
        if play.fault.leaves:
            # Nobody is there to compare anything.
            return [] if proxy is self.without else self._leave(proxy, play)
        if play.alone and proxy is self.without:
            return [Reply() for _ in requests]
        if play.fault.together:
            return client.send_together(proxy.port, requests, http)
        return [client.send(proxy.port, request, http) for request in requests]

    def _leave(self, proxy, play: Play) -> list[Reply]:
        """Sends a request and is gone at the point of the fault."""
        [request], [label] = play.requests(), play.labels
        point, mine = play.fault.leaves, lambda seen: label in seen.everything
        with client.begin(proxy.port, request, play.row.http) as sock:
            if point in ("optimize", "optimize_response"):
                path = {"optimize": OPTIMIZE, "optimize_response": OPTIMIZE_RESPONSE}[point]
                self.optimizer.wait_for(lambda seen: seen.path == path and mine(seen))
            elif point in ("provider", "answer"):
                self.provider.wait_for(mine)
            # Where the answer is held, nothing of it can be waited for.
            got = b"" if point == "answer" and play.row.hook is not RESPONSE else label.encode()
            while label.encode() not in got:
                got += sock.recv(1 << 16)
            if not got or point in ("answer", "body"):
                time.sleep(0.05)
        return []

    def _check(self, play: Play, without: list[Reply], with_it: list[Reply]) -> None:
        proxy = self.proxies.get(play.row.setup)
        for label in play.labels:
            line = proxy.logged(label)
            assert line["outcome"] == play.expected.exchange
            assert line["response"] == play.expected.response
            self._check_optimizer(play, label, line)
        for label, bare, got in zip(play.labels, without, with_it):
            same_answer(play, label, bare, got)
            assert not any(secret in got.everything for secret in (TOKEN, LEAK, KEY))
        if with_it and not play.fault.together:
            fastest = lambda replies: min(reply.elapsed for reply in replies)
            added = 1000 * (fastest(with_it) - fastest(without))
            late = play.fault.party == "optimizer" and play.row.hook.waits
            assert added < TIMEOUT_MS * late + 1000 * MARGIN_SECONDS
            play.added = None if play.alone else added

    def _check_provider(self, play: Play, bare: list[Seen], label: str) -> None:
        """The provider got the client's request or its transform, and nobody's secrets."""
        if play.fault.leaves and play.expected.provider:
            # Nobody waited for a reply by which it must have come.
            self.provider.wait_for(lambda seen: seen.headers.get("x-case") == label)
        got = self.provider.of(label)[len(bare):]
        assert len(got) == play.expected.provider
        assert play.alone or len(bare) == len(got)
        for seen in got:
            assert TOKEN not in seen.everything and LEAK not in seen.everything
            assert not any(name.lower().startswith("x-anyray") for name, _ in seen.headers)
        for before, after in zip(bare, got):
            assert sorted(after.headers.without(*VARYING)) == sorted(before.headers.without(*VARYING, *CONSUMED))
            assert list(after.trailers) == list(before.trailers) and after.complete
            if play.expected.exchange == "transformed":
                assert after.json == CHAT.shorten(before.json)
            else:
                assert after.body == before.body

    def _check_optimizer(self, play: Play, label: str, line: dict) -> None:
        """The optimizer got its own token, nothing else of the call's headers, and what is due."""
        calls = self.optimizer.of_request(label)
        for seen in calls:
            assert seen.headers.all("authorization") == [f"Bearer {TOKEN}"]
            assert KEY not in seen.everything
        told = {seen.path: seen.json for seen in calls if seen.complete}
        if play.expected.callouts.get("cache") == "ok":
            answer = told[CACHE]["response"]
            assert told[CACHE]["cacheKey"] == answer["id"] == label
            assert answer["choices"] == document(CHAT)["choices"]
        if play.expected.callouts.get("record") == "ok":
            assert told[RECORD]["id"] == label
            if ON == "envoy":
                assert told[RECORD].get("status", 0) == line["status"]


def expect(counting: Counting, plays: list[Play]) -> None:
    """Waits until the module counted what these plays have to come to, and nothing else."""
    wanted = {family: collections.Counter() for family in FAMILIES}
    for play in plays:
        for verdict, family in ((play.expected.exchange, "exchanges"),
                                (play.expected.response, "responses"),
                                (play.expected.write_back, "write_backs"),
                                (play.expected.record, "records")):
            if verdict:
                outcome, _, reason = verdict.partition(":")
                wanted[family][f"{outcome} {reason or 'none'}"] += len(play.labels)
        for kind, result in play.expected.callouts.items():
            wanted["callouts"][f"{kind} {result}"] += len(play.labels)
        if play.expected.rejected:
            wanted["provider_rejections"][""] += len(play.labels)
    patience = QUEUED_SECONDS if any(play.row.outlives_the_call for play in plays) else 3.0
    counting.expect_all(patience, **{family: dict(found) for family, found in wanted.items()})


def same_answer(play: Play, label: str, bare: Reply, got: Reply) -> None:
    """The client's answer beside the one that it gets without the filter."""
    if play.expected.client == "502":
        assert (bare.status, bare.complete) == (200, False)
        assert (got.status, got.complete) == (502, True)
        return
    if play.expected.client == "component's":
        assert (got.status, got.complete, got.body) == (502, True, b"the provider cannot be reached\n")
        return
    if play.expected.client == "broken":
        assert not bare.complete and not got.complete and bare.body.startswith(got.body)
        return
    if ON != "envoy":
        # wasi:http has no 1xx, the host passes on trailers only where a header announced them, and breaks off its own way.
        bare = replace(bare, early=[], trailers=Headers(), error=bool(bare.error))
        got = replace(got, early=[(status, fields) for status, fields in got.early if status != 100],
                      error=bool(got.error))
    parts = lambda reply: (
        reply.status, sorted(reply.headers.without(*VARYING)), list(reply.trailers),
        reply.early, reply.complete, reply.error)
    assert parts(got) == parts(bare)
    if play.expected.client != "rewritten":
        assert got.body == bare.body and got.framing == bare.framing
    elif play.stream:
        assert got.body != bare.body
        assert said(got.body) == said(bare.body) == ({label}, TEXT)
        assert models(got.body) == {OTHER_MODEL}
    else:
        assert got.json == bare.json | {"model": OTHER_MODEL}


def chunks(stream: bytes) -> list[dict]:
    lines = [line[6:] for line in stream.splitlines() if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def said(stream: bytes) -> tuple[set[str], str]:
    """The ids and the text of a stream that came to its end."""
    assert stream.endswith(b"data: [DONE]\n\n")
    deltas = [choice["delta"] for chunk in chunks(stream) for choice in chunk["choices"]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    return {chunk["id"] for chunk in chunks(stream)}, text


def models(stream: bytes) -> set[str]:
    return {chunk["model"] for chunk in chunks(stream)}


# --- The tests -----------------------------------------------------------------------------------

ROWS = list(rows())


def marked(row: Row):
    """The rows of every test run: those over HTTP/1.1 that take little time."""
    full = row.http != HTTP1 or row.fault.slow or row.fault.costly
    return pytest.param(row, id=str(row), marks=[pytest.mark.full] if full else [])


@pytest.fixture
def stage(proxies, optimizer, provider) -> Stage:
    return Stage(proxies, optimizer, provider)


@pytest.fixture(scope="module")
def played() -> Iterator[list[Play]]:
    """Every play that came out as it had to: the report of a whole run."""
    plays: list[Play] = []
    yield plays
    if REPORT and len(plays) == 2 * len(ROWS):
        fault_report.write(REPORT, plays, TIMEOUT_MS)


def both_modes(row: Row) -> list[Play]:
    return [Play(row, stream) for stream in (False, True)]


def alive(stage: Stage, row: Row) -> None:
    """The module goes on doing its work."""
    healthy = row.fault if row.fault.upstream != "optimizer" else NO_FAULT
    stage.perform(Play(replace(row, fault=healthy), False))


@pytest.mark.parametrize("row", [marked(row) for row in ROWS if not row.outlives_the_call])
def test_the_call_goes_on_when(stage, played, row):
    plays = both_modes(row)
    # What waits can wait together; the optimizer cannot refuse one of two calls.
    for batch in [plays] if row.fault.slow else [[play] for play in plays]:
        stage.perform(*batch, at_a_time=len(batch))
    alive(stage, row)
    played += plays


@pytest.mark.full
def test_what_nobody_waits_for_costs_no_time(stage, played):
    """Write-backs and records that take seconds: the calls go on one after the other."""
    waiting = [row for row in ROWS if row.outlives_the_call]
    plays = [play for row in waiting for play in both_modes(row)]
    stage.perform(*plays)
    for row in {row.hook.name: row for row in waiting}.values():
        alive(stage, row)
    played += plays


def test_no_log_tells_anything_of_the_calls(proxies):
    for proxy in [proxies.get(setup) for setup in {row.setup.key: row.setup for row in ROWS}.values()]:
        for log in (proxy.host.log, proxy.host.access_log):
            text = log.read_text(errors="replace")
            assert not any(secret in text for secret in (TOKEN, KEY, LEAK))
