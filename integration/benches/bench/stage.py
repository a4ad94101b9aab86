"""Everything that runs while the benchmark does, and one measurement of it."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.envoy import Envoy
from kit.envoy_config import Setup
from kit.wasi import Wasi

from . import machine, variants
from .programs import Backend, Program, load
from .turns import Turn
from .variants import CONFIGURATIONS, Places, Variant


@dataclass(frozen=True)
class Built:
    """What `make bench` builds."""

    module: Path
    noop: Path
    callout: Path
    load: Path
    backend: Path
    ext_proc: Path
    wasi_host: Path
    component: Path


class Wrong(RuntimeError):
    """A run did not do what its row says."""


# So many turns may be taken again in a run.
MOST_AGAIN = 20


class Stage:
    """The services, and hosts by name; hosts on one CPU, all else on another."""

    def __init__(self, built: Built, directory: Path):
        self.built, self.directory = built, directory
        self.backend = Backend(built.backend)
        self.ext_procs: dict[str, Program] = {}
        self.hosts: dict[str, Envoy | Wasi] = {}
        self.starts = 0
        # The rows of turns that were taken again.
        self.again: list[str] = []
        self.sizes: dict[int, dict[str, int]] = {
            size["original"]: size for size in self.backend.said["requests"]
        }

    def host(self, name: str) -> Envoy | Wasi:
        if name not in self.hosts:
            # In a directory of its own: in that of one before it its address might be read from there.
            self.hosts[name] = self.start(name, f"{name}-{len(self.again)}")
            self._introduce(self.hosts[name])
        return self.hosts[name]

    def start(self, name: str, directory: str) -> Envoy | Wasi:
        kind, _, hooks = name.rpartition("_")
        if kind == "ext_proc" and hooks not in self.ext_procs:
            self.ext_procs[hooks] = Program(
                self.built.ext_proc, "--optimizer", str(self.backend.optimizer),
                "--configuration", json.dumps(CONFIGURATIONS[hooks]),
            )
        places = Places(
            self.built.module, self.built.noop, self.built.callout, self.backend.optimizer, self.backend.provider,
            {hooks: program.said["port"] for hooks, program in self.ext_procs.items()},
        )
        setup = Setup(None, log_level="warn", environment={"OPTIMIZER_LOG": ""})
        files = self.directory / directory
        with machine.on(machine.HOSTS):
            if kind == "wasi":
                programs = (self.built.wasi_host, self.built.component)
                return Wasi(setup, variants.component(hooks, places), files, programs=programs)
            return Envoy(setup, variants.config(name, places), files)

    def _introduce(self, host: Envoy | Wasi) -> None:
        """A first call: whoever is not known to the provider is not answered from the cache."""
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
        request = urllib.request.Request(f"http://127.0.0.1:{host.port}{variants.CHAT}", body.encode(), {
            "content-type": "application/json", "authorization": self.backend.said["authorization"],
        })
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()
        # Write-backs follow from a timer.
        time.sleep(0.1)

    def run(self, variant: Variant, size: int, connections: int, turn: Turn) -> dict[str, float]:
        """One turn of one row, in which every call did what the row says."""
        while True:
            try:
                return self._turn(variant, size, connections, turn)
            except RuntimeError:
                if len(self.again) == MOST_AGAIN:
                    raise
            # Where a machine stood still for longer than callouts may take, calls go on without
            # the optimizer, and later ones too while the breaker is open: a new host knows of nothing.
            self.again.append(f"{variant.name}, {size} bytes, {connections} connections")
            print(f"taken again: {self.again[-1]}", flush=True)
            self.hosts.pop(variant.host).stop()

    def _turn(self, variant: Variant, size: int, connections: int, turn: Turn) -> dict[str, float]:
        host = self.host(variant.host)
        processes = {"cpu_us": host.process.pid}
        if variant.host.startswith("ext_proc_"):
            processes["server_cpu_us"] = self.ext_procs[variant.host.removeprefix("ext_proc_")].pid
        answer = self.backend.said["changed_answer" if variant.changes_answer else "answer"]
        expected = {"stream": "yes"} if variant.streams else {"answer_bytes": answer}
        self.backend.counts()
        used = {name: machine.cpu_seconds(pid) for name, pid in processes.items()}
        seen = load(
            self.built.load, port=host.port, path=variant.path, size=size,
            connections=connections, seconds=turn.seconds, warm_up=turn.warm_up, **expected,
        )
        used = {name: machine.cpu_seconds(pid) - used[name] for name, pid in processes.items()}
        self._check(variant, size, seen["calls"])
        found = {name: used / seen["calls"] * 1e6 for name, used in used.items()}
        found["all_cpu_us"] = sum(found.values())
        found["busy"] = used["cpu_us"] / seen["seconds"]
        if variant.streams:
            return found | {f"{name}_p50_us": seen[name]["p50"]
                            for name in ("first", "first_event", "later_events")}
        return found | {
            "per_second": seen["per_second"],
            "p50_us": seen["whole"]["p50"],
            "p99_us": seen["whole"]["p99"],
        }

    def _check(self, variant: Variant, size: int, calls: int) -> None:
        lengths = self.sizes[size]
        transformed = lengths["stream" if variant.streams else "transformed"]
        length = transformed if variant.changes_request else size
        expected = {f"optimizer {path}": calls for path in variant.callouts}
        if variant.reaches_provider:
            expected[f"provider {variant.path} {length}"] = calls
        found = self.backend.counts()
        if found != expected:
            raise Wrong(f"{variant.name}, {size} bytes: expected {expected}, found {found}")

    def direct(self, service: str, size: int, connections: int, turn: Turn) -> dict[str, float]:
        """The load generator on a service itself."""
        path, answer = {
            "provider": (variants.CHAT, self.backend.said["answer"]),
            "optimizer": ("/v1/optimize", self.sizes[size]["advice"]),
        }[service]
        seen = load(
            self.built.load, port=getattr(self.backend, service), path=path, size=size,
            connections=connections, seconds=turn.seconds, warm_up=turn.warm_up, answer_bytes=answer,
        )
        return {
            "per_second": seen["per_second"],
            "p50_us": seen["whole"]["p50"],
            "p99_us": seen["whole"]["p99"],
        }

    def seconds_to_ready(self, name: str) -> float:
        """From the start of a new Envoy to its first yes at /ready."""
        self.starts += 1
        began = time.monotonic()
        envoy = self.start(name, f"start-{self.starts}")
        took = time.monotonic() - began
        envoy.stop()
        return took

    def resident(self) -> dict[str, int]:
        """Memory of each host, and of each ext_proc server, in bytes."""
        found = {name: machine.resident_bytes(host.process.pid) for name, host in self.hosts.items()}
        for hooks, program in self.ext_procs.items():
            found[f"ext_proc_{hooks} server"] = machine.resident_bytes(program.pid)
        return found

    def stop(self) -> None:
        for running in (*self.hosts.values(), *self.ext_procs.values(), self.backend):
            running.stop()
