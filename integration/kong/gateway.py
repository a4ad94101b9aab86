"""A real proxy with Kong's Wasm runtime: what the tests ask of it, whichever program it is."""

from __future__ import annotations

import enum
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable

from kit.proxy import WASM, Cannot, Proxy

EXAMPLES = Path(__file__).parents[2] / "examples/kong"

# A worker that crashed, a module that trapped or panicked, and what nginx says of itself.
BROKEN = ("exited on signal", "exited with fatal", "trap", "panick", "[alert]", "[crit]", "[emerg]",
          "NYI", "failed resuming", "AddressSanitizer")


class Refused(Exception):
    """The proxy did not start, or not with the module; carries what it said."""


class Step(enum.StrEnum):
    """What Lua does with a request's body before the module runs."""

    PREPARE = "reads it and sets it anew"
    # What goes wrong easily: the body stays where nginx put it.
    READ_ONLY = "reads it"
    UNPREPARED = "nothing"
    IN_REWRITE = "reads it and sets it anew, in the rewrite phase"


PREPARE, READ_ONLY, UNPREPARED = Step.PREPARE, Step.READ_ONLY, Step.UNPREPARED


@dataclass
class Shipped:
    """The module's configuration as the example has it, but for the optimizer's address."""

    optimizer_port: int


@dataclass
class Place:
    """Another path, with a configuration of the module of its own."""

    path: str
    module: dict
    # What the proxy itself answers there, if anything.
    answer: str = ""


@dataclass
class Setup:
    """What differs from the shipped example."""

    # The module's configuration; None leaves the filter out.
    module: dict | Shipped | None
    prepare: Step = PREPARE
    workers: int = 1
    # nginx's directives by where they stand: for the runtime, for everything, for calls to the provider.
    wasm: dict[str, str] = field(default_factory=dict)
    http: dict[str, str] = field(default_factory=dict)
    proxy: dict[str, str] = field(default_factory=dict)
    # Whether connections to the provider are kept.
    keepalive: bool = True
    # Who is asked for names, and for a second at most where that can be said.
    resolver: str = ""
    # The configuration of another filter before the module.
    before: dict | None = None
    places: list[Place] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    log_level: str = "info"

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Example:
    """A file of examples/kong, changed where a test wants. What is replaced must be there."""

    def __init__(self, name: str):
        self.path = EXAMPLES / name
        self.text = self.path.read_text()

    def put(self, old: str, new: str) -> None:
        assert self.text.count(old) == 1, f"{self.path}: not once: {old}"
        self.text = self.text.replace(old, new)

    def after(self, place: str, more: str) -> None:
        self.put(place, place + more)

    def put_filters(self, setup: Setup, own: str, whole: str, write: Callable[[str, dict], str]) -> None:
        """The filters of this set-up. `own` is the example's filter, `whole` what goes with it where there is to be
        none; `write` makes a filter's text from its name and configuration."""
        if setup.before is not None:
            self.put(own, write("other", setup.before) + own)
        match setup.module:
            case None:
                self.put(whole, "")
            case Shipped(optimizer_port):
                self.put("127.0.0.1:8088", f"127.0.0.1:{optimizer_port}")
            case module:
                self.put(own, write("optimizer", module))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Server:
    """One running proxy on a free port."""

    # In its log, if it will never run as it is configured.
    GIVEN_UP: tuple[str, ...] = ()
    # Said of an optimizer's socket that is not there.
    HARMLESS: tuple[str, ...] = ("connect() to unix:",)
    # Whether headers can be kept from the provider that the module has emptied.
    TAKES_HEADERS_OUT = True

    def __init__(self, setup: Setup, provider_port: int, directory: Path):
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        self.directory, self.workers = directory, setup.workers
        self.port = free_port()
        self.log = directory / "logs/error.log"
        self.log.touch()
        self.environment = os.environ | {"OPTIMIZER_TOKEN": "token-of-the-example"} | setup.environment
        # To nginx this is a list of sockets that it inherits.
        self.environment.pop("NGINX", None)
        self.configure(setup, provider_port)
        try:
            self.start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.first_pids = self.pids()

    def configure(self, setup: Setup, provider_port: int) -> None:
        """Writes the configuration; raises `Cannot` for what there is no configuration of."""
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def ask_to_reload(self) -> None:
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """nginx's master, while it runs."""
        raise NotImplementedError

    def said(self) -> str:
        """Everything that it said."""
        return self.log.read_text(errors="replace")

    def _wait_until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # The sockets listen before the workers have loaded the module, and answer after it.
            ready = len(self.pids()) >= self.workers and self._answers()
            said = self.said()
            if self.pid is None or any(sign in said for sign in self.GIVEN_UP):
                raise Refused(said)
            if ready:
                return
            time.sleep(0.02)
        raise Refused("not ready in time\n" + self.said())

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
                sock.sendall(b"OPTIONS * HTTP/1.1\r\nhost: llm.test\r\nconnection: close\r\n\r\n")
                return sock.recv(12).startswith(b"HTTP/1.1")
        except OSError:
            return False

    def pids(self) -> list[int]:
        """The workers."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return sorted(map(int, children.split()))

    def resident_bytes(self) -> int:
        """What all workers hold in memory."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def reload(self) -> None:
        """Starts the configuration anew: new workers, while the old ones end their calls."""
        before = set(self.pids())
        self.ask_to_reload()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if len(new := set(self.pids()) - before) >= self.workers:
                self.first_pids = sorted(new)
                return
            time.sleep(0.02)
        raise AssertionError("no new workers")

    def crashed(self) -> list[int]:
        """Workers that are gone."""
        return sorted(set(self.first_pids) - set(self.pids()))


