"""A wasi:http host with the component in it as a child process: wasmtime, as `integration/wasi-host` embeds it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from .envoy import Refused, die_with_parent
from .envoy_config import Setup
from .growing import Growing

ROOT = Path(__file__).parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
HOST = Path(os.environ.get("WASI_HOST") or TARGET / "debug/wasi-host")
COMPONENT = Path(os.environ.get("OPTIMIZER_COMPONENT") or ROOT / "dist/optimizer-component.wasm")

NOTE = re.compile(r"^(\S*) optimizer: Note (\S+) (.*)$")
MEASURE = re.compile(r"^\S* optimizer: (Counter|Gauge|Histogram) (\w+)((?:\.\w+\.\w+)*) (\d+)$")
CLOSED = re.compile(r"^(\S*) optimizer: Closed$")
# The access log's names of what is noted of a call.
NAMES = {
    "optimizer_outcome": "outcome",
    "optimizer_response": "response",
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
}


class Wasi:
    """One running host on a free port. Its log has what others have metrics and access logs for."""

    def __init__(self, setup: Setup, config: dict | None, directory: Path, options: list[str]):
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "host.log"
        environment = {"OPTIMIZER_LOG": "trace"} | setup.environment
        if config is not None:
            environment["OPTIMIZER_CONFIG"] = json.dumps(config)
        command = [str(HOST), str(COMPONENT), "127.0.0.1:0", *options]
        command += [f"{name}={value}" for name, value in environment.items()]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, preexec_fn=die_with_parent
            )
        line = self.process.stdout.readline().decode()
        if not line.startswith("listening on "):
            self.stop()
            raise Refused(self.log.read_text(errors="replace"))
        self.port = int(line.rsplit(":", 1)[1])
        self.grown = Growing(self.log)
        self.sums: dict[tuple[str, frozenset], float] = {}
        self.open: dict[str, dict] = {}
        self.closed: list[dict] = []

    def _read(self) -> None:
        for line in self.grown.more():
            if match := NOTE.match(line):
                case, name, value = match.groups()
                if name in NAMES:
                    self.open.setdefault(case, {})[NAMES[name]] = value
            elif match := MEASURE.match(line):
                self._measure(*match.groups())
            elif match := CLOSED.match(line):
                noted = dict.fromkeys(NAMES.values()) | self.open.pop(match[1], {})
                self.closed.append(noted | {"case": match[1]})

    def _measure(self, kind: str, name: str, labels: str, value: str) -> None:
        parts = labels.split(".")[1:]
        key = frozenset(zip(parts[::2], parts[1::2]))
        if kind == "Histogram":
            self._add(f"{name}_sum", key, float(value))
            self._add(f"{name}_count", key, 1)
        elif kind == "Gauge":
            self.sums[name, key] = float(value)
        else:
            self._add(name, key, float(value))

    def _add(self, name: str, key: frozenset, value: float) -> None:
        self.sums[name, key] = self.sums.get((name, key), 0) + value

    def samples(self) -> dict[tuple[str, frozenset], float]:
        """What was measured: name and labels → value."""
        self._read()
        return dict(self.sums)

    def calls(self) -> list[dict]:
        """What was noted of the calls that have ended since the last time."""
        self._read()
        closed, self.closed = self.closed, []
        return closed

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
