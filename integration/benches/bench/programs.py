"""The programs beside Envoy, as children: always stopped again."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from kit.child import die_with_parent

from . import machine


class Program:
    """A child that prints one line of JSON when it is ready."""

    def __init__(self, *command: str | Path):
        with machine.on(machine.THE_REST):
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=subprocess.PIPE, preexec_fn=die_with_parent
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command[0]} did not start")
        self.said: dict[str, Any] = json.loads(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Backend(Program):
    """The optimizer and the provider."""

    def __init__(self, binary: Path):
        super().__init__(binary)
        self.optimizer: int = self.said["optimizer"]
        self.provider: int = self.said["provider"]

    def counts(self) -> dict[str, int]:
        """What came since the last time this was asked, by service, path and the body's length."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.provider}/counts", timeout=5) as answer:
            return json.load(answer)


def load(binary: Path, **options: Any) -> dict[str, Any]:
    """One run of the load generator."""
    command = [str(binary)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with machine.on(machine.THE_REST):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)
