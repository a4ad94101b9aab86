"""A Kong: examples/kong/kong.conf and kong.yml, without a database."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from kit.proxy import WASM, Cannot

from gateway import Example, Place, Server, Setup, Step

BINARY = os.environ.get("KONG", "")
META = Path(__file__).parents[2] / "schema/optimizer.meta.json"

READ = "local body = kong.request.get_raw_body()"
SET = f"""{READ}
        if body and body ~= "" then
          kong.service.request.set_raw_body(body)
        end
"""

# What Kong decides itself.
FIXED = {
    "proxy_http_version": "Kong speaks HTTP/1.1 to providers",
    "proxy_wasm_request_headers_in_access": "Kong runs filters after Lua, never before it",
    "proxy_wasm_isolation": "Kong always isolates filters in the same way",
    "metrics": "Kong has no settings for blocks inside of wasm {}",
}
# What Kong has on its routes instead.
OF_ROUTES = {"proxy_buffering": "response_buffering", "proxy_request_buffering": "request_buffering"}


def is_old() -> bool:
    """Whether its runtime is of before the summer of 2024, when it learned metrics."""
    said = subprocess.run([BINARY, "version"], capture_output=True, text=True).stdout
    return bool(re.match(r"3\.[4-7]\b", said))


def missing() -> str | None:
    """Why the suite cannot run on this program."""
    if not shutil.which(BINARY):
        return f"no such program: {BINARY}"
    ran = subprocess.run([BINARY, "version"], capture_output=True, text=True)
    return None if ran.returncode == 0 else f"{BINARY} version: {ran.stdout}{ran.stderr}"


def directives(setup: Setup) -> dict[str, str]:
    """Kong's settings for nginx's directives, by the block in which they stand."""
    settings = {}
    for block, wanted in (("wasm", setup.wasm), ("http", setup.http), ("proxy", setup.proxy)):
        for name, value in wanted.items():
            if why := FIXED.get(name):
                raise Cannot(why)
            zone, _, size = value.partition(" ")
            if name == "shm_kv":
                settings[f"nginx_wasm_shm_kv_{zone}"] = size
            elif name not in OF_ROUTES:
                settings[f"nginx_{block}_{name}"] = value
    return settings


def conf(setup: Setup, port: int, directory: Path) -> str:
    """The example's kong.conf for this set-up."""
    example = Example("kong.conf")
    settings = {
        "wasm_filters_path": f"{directory}/filters",
        "database": "off",
        "declarative_config": f"{directory}/kong.yml",
        "proxy_listen": f"127.0.0.1:{port} http2",
        "admin_listen": "off",
        "admin_gui_listen": "off",
        "status_listen": "off",
        "anonymous_reports": "off",
        "log_level": setup.log_level,
        "nginx_main_worker_processes": str(setup.workers),
    } | directives(setup)
    if os.geteuid() == 0:
        settings["nginx_main_user"] = "root root"
    if not setup.keepalive:
        settings["upstream_keepalive_pool_size"] = "0"
    if setup.resolver:
        settings["dns_resolver"] = setup.resolver
    for name, value in settings.items():
        own = re.search(rf"^{name} = .*$", example.text, re.M)
        if own:
            example.put(own[0], f"{name} = {value}")
        else:
            example.text += f"{name} = {value}\n"
    return example.text


def filter_of(name: str, module: dict) -> dict:
    return {"name": name, "config": module}


def service(place: Place, provider_port: int) -> dict:
    """JSON is YAML."""
    code = f"kong.response.exit(200, {json.dumps(place.answer)})" if place.answer else SET
    return {
        "name": place.path.strip("/"),
        "url": f"http://127.0.0.1:{provider_port}",
        "routes": [{"name": place.path.strip("/"), "paths": [place.path], "strip_path": False}],
        "plugins": [{"name": "pre-function", "config": {"access": [code]}}],
        "filter_chains": [{"filters": [filter_of("optimizer", place.module)]}],
    }


def declarative(setup: Setup, provider_port: int) -> str:
    """The example's kong.yml for this set-up."""
    example = Example("kong.yml")
    example.put("http://127.0.0.1:8089", f"http://127.0.0.1:{provider_port}")
    for name, member in OF_ROUTES.items():
        if name in setup.proxy:
            value = str(setup.proxy[name] == "on").lower()
            if member == "response_buffering":
                example.put("response_buffering: false", f"response_buffering: {value}")
            else:
                example.after("    strip_path: false\n", f"    {member}: {value}\n")
    [plugins] = re.findall(r"  plugins:\n.*?\n\n", example.text, re.S)
    match setup.prepare:
        case Step.READ_ONLY:
            example.put(SET, READ + "\n")
        case Step.UNPREPARED:
            example.put(plugins, "")
        case Step.IN_REWRITE:
            # Only plugins for all services run there.
            example.put(plugins, "")
            everywhere = {"name": "pre-function", "config": {"rewrite": [SET]}}
            example.text += f"\nplugins:\n- {json.dumps(everywhere)}\n"
    [chain] = re.findall(r"  filter_chains:\n.*?\n(?=\n|\Z)", example.text, re.S)
    [own] = re.findall(r"    - name: optimizer\n.*", chain, re.S)
    example.put_filters(setup, own, chain, lambda *named: f"    - {json.dumps(filter_of(*named))}\n")
    places = "".join(f"- {json.dumps(service(place, provider_port))}\n" for place in setup.places)
    example.after("services:\n", places)
    return example.text


class Kong(Server):
    GIVEN_UP = ("worker initialization error", "cannot be respawned")
    # Of the workers' connections to each other, where it is stopped while old workers end.
    HARMLESS = Server.HARMLESS + (" left in connection ", ": aborting")
    TAKES_HEADERS_OUT = False
    told = ""

    def configure(self, setup: Setup, provider_port: int) -> None:
        filters = self.directory / "filters"
        filters.mkdir()
        for name in ("optimizer", "other")[:1 if setup.before is None else 2]:
            (filters / f"{name}.wasm").symlink_to(WASM.resolve())
            (filters / f"{name}.meta.json").symlink_to(META)
        (self.directory / "kong.conf").write_text(conf(setup, self.port, self.directory))
        (self.directory / "kong.yml").write_text(declarative(setup, provider_port))

    def run(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run([BINARY, *command, "-p", str(self.directory)], env=self.environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)

    def start(self) -> None:
        ran = self.run("start", "-c", str(self.directory / "kong.conf"))
        self.told = ran.stdout
        # nginx goes into the background, where the command ends, and writes this down after it.
        deadline = time.monotonic() + 10
        while ran.returncode == 0 and not self._written_pid() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _written_pid(self) -> str:
        file = self.directory / "pids/nginx.pid"
        return file.read_text() if file.exists() else ""

    @property
    def pid(self) -> int | None:
        try:
            pid = int(self._written_pid())
            os.kill(pid, 0)
            return pid
        except (OSError, ValueError):
            return None

    def said(self) -> str:
        return self.told + super().said()

    def ask_to_reload(self) -> None:
        ran = self.run("reload", "-c", str(self.directory / "kong.conf"))
        assert ran.returncode == 0, ran.stdout

    def stop(self) -> None:
        if self.pid is None:
            return
        self.run("stop")
        deadline = time.monotonic() + 10
        while (pid := self.pid) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
