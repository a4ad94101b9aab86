"""One host under test, as the tests talk to it."""

from __future__ import annotations

import collections
import itertools
import json
import os
import time
import uuid
from pathlib import Path
from typing import Callable

from . import client
from .client import Reply, Request
from .envoy import Envoy
from .envoy_config import Setup, bootstrap
from .growing import Growing
from .optimizer import Optimizer
from .provider import Provider
from .wasi import COMPONENT, HOST, Wasi

WASM = Path(os.environ.get("OPTIMIZER_WASM") or Path(__file__).resolve().parents[3] / "dist/optimizer.wasm")
HTTP1, HTTP2 = "HTTP/1.1", "HTTP/2"


class Counting:
    """How far the module's counters moved since it was made.

    A counter goes by its labels: `bypassed optimizer_timeout`, `optimize timeout`, `chat input`.
    """

    def __init__(self, host: Envoy | Wasi):
        self.host = host
        self.before = self._read()

    def _read(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = collections.defaultdict(dict)
        for (name, labels), value in self.host.samples().items():
            values = dict(labels)
            first = values.get("outcome") or values.get("kind") or values.get("operation")
            second = values.get("reason") or values.get("result") or values.get("type")
            family = name.removeprefix("optimizer_")
            found[family][" ".join(filter(None, (first, second)))] = int(value)
        return found

    def moved(self, family: str) -> dict[str, int]:
        before = self.before.get(family, {})
        now = self._read().get(family, {})
        return {k: v - before.get(k, 0) for k, v in now.items() if v != before.get(k, 0)}

    def expect(self, seconds: float = 3.0, **families: dict[str, int]) -> None:
        """Waits until these families moved exactly so; they may be counted after the reply.

        Of `callouts`, only the kinds named count: write-backs of an earlier test may still run.
        """
        kinds = {name.split()[0] for name in families.get("callouts", {})}
        self._expect(families, seconds, lambda kind: kind in kinds)

    def expect_all(self, seconds: float, **families: dict[str, int]) -> None:
        """The same, of callouts of every kind."""
        self._expect(families, seconds, lambda kind: True)

    def _expect(
        self, families: dict[str, dict[str, int]], seconds: float, counts: Callable[[str], bool]
    ) -> None:
        deadline = time.monotonic() + seconds
        while True:
            moved = {family: self.moved(family) for family in families}
            if "callouts" in moved:
                moved["callouts"] = {
                    k: v for k, v in moved["callouts"].items() if counts(k.split()[0])
                }
            if moved == families:
                return
            if time.monotonic() > deadline:
                assert moved == families
            time.sleep(0.02)


class Proxy:
    """Sends calls through one host and tells what became of them."""

    def __init__(self, host: Envoy | Wasi):
        self.host = host
        self.log = Growing(host.log)
        self.calls: dict[str, dict] = {}
        # The ids that calls have in the host's log, where those are not their cases.
        self.ids: dict[str, str] = {}

    @property
    def port(self) -> int:
        return self.host.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, request: Request, http: str = HTTP1, timeout: float = 15.0) -> Reply:
        """Sends `request` with a name of its own, by which the provider's call is found."""
        case = uuid.uuid4().hex
        named = [*request.headers, ("x-case", case)]
        if isinstance(self.host, Wasi):
            # Envoy gives a call that has none an `x-request-id`; here its client does, for the log.
            ids = [value for name, value in named if name == "x-request-id"] or [case]
            named += [("x-request-id", case)] if ids == [case] else []
            self.ids[case] = ids[0]
        reply = client.send(self.port, Request(**{**request.__dict__, "headers": named}), http, timeout)
        reply.case = case
        return reply

    def logged(self, case: str, seconds: float = 3.0) -> dict:
        """The access log's line for a call."""
        case = self.ids.get(case, case)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for told in self.host.calls():
                self.calls[told["case"]] = told
            if case in self.calls:
                return self.calls[case]
            time.sleep(0.005)
        raise AssertionError(f"no access log line for {case}")

    def outcome(self, reply: Reply) -> str | None:
        return self.logged(reply.case)["outcome"]

    def settle(self, seconds: float = 3.0) -> None:
        """Waits until whatever was queued for the optimizer has been answered."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            count = collections.Counter()
            for (name, labels), value in self.host.samples().items():
                values = dict(labels)
                if values.get("outcome") == "queued":
                    count["queued"] += int(value)
                elif name == "optimizer_callouts" and values["kind"] in ("cache", "record"):
                    count["answered"] += int(value)
            if count["queued"] <= count["answered"]:
                return
            time.sleep(0.02)

    def counting(self) -> Counting:
        return Counting(self.host)

    def new_log_lines(self) -> list[str]:
        """What the host logged since the last time this was asked."""
        return self.log.more()


# The host that the suite runs on: `envoy`, or `wasi` with an instance for each call, or `wasi-reuse` with
# instances that serve call after call. With `WASMTIME` it is `wasmtime serve`, not the embedded host.
ON = os.environ.get("E2E_HOST", "envoy")


class Cannot(Exception):
    """The host of this run has no such thing."""


class Proxies:
    """Hosts by their set-up: tests that need the same one share it."""

    def __init__(self, optimizer: Optimizer, provider: Provider, directory: Path):
        self.optimizer, self.provider, self.directory = optimizer, provider, directory
        self.running: dict[str, Proxy] = {}
        self.numbers = itertools.count(1)

    def start(self, setup: Setup) -> Proxy:
        """A new host; raises `Refused` where it does not start."""
        if ON != "envoy":
            return self._start_wasi(setup)
        if setup.module is not None and not WASM.exists():
            raise FileNotFoundError(f"{WASM} is missing: run `make build` first")
        directory = self.directory / f"envoy-{next(self.numbers)}"
        config = bootstrap(
            setup, str(WASM.resolve()), self.optimizer.port, self.provider.port,
            str(directory / "access.log"),
        )
        return Proxy(Envoy(setup, config, directory))

    def _start_wasi(self, setup: Setup) -> Proxy:
        for path in (HOST, COMPONENT):
            if not path.exists():
                raise FileNotFoundError(f"{path} is missing: run `make build wasi-host` first")
        if setup.module is None:
            raise Cannot("there is no proxy without the component")
        config = json.loads(json.dumps(setup.module))
        optimizer = config.get("optimizer")
        if isinstance(optimizer, dict) and "upstream" in optimizer:
            if optimizer["upstream"] != "optimizer":
                raise Cannot(f"{optimizer['upstream']} is a cluster of Envoy's")
            optimizer["upstream"] = f"127.0.0.1:{self.optimizer.port}"
        config.setdefault("provider", f"http://127.0.0.1:{self.provider.port}")
        # Nobody can be proven where nothing is remembered.
        config.setdefault("cache", {}).setdefault("serve", "anyone")
        directory = self.directory / f"wasi-{next(self.numbers)}"
        return Proxy(Wasi(setup, config, directory, reuse=ON == "wasi-reuse"))

    def get(self, setup: Setup) -> Proxy:
        if setup.key not in self.running:
            self.running[setup.key] = self.start(setup)
        return self.running[setup.key]

    def stop(self) -> None:
        for proxy in self.running.values():
            proxy.host.stop()
