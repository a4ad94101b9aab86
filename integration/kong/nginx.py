"""An nginx with the runtime and Lua, without Kong: examples/kong/nginx.conf."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from kit.child import die_with_parent, stop
from kit.proxy import WASM, Cannot

from gateway import Example, Place, Server, Setup, Step

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
STEPS = {
    Step.PREPARE: PREPARE,
    Step.READ_ONLY: "access_by_lua_block { ngx.req.read_body() }",
    Step.UNPREPARED: "",
    Step.IN_REWRITE: PREPARE.replace("access_by", "rewrite_by"),
}


@functools.cache
def is_old() -> bool:
    """Whether the runtime is of before the summer of 2024, when it learned metrics."""
    return b"max_metric_name_length" not in Path(shutil.which(BINARY)).read_bytes()


def missing() -> str | None:
    """Why the suite cannot run on this binary."""
    if not shutil.which(BINARY):
        return f"no such program: {BINARY}"
    said = subprocess.run([BINARY, "-V"], capture_output=True, text=True).stderr
    return None if "wasm" in said else f"{BINARY} has no ngx_wasm_module in it"


def filter_of(name: str, module: dict) -> str:
    text = json.dumps(module).replace("\\", "\\\\").replace("'", "\\'")
    return f"proxy_wasm {name} '{text}';\n"


def location(place: Place) -> str:
    answer = f"return 200 '{place.answer}';" if place.answer else "proxy_http_version 1.1; proxy_pass http://provider;"
    step = "" if place.answer else PREPARE
    return (f"location {place.path}/ {{ proxy_wasm_request_headers_in_access on; {step} "
            f"{filter_of('optimizer', place.module)} {answer} }}\n")


def configuration(setup: Setup, port: int, provider_port: int) -> str:
    """The example's text for this set-up."""
    example = Example("nginx.conf")

    def put(begin: str, directives: dict[str, str]) -> None:
        """In place of the example's own, or at the begin of their block."""
        for name, value in directives.items():
            line = f"{name} {value}" + ("" if value.endswith("}") else ";")
            own = re.search(rf"^ *{name} .*;$", example.text, re.M)
            if own:
                example.put(own[0] + "\n", line + "\n")
            else:
                example.after(begin, line + "\n")

    resolver = {"resolver": setup.resolver, "resolver_timeout": "1s"} if setup.resolver else {}
    example.put("worker_processes  auto;", f"worker_processes  {setup.workers};")
    example.put("logs/error.log warn;", f"logs/error.log {setup.log_level};")
    example.put("/usr/local/share/wasm/optimizer.wasm;", f"{WASM.resolve()};")
    example.put("server     127.0.0.1:8089;", f"server     127.0.0.1:{provider_port};")
    example.put("listen  127.0.0.1:10000;", f"listen  127.0.0.1:{port};")
    if not setup.keepalive:
        example.put("keepalive  32;", "")
    example.put(PREPARE, STEPS[setup.prepare])
    [own] = re.findall(r"proxy_wasm  optimizer  '.*?';", example.text, re.S)
    example.put_filters(setup, own, own, filter_of)
    if setup.before is not None:
        example.after("wasm {\n", f"module other {WASM.resolve()};\n")
    example.after("http2   on;\n", "".join(map(location, setup.places)))
    put("wasm {\n", setup.wasm | resolver)
    lua = {"lua_package_path": f'"{LUA_PATH};;"'} if LUA_PATH else {}
    if is_old():
        # Newer ones see to it themselves that Lua is asked before the module.
        lua |= {"access_by_lua_no_postpone": "on", "rewrite_by_lua_no_postpone": "on"}
    put("http {\n", setup.http | resolver | lua)
    put("location / {\n", setup.proxy)
    return example.text


class Nginx(Server):
    GIVEN_UP = ("cannot be respawned",)
    process: subprocess.Popen | None = None

    def configure(self, setup: Setup, provider_port: int) -> None:
        file = self.directory / "nginx.conf"
        file.write_text(configuration(setup, self.port, provider_port))

    def start(self) -> None:
        # Started by root, its workers would be somebody who may not write here.
        user = "user root; " if os.geteuid() == 0 else ""
        with (self.directory / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [BINARY, "-p", str(self.directory), "-c", "nginx.conf", "-g", f"{user}daemon off;"],
                stdout=stderr, stderr=stderr, env=self.environment, preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None

    def said(self) -> str:
        said = (self.directory / "stderr").read_text(errors="replace") + super().said()
        if unknown := re.search(r'unknown directive "(\w+)"', said):
            raise Cannot(f"this version of the runtime has no {unknown[1]}")
        return said

    def ask_to_reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self.process:
            stop(self.process)
