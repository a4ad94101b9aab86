"""The real Envoy as a child process: started, asked, and always stopped again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from .child import die_with_parent, stop
from .envoy_config import Setup
from .growing import Growing

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')


class Refused(Exception):
    """Envoy did not start; carries its log."""


def binary() -> str:
    beside_python = Path(sys.executable).with_name("envoy")
    found = str(beside_python) if beside_python.exists() else shutil.which("envoy")
    if not found:
        raise FileNotFoundError("no envoy: install integration/requirements.txt")
    return found


class Envoy:
    """One running Envoy on free ports."""

    def __init__(self, setup: Setup, config: dict | str, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "envoy.log"
        self.access_log = directory / "access.log"
        self.grown = Growing(self.access_log)
        # As it stands, or to be written as JSON, which is YAML.
        config_file = directory / "envoy.yaml"
        config_file.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
        admin_file = directory / "admin"
        command = [
            binary(), "-c", str(config_file),
            "--concurrency", str(setup.concurrency),
            "--admin-address-path", str(admin_file),
            "--file-flush-interval-msec", "10",
            "--disable-hot-restart", "--log-level", "warn",
            "--component-log-level", f"wasm:{setup.log_level}",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        try:
            self._wait_until_ready(admin_file)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, admin_file: Path, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Refused(self.log.read_text(errors="replace"))
            if admin_file.exists() and ":" in (text := admin_file.read_text()):
                self.admin = text
                if self._ready():
                    break
            time.sleep(0.005)
        else:
            raise Refused("not ready in time\n" + self.log.read_text(errors="replace"))
        listeners = json.loads(self.ask("/listeners?format=json"))
        address = listeners["listener_statuses"][0]["local_address"]["socket_address"]
        self.port = address["port_value"]

    def _ready(self) -> bool:
        try:
            return self.ask("/ready").startswith("LIVE")
        except OSError:
            return False

    def ask(self, path: str) -> str:
        """What the admin interface says at `path`."""
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as answer:
            return answer.read().decode()

    def samples(self) -> dict[tuple[str, frozenset], float]:
        """What Prometheus would read of the module: name and labels → value."""
        found = {}
        for line in self.ask("/stats/prometheus?filter=wasmcustom").splitlines():
            if match := SAMPLE.match(line):
                name, labels, value = match.groups()
                found[name, frozenset(LABEL.findall(labels or ""))] = float(value)
        return found

    def measured(self) -> str:
        """All metrics, as text."""
        return self.ask("/stats") + self.ask("/stats/prometheus")

    def calls(self) -> list[dict]:
        """The access log's lines that have come since the last time."""
        return [json.loads(line) for line in self.grown.more()]

    def stop(self) -> None:
        stop(self.process)
