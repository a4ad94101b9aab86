"""The stage: provider, optimizer and Envoy on this machine, and how to look into them."""

import contextlib
import ctypes
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import httpx

ROOT = Path(__file__).resolve().parents[2]


class Failure(Exception):
    """Ends the demo with a message; the ends of these processes' logs are shown with it."""

    def __init__(self, message, *processes):
        super().__init__(message)
        self.processes = processes


def die_with_parent():
    """The child goes when this program goes, also when that is killed outright."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Process:
    """A program with its output in files and in a session of its own: a Ctrl-C in the terminal
    reaches only the demo, which then stops its processes in order."""

    def __init__(self, name, command, logs, env=None):
        self.name = name
        self.out = logs / f"{name}.out"
        self.log = logs / f"{name}.log"
        with self.out.open("wb") as out, self.log.open("wb") as err:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def wait_for(self, ready, seconds=60):
        """Polls until `ready` gives something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            if value := ready():
                return value
            time.sleep(0.02)
        raise Failure(f"{self.name} was not ready within {seconds} s", self)

    def address(self):
        """The address on which the program says it listens."""
        pattern = re.compile(r"^listening on http://(\S+)$", re.MULTILINE)
        return self.wait_for(lambda: pattern.search(self.out.read_text()))[1]

    def check(self):
        if self.child.poll() is not None:
            raise Failure(f"{self.name} ended with status {self.child.returncode}", self)

    def tail(self, lines=15):
        text = self.log.read_text(errors="replace") or self.out.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()


@dataclass
class Provider:
    """Where the answers come from."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    own: bool = True  # the demo's own, which shows what it received

    @classmethod
    def real(cls, url):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failure(f"PROVIDER={url}: expected http(s)://host[:port][/prefix]")
        if not os.environ.get("DEMO_MODEL"):
            raise Failure("PROVIDER is set: say which model to ask for with DEMO_MODEL=…")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, prefix, own=False)


def envoy_config(provider, optimizer_port, listener_port, wasm):
    """examples/envoy/envoy.yaml with this run's addresses and paths in it."""
    authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
    # JSON strings are YAML strings, whatever is in them.
    changes = {
        "port_value: 10000": f"port_value: {listener_port}",
        "port_value: 9901": "port_value: 0",
        "port_value: 8088": f"port_value: {optimizer_port}",
        "address: 127.0.0.1, port_value: 8089": (
            f"address: {json.dumps(provider.host)}, port_value: {provider.port}"
        ),
        "filename: dist/optimizer.wasm": f"filename: {json.dumps(str(wasm))}",
        "filename: /etc/ssl/certs/ca-certificates.crt": f"filename: {json.dumps(authorities)}",
    }
    text = (ROOT / "examples/envoy/envoy.yaml").read_text()
    for old, new in changes.items():
        if text.count(old) != 1:
            raise Failure(f"examples/envoy/envoy.yaml must hold “{old}” exactly once")
        text = text.replace(old, new)
    return re.sub("^#tls ", "", text, flags=re.MULTILINE) if provider.tls else text


def free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Stage:
    """Everything that runs, with Envoy as the host. `programs` holds the paths optimizer, provider, envoy and wasm;
    `stack` stops what was started."""

    speaks_http2 = True

    def __init__(self, programs, logs, stack):
        self.programs, self.logs, self.stack = programs, logs, stack
        self.token = {"OPTIMIZER_TOKEN": secrets.token_hex(16)}
        self.provider_process = None
        if url := os.environ.get("PROVIDER"):
            self.provider = Provider.real(url)
        else:
            self.provider_process = self.start(
                "provider", [programs.provider, "--listen", "127.0.0.1:0"]
            )
            host, port = self.provider_process.address().rsplit(":", 1)
            self.provider = Provider(host, int(port))
        self.start_optimizer("127.0.0.1:0")
        self.start_host()

    def start(self, name, command, env=None):
        process = Process(name, command, self.logs, env)
        self.stack.callback(process.stop)
        return process

    def start_optimizer(self, address):
        config = ROOT / "examples/optimizer/optimizer.json"
        command = [self.programs.optimizer, "--listen", address, "--config", config]
        command += ["--token-env", *self.token]
        self.optimizer = self.start("optimizer", command, self.token)
        self.optimizer_address = self.optimizer.address()

    def restart_optimizer(self):
        """At its old address, where the host expects it."""
        self.start_optimizer(self.optimizer_address)

    def start_host(self):
        config, admin = self.logs / "envoy.yaml", self.logs / "admin"
        optimizer_port = self.optimizer_address.rsplit(":", 1)[1]
        listener_port = 10000 if free(10000) else 0
        config.write_text(
            envoy_config(self.provider, optimizer_port, listener_port, self.programs.wasm)
        )
        command = [self.programs.envoy, "-c", config, "--admin-address-path", admin]
        command += ["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning"]
        command += ["--file-flush-interval-msec", "100"]  # the access log is shown as it grows
        self.host = self.start("envoy", command, self.token)
        address = self.host.wait_for(lambda: admin.exists() and admin.read_text())
        self.admin = httpx.Client(base_url=f"http://{address}", trust_env=False)
        self.stack.callback(self.admin.close)
        self.host.wait_for(self.envoy_is_ready)
        listeners = self.admin.get("/listeners", params={"format": "json"}).json()
        bound = listeners["listener_statuses"][0]["local_address"]["socket_address"]
        self.url = f"http://{bound['address']}:{bound['port_value']}{self.provider.prefix}"

    def envoy_is_ready(self):
        # While it compiles the module, Envoy takes connections and says nothing.
        with contextlib.suppress(httpx.TransportError):
            return self.admin.get("/ready").status_code == 200

    def stat(self, name):
        """The sum of Envoy's counters whose names begin so."""
        params = {"filter": f"^{re.escape(name)}", "format": "json", "type": "Counters"}
        stats = self.admin.get("/stats", params=params).json()["stats"]
        return sum(stat.get("value", 0) for stat in stats)

    def counted(self, name):
        """What one of the module's counters says."""
        return self.stat(f"wasmcustom.{name}")

    def provider_requests(self):
        """How often the host called the provider."""
        return self.stat("cluster.provider.upstream_rq_total")

    def where_to_look(self):
        """What to tell who wants to see more."""
        return f"Metrics: {self.admin.base_url}/stats/prometheus"

    def further_calls(self, skip):
        """The access log, open, and how many of its lines to leave out."""
        return self.host.out.open(), skip

    def provider_calls(self):
        """How often the provider was called and, of the demo's own, the last body as it came."""
        if not self.provider.own:
            return self.provider_requests(), None
        url = f"http://{self.provider.host}:{self.provider.port}/demo/calls"
        text = httpx.get(url, trust_env=False).text
        _, found, rest = text.partition('"body":')
        return json.loads(text)["count"], rest.removesuffix("}}") if found else None

    def check(self):
        for process in (self.provider_process, self.optimizer, self.host):
            if process:
                process.check()
