"""What the traffic runs through, and what it says of itself."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from kit.envoy import Envoy
from kit.envoy_config import Setup, bootstrap
from kit.proxy import WASM
from kit.wasi import Wasi

WORKERS = 2


class OnEnvoy:
    """The module in a real Envoy."""

    name, http2 = f"Envoy with {WORKERS} workers", True
    # Whether its memory falls now and then, since VMs come and go.
    falls = False
    # Signs of a module that broke, whatever the clients got.
    broken = ("panicked", "RuntimeError", "already borrowed", "wasm trap", "Function: proxy_on", "[critical]")

    def __init__(self, module: dict, optimizer: int, provider: int, directory: Path):
        setup = Setup(module, concurrency=WORKERS)
        config = bootstrap(setup, str(WASM.resolve()), optimizer, provider, str(directory / "access.log"))
        self.host = Envoy(setup, config, directory)

    def machines(self) -> tuple[int, int]:
        """The VMs that were ever made, and those that live."""
        found = self._gauges()
        return found["wasm.envoy.wasm.runtime.v8.created"], found["wasm.envoy.wasm.runtime.v8.active"]

    def waiting(self) -> dict[str, int]:
        """What has not come to its end."""
        found = self._gauges()
        names = ["http.llm.downstream_rq_active",
                 *(f"cluster.{name}.upstream_rq_{what}" for name in ("optimizer", "provider", "provider_h2")
                   for what in ("active", "pending_active"))]
        return {name: found[name] for name in names if found[name]} | undelivered(self.host)

    def _gauges(self) -> dict[str, int]:
        """What Envoy counts, by name, without histograms."""
        pairs = (line.rpartition(": ")[::2] for line in self.host.ask("/stats").splitlines())
        return {name: int(value) for name, value in pairs if value.isdigit()}


class OnWasi:
    """The component in a wasi:http host whose instances serve call after call."""

    name, http2, falls = "wasi:http host", False, True
    broken = ("panicked", "trapped", "no answer")

    def __init__(self, module: dict, optimizer: int, provider: int, directory: Path):
        config = json.loads(json.dumps(module)) | {"provider": f"http://127.0.0.1:{provider}"}
        config["optimizer"]["upstream"] = f"127.0.0.1:{optimizer}"
        self.host = Wasi(Setup(config), config, directory, reuse=True)
        self.idle = self._sockets()

    def machines(self) -> tuple[int, int]:
        """Instances come and go as calls do."""
        return 0, 0

    def waiting(self) -> dict[str, int]:
        # Every call has connections.
        more = self._sockets() - self.idle
        return ({"sockets": more} if more else {}) | undelivered(self.host)

    def _sockets(self) -> int:
        found = 0
        for opened in Path(f"/proc/{self.host.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # Closed meanwhile.
                found += os.readlink(opened).startswith("socket:")
        return found


def undelivered(host: Envoy | Wasi) -> dict[str, int]:
    """Records and write-backs that were queued, and of which no more was counted."""
    sent = left = 0
    for (name, labels), value in host.samples().items():
        told = dict(labels)
        if name in ("optimizer_records", "optimizer_write_backs"):
            # What was dropped from the queue was queued before.
            left += int(value) * {"queued": 1}.get(told["outcome"], -(told["reason"] == "queue_full"))
        elif name == "optimizer_callouts" and told["kind"] in ("record", "cache"):
            sent += int(value)
    return {"queued": left - sent} if left != sent else {}


HOSTS = {"envoy": OnEnvoy, "wasi": OnWasi}
