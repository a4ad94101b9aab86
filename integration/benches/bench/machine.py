"""The machine: which CPU does what, and what a process has used of it."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

CPUS = sorted(os.sched_getaffinity(0))
HOSTS, THE_REST = {CPUS[0]}, {CPUS[-1]}


@contextmanager
def on(cpus: set[int]) -> Iterator[None]:
    """What is started inside runs on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used, to the nanosecond."""
    # The kernel's encoding of another process's CPU clock, as clock_getcpuclockid(3) gives it.
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no VmRSS of {pid}")


def described(envoy: str) -> dict[str, str | int]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    version = said(envoy, "--version").split("version:")[-1].strip()
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "kernel": platform.release(),
        "envoy": "/".join(version.split("/")[1:3]),
        "rustc": said("rustc", "--version"),
        "python": platform.python_version(),
    }
