"""A wasi:http host with the component in it as a child process: wasmtime, as `integration/wasi-host` embeds it,
or `wasmtime serve` itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

from .child import die_with_parent, stop
from .envoy import Refused
from .envoy_config import Setup
from .growing import Growing

ROOT = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
HOST = Path(os.environ.get("WASI_HOST") or TARGET / "debug/wasi-host")
# The command line tool in the embedded host's place.
WASMTIME = os.environ.get("WASMTIME")
COMPONENT = Path(os.environ.get("OPTIMIZER_COMPONENT") or ROOT / "dist/optimizer-component.wasm")

LISTENING = re.compile(r"^Serving HTTP on http://\S+:(\d+)/$", re.MULTILINE)
NOTE = re.compile(r"^optimizer: (\S+) Note (\S+) (.*)$")
MEASURE = re.compile(r"^optimizer: \S+ (Counter|Gauge|Histogram) (\w+)((?:\.\w+\.\w+)*) (\d+)$")
CLOSED = re.compile(r"^optimizer: (\S+) Closed$")
# The access log's names of what is noted of a call.
NAMES = {
    "optimizer_outcome": "outcome",
    "optimizer_response": "response",
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
}


class Wasi:
    """One running host on a free port. Its log has what others have metrics and access logs for.

    `reuse`: instances serve call after call. `checked`: a wrong configuration is refused before the start.
    `files`: a directory that the component sees as `/config`. `ca`: a file of authorities to be trusted over TLS,
    which `wasmtime serve` has no option for.
    """

    def __init__(self, setup: Setup, config: dict | None, directory: Path, reuse: bool = False,
                 checked: bool = True, files: Path | None = None, ca: Path | None = None,
                 programs: tuple[Path, Path] = (HOST, COMPONENT)):
        directory.mkdir(parents=True, exist_ok=True)
        self.log = self.access_log = directory / "host.log"
        environment = {"OPTIMIZER_LOG": "trace"} | setup.environment
        if config is not None:
            environment["OPTIMIZER_CONFIG"] = json.dumps(config)
        if WASMTIME:
            command = self._wasmtime(environment, files, reuse, checked)
        else:
            command = [*map(str, programs), "127.0.0.1:0", *["--reuse"] * reuse, *["--unchecked"] * (not checked)]
            command += ["--dir", f"{files}::/config"] if files else []
            command += ["--ca", str(ca)] if ca else []
            command += [f"{name}={value}" for name, value in environment.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)
        self.port = self._wait_until_listening()
        self.grown = Growing(self.log)
        self.sums: dict[tuple[str, frozenset], float] = {}
        self.open: dict[str, dict] = {}
        self.closed: list[dict] = []

    def _wait_until_listening(self, seconds: float = 30) -> int:
        deadline = time.monotonic() + seconds
        while not (listening := LISTENING.search(self.log.read_text(errors="replace"))):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Refused(self.log.read_text(errors="replace"))
            time.sleep(0.005)
        return int(listening[1])

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

    def measured(self) -> str:
        """All metrics, as text."""
        return self.log.read_text(errors="replace")

    def calls(self) -> list[dict]:
        """What was noted of the calls that have ended since the last time."""
        self._read()
        closed, self.closed = self.closed, []
        return closed

    def stop(self) -> None:
        stop(self.process)

    def _wasmtime(self, environment: dict[str, str], files: Path | None, reuse: bool, checked: bool) -> list[str]:
        """The command lines of `examples/wasi-http/README.md`."""
        common = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        common += ["--dir", f"{files}::/config"] if files else []
        if checked:
            check = [WASMTIME, "run", "-S", "http", *common, str(COMPONENT)]
            done = subprocess.run(check, capture_output=True, text=True, timeout=60)
            self.log.write_text(done.stderr)
            if done.returncode:
                raise Refused(done.stderr)
        serve = [WASMTIME, "serve", "-S", "cli", "--addr", "127.0.0.1:0", "--no-logging-prefix", *common]
        serve += ["--max-instance-reuse-count", "1000000", "--idle-instance-timeout", "3600s"] if reuse else []
        return [*serve, str(COMPONENT)]
