"""What is compared: each variant is one way of running Envoy, or a wasi:http host in its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.envoy_config import MIB, Setup, bootstrap

HERE = Path(__file__).parents[1]
CHAT, OTHER = "/v1/chat/completions", "/v1/files"
STREAM, OTHER_STREAM = f"/stream{CHAT}", f"/stream{OTHER}"
BUFFER_BYTES = 32 * MIB


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    title: str
    # Which Envoy or other host: variants that differ in the path alone share one.
    host: str
    path: str = CHAT
    # Callouts for each call, by the path at the optimizer.
    callouts: tuple[str, ...] = ()
    # Whether what the provider gets, and what the client gets, is the optimizer's.
    changes_request: bool = False
    changes_answer: bool = False
    reaches_provider: bool = True
    streams: bool = False


BOTH = ("/v1/optimize", "/v1/optimize-response")
VARIANTS = [
    Variant("bare", "bare Envoy", "bare"),
    Variant("noop", "no-op Wasm filter", "noop"),
    Variant("left_alone", "module, a path it leaves alone", "request", path=OTHER),
    Variant("request", "module, request hook", "request",
            callouts=BOTH[:1], changes_request=True),
    Variant("both", "module, request and response hook", "both",
            callouts=BOTH, changes_request=True, changes_answer=True),
    Variant("hit", "module, cache hit", "hit", callouts=("/hit/v1/optimize",), reaches_provider=False),
    Variant("callout_request", "bare Wasm, request (no JSON)", "callout_request",
            callouts=("/raw/optimize",), changes_request=True),
    Variant("callout_both", "bare Wasm, request and response (no JSON)", "callout_both",
            callouts=("/raw/optimize", "/raw/optimize-response"),
            changes_request=True, changes_answer=True),
    Variant("lua_request", "Lua, request (no JSON)", "lua_request",
            callouts=("/raw/optimize",), changes_request=True),
    Variant("lua_both", "Lua, request and response (no JSON)", "lua_both",
            callouts=("/raw/optimize", "/raw/optimize-response"),
            changes_request=True, changes_answer=True),
    Variant("ext_proc_request", "ext_proc, request", "ext_proc_request",
            callouts=BOTH[:1], changes_request=True),
    Variant("ext_proc_both", "ext_proc, request and response", "ext_proc_both",
            callouts=BOTH, changes_request=True, changes_answer=True),
    Variant("wasi_request", "component in wasmtime, request hook", "wasi_request",
            callouts=BOTH[:1], changes_request=True),
]
STREAMS = [
    Variant("bare", "bare Envoy", "bare", path=STREAM, streams=True),
    Variant("noop", "no-op Wasm filter", "noop", path=STREAM, streams=True),
    Variant("left_alone", "module, a path it leaves alone", "stream", path=OTHER_STREAM, streams=True),
    Variant("request", "module, request hook, read along", "stream", path=STREAM, streams=True,
            callouts=("/stream/v1/optimize",), changes_request=True),
]

# Configurations of the module; ext_proc and the component run the same.
MODULE = {"optimizer": {"upstream": "optimizer"}, "limits": {"host_buffer_bytes": BUFFER_BYTES}}
REQUEST = MODULE | {"hooks": {"response": False}}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "request": REQUEST,
    "both": MODULE,
    "hit": MODULE | {
        "optimizer": {"upstream": "optimizer", "path_prefix": "/hit"},
        # The first call proves the caller for as long as the benchmark takes.
        "cache": {"proof_seconds": 86400},
    },
    "stream": MODULE | {"optimizer": {"upstream": "optimizer", "path_prefix": "/stream"}},
}


@dataclass(frozen=True)
class Places:
    """Where everything is."""

    module: Path
    noop: Path
    callout: Path
    optimizer: int
    provider: int
    # Ports of ext_proc servers, by the module's configuration.
    ext_proc: dict[str, int]


def config(envoy: str, places: Places) -> dict[str, Any]:
    """Envoy's bootstrap configuration."""
    setup = Setup(CONFIGURATIONS.get(envoy), buffer_bytes=BUFFER_BYTES)
    found = bootstrap(setup, str(places.module), places.optimizer, places.provider, "/dev/null")
    del found["stats_flush_interval"]
    resources = found["static_resources"]
    resources["clusters"] = [
        cluster for cluster in resources["clusters"] if cluster["name"] in ("provider", "optimizer")
    ]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["access_log"] = []
    host = manager["route_config"]["virtual_hosts"][0]
    host["routes"] = host["routes"][-1:]
    kind, _, hooks = envoy.rpartition("_")
    if envoy == "noop":
        manager["http_filters"].insert(0, _wasm("noop", places.noop))
    elif kind == "callout":
        manager["http_filters"].insert(0, _wasm("callout", places.callout, hooks))
    elif kind == "lua":
        manager["http_filters"].insert(0, _lua(hooks))
    elif kind == "ext_proc":
        manager["http_filters"].insert(0, _ext_proc(hooks))
        resources["clusters"].append(_grpc_cluster(places.ext_proc[hooks]))
    return found


def component(hooks: str, places: Places) -> dict[str, Any]:
    """The component's configuration for what the module does with `CONFIGURATIONS[hooks]`."""
    module = CONFIGURATIONS[hooks]
    return module | {
        "optimizer": module["optimizer"] | {"upstream": f"127.0.0.1:{places.optimizer}"},
        "provider": f"http://127.0.0.1:{places.provider}",
    }


def _filter(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {
        "@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}", **more,
    }}


def _wasm(name: str, wasm: Path, configuration: str = "") -> dict[str, Any]:
    return _filter(name, "wasm.v3.Wasm", config={
        "name": name,
        "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": configuration},
        "allow_on_headers_stop_iteration": True,
        "failure_policy": "FAIL_RELOAD",
        "vm_config": {
            "vm_id": name,
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": str(wasm)}},
        },
    })


def _lua(hooks: str) -> dict[str, Any]:
    files = ["request.lua", "response.lua"] if hooks == "both" else ["request.lua"]
    code = "\n".join((HERE / "lua" / file).read_text() for file in files)
    return _filter("lua", "lua.v3.Lua", default_source_code={"inline_string": code})


def _ext_proc(hooks: str) -> dict[str, Any]:
    both = hooks == "both"
    return _filter(
        "ext_proc", "ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "ext_proc"}, "timeout": "5s"},
        message_timeout="5s",
        failure_mode_allow=False,
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "response_header_mode": "SEND" if both else "SKIP",
            "response_body_mode": "BUFFERED" if both else "NONE",
            "request_trailer_mode": "SKIP",
            "response_trailer_mode": "SKIP",
        },
    )


def _grpc_cluster(port: int) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": "ext_proc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "ext_proc", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address}}]},
        ]},
        "typed_extension_protocol_options": {options: {
            "@type": f"type.googleapis.com/{options}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
    }