class Gateway(Proxy):
    """One proxy under test. A call's outcome is what the module tells the client."""

    @property
    def server(self) -> Server:
        return self.host

    def told(self, reply) -> dict:
        """What `x-anyray-optimization` says (`decisions_header: always`)."""
        value = reply.headers.get("x-anyray-optimization")
        return json.loads(value) if value else {}

    def outcome(self, reply) -> str | None:
        told = self.told(reply)
        return ":".join(filter(None, (told.get("status"), told.get("reason")))) or None

    def broken(self) -> list[str]:
        """Everything that must not be: lines of the log since the last time, and lost workers."""
        lines = [line for line in self.new_log_lines() if any(sign in line for sign in BROKEN)
                 and not any(sign in line for sign in self.server.HARMLESS)]
        gone = self.server.crashed() if self.server.pid is not None else []
        self.server.first_pids = [pid for pid in self.server.first_pids if pid not in gone]
        return lines + [f"worker {pid} is gone" for pid in gone]


class Gateways:
    """Proxies by their set-up: tests that need the same one share it."""

    def __init__(self, server: type[Server], old: bool, provider, directory: Path):
        self.server, self.old, self.provider, self.directory = server, old, provider, directory
        self.running: dict[str, Gateway] = {}
        self.count = 0

    def start(self, setup: Setup, provider_port: int | None = None) -> Gateway:
        """A new proxy; raises `Refused` where it does not start."""
        if self.old and setup.prepare == UNPREPARED:
            raise Cannot("so old a runtime forgets calls whose body comes after their head and that Lua has not read")
        if setup.module is not None and not WASM.exists():
            raise FileNotFoundError(f"{WASM} is missing: run `make build` first")
        self.count += 1
        server = self.server(setup, provider_port or self.provider.port, self.directory / str(self.count))
        gateway = Gateway(server)
        self.running[f"{setup.key} {self.count}"] = gateway
        return gateway

    def get(self, setup: Setup) -> Gateway:
        for key, gateway in self.running.items():
            if key.startswith(setup.key + " "):
                return gateway
        return self.start(setup)

    def stop(self) -> None:
        for gateway in self.running.values():
            gateway.server.stop()
