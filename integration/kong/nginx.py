"""A real nginx with Kong's Wasm runtime: examples/kong/nginx.conf, changed where a test wants."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from kit.envoy import LIBC, PR_SET_PDEATHSIG
from kit.proxy import WASM, Proxy

EXAMPLE = Path(__file__).parents[2] / "examples/kong/nginx.conf"
BINARY = os.environ.get("NGINX", "")
# Where Lua finds `resty.core`, for a binary that does not know itself.
LUA_PATH = os.environ.get("NGINX_LUA_PATH", "")

PREPARE = """access_by_lua_block {
                ngx.req.read_body()
                local body = ngx.req.get_body_data()
                if body then
                    ngx.req.set_body_data(body)
                end
            }"""
# What goes wrong easily: the body is read, and stays where nginx put it.
READ_ONLY = "access_by_lua_block { ngx.req.read_body() }"
UNPREPARED = ""

# A worker that crashed, a module that trapped or panicked, and what nginx says of itself.
BROKEN = ("exited on signal", "exited with fatal", "trap", "panick", "[alert]", "[crit]", "[emerg]",
          "NYI", "failed resuming", "AddressSanitizer")
# Said of an optimizer's socket that is not there.
HARMLESS = ("connect() to unix:",)


class Refused(Exception):
    """nginx did not start; carries its log."""


@dataclass
class Setup:
    """What differs between the nginxes of the suite."""

    # The module's configuration; None leaves the filter out.
    module: dict | None
    # The step before the module, in nginx's words.
    prepare: str = PREPARE
    workers: int = 1
    body_buffer: str = "1m"
    # More of nginx's directives, by where they stand.
    wasm: str = ""
    http: str = ""
    server: str = ""
    location: str = ""
    # Replacements in the example's text.
    instead: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    log_level: str = "info"

    @property
    def key(self) -> str:
        return json.dumps(self.__dict__, sort_keys=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def quoted(module: dict) -> str:
    text = json.dumps(module).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def configuration(setup: Setup, port: int, provider_port: int, directory: Path) -> str:
    """The example's text for this set-up. Everything that is replaced must be there."""
    text = EXAMPLE.read_text()

    def put(old: str, new: str) -> None:
        nonlocal text
        assert text.count(old) == 1, f"{EXAMPLE}: not once: {old}"
        text = text.replace(old, new)

    put("worker_processes  auto;", f"worker_processes  {setup.workers};")
    put("logs/error.log warn;", f"logs/error.log {setup.log_level};")
    put("/usr/local/share/wasm/optimizer.wasm;", f"{WASM.resolve()};\n{setup.wasm}")
    put("client_body_buffer_size  1m;", f"client_body_buffer_size  {setup.body_buffer};")
    put("127.0.0.1:8089;", f"127.0.0.1:{provider_port};")
    put("listen  127.0.0.1:10000;", f"listen  127.0.0.1:{port};\n{setup.server}")
    put(PREPARE, setup.prepare)
    wasm = re.search(r"proxy_wasm  optimizer  '.*?';", text, re.S)
    assert wasm, f"{EXAMPLE}: no proxy_wasm"
    put(wasm[0], "" if setup.module is None else f"proxy_wasm  optimizer  {quoted(setup.module)};")
    put("            proxy_http_version  1.1;", f"{setup.location}\n            proxy_http_version  1.1;")
    access = (r"""log_format calls escape=json '{"case":"$http_x_case","status":$status}'; """
              f"access_log {directory}/access.log calls;")
    lua = f'lua_package_path "{LUA_PATH};;";' if LUA_PATH else ""
    put("http {\n", f"http {{\n{access}\n{lua}\n{setup.http}\n")
    for old, new in setup.instead.items():
        put(old, new)
    return text


class Nginx:
    """One running nginx on a free port."""

    def __init__(self, setup: Setup, provider_port: int, directory: Path):
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log, self.access_log = directory / "logs/error.log", directory / "access.log"
        self.log.touch()
        self.access_log.touch()
        file = directory / "nginx.conf"
        file.write_text(configuration(setup, self.port, provider_port, directory))
        environment = os.environ | {"OPTIMIZER_TOKEN": "token-of-the-example"} | setup.environment
        # To nginx this is a list of sockets that it inherits.
        del environment["NGINX"]
        # Started by root, its workers would be somebody who may not write here.
        user = "user root; " if os.geteuid() == 0 else ""
        with (directory / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [BINARY, "-p", str(directory), "-c", str(file), "-g", f"{user}daemon off;"],
                stdout=stderr, stderr=stderr, env=environment,
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        self.workers = setup.workers
        try:
            self._wait_until_ready(directory / "stderr")
        except BaseException:
            self.stop()
            raise
        self.first_pids = self.pids()

    def _wait_until_ready(self, stderr: Path, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            said = self.log.read_text(errors="replace")
            if self.process.poll() is not None or "cannot be respawned" in said:
                raise Refused(stderr.read_text(errors="replace") + said)
            # The sockets listen before the workers have loaded the module.
            if len(self.pids()) >= self.workers and self._answers():
                return
            time.sleep(0.02)
        raise Refused("not ready in time\n" + self.log.read_text(errors="replace"))

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
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
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
        self.process.send_signal(signal.SIGHUP)
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

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Gateway(Proxy):
    """One nginx under test. A call's outcome is what the module tells the client."""

    @property
    def nginx(self) -> Nginx:
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
                 and not any(sign in line for sign in HARMLESS)]
        gone = self.nginx.crashed() if self.nginx.process.poll() is None else []
        self.nginx.first_pids = [pid for pid in self.nginx.first_pids if pid not in gone]
        return lines + [f"worker {pid} is gone" for pid in gone]


class Gateways:
    """nginxes by their set-up: tests that need the same one share it."""

    def __init__(self, provider, directory: Path):
        self.provider, self.directory = provider, directory
        self.running: dict[str, Gateway] = {}
        self.count = 0

    def start(self, setup: Setup) -> Gateway:
        """A new nginx; raises `Refused` where it does not start."""
        if setup.module is not None and not WASM.exists():
            raise FileNotFoundError(f"{WASM} is missing: run `make build` first")
        self.count += 1
        gateway = Gateway(Nginx(setup, self.provider.port, self.directory / f"nginx-{self.count}"))
        self.running[f"{setup.key} {self.count}"] = gateway
        return gateway

    def get(self, setup: Setup) -> Gateway:
        for key, gateway in self.running.items():
            if key.startswith(setup.key + " "):
                return gateway
        return self.start(setup)

    def stop(self) -> None:
        for gateway in self.running.values():
            gateway.nginx.stop()
