"""Envoy's bootstrap configuration for one configuration of the module."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1 << 20

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/envoy/envoy.yaml"


def shipped_labels() -> list[dict]:
    """The rules of the shipped example that turn parts of the metrics' names into labels."""
    rule = re.compile(r"- \{ tag_name: (\w+), regex: '(.+)' \}")
    found = rule.findall(EXAMPLE.read_text())
    assert found, f"no stats_tags in {EXAMPLE}"
    return [{"tag_name": name, "regex": regex} for name, regex in found]


@dataclass
class Setup:
    """What differs between the Envoys of the suite."""

    # The module's configuration; None leaves the filter out.
    module: dict | None
    # What the host may buffer; None leaves Envoy's default, 1 MiB.
    buffer_bytes: int | None = None
    concurrency: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    # Whether the filter sees the bodies of requests whose headers it holds.
    holds_headers: bool = True
    # How much Envoy tells of the module and of what it calls.
    log_level: str = "debug"

    @property
    def key(self) -> str:
        return json.dumps(self.__dict__, sort_keys=True)


def bootstrap(setup: Setup, wasm: str, optimizer_port: int, provider_port: int, access_log: str) -> dict:
    provider = ("127.0.0.1", provider_port)
    listener = {
        "name": "llm",
        "address": _address("127.0.0.1", 0),
        "filter_chains": [{"filters": [_connection_manager(setup, wasm, access_log)]}],
    }
    return {
        "admin": {"address": _address("127.0.0.1", 0)},
        # Histograms show only what was flushed.
        "stats_flush_interval": "1s",
        "stats_config": {"stats_tags": shipped_labels()},
        "static_resources": {
            "listeners": [listener],
            "clusters": [
                _cluster("provider", provider),
                _cluster("provider_b", provider),
                _cluster("provider_h2", provider, http2=True),
                _cluster("provider_gone", ("127.0.0.1", 1)),
                _cluster("optimizer", ("127.0.0.1", optimizer_port)),
                _cluster("optimizer_h2", ("127.0.0.1", optimizer_port), http2=True),
                _cluster("optimizer_without_hosts", None),
                _cluster("optimizer_without_room", ("127.0.0.1", optimizer_port), room=False),
            ],
        },
    }


def _address(host: str, port: int) -> dict:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, at, http2: bool = False, room: bool = True) -> dict:
    protocol = {"http2_protocol_options": {}} if http2 else {
        "http_protocol_options": {"enable_trailers": True}
    }
    endpoints = [{"endpoint": {"address": _address(*at)}}] if at else []
    cluster = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            }
        },
    }
    if not room:
        cluster["circuit_breakers"] = {"thresholds": [{
            "max_connections": 0, "max_pending_requests": 0, "max_requests": 0,
        }]}
    return cluster


def _connection_manager(setup: Setup, wasm: str, access_log: str) -> dict:
    host: dict[str, Any] = {"name": "llm", "domains": ["*"], "routes": [
        _route("/b/", "provider_b"),
        _route("/h2/", "provider_h2"),
        _route("/gone/", "provider_gone"),
        _route("/retry/", "provider", retry_policy={"retry_on": "5xx", "num_retries": 2}),
        {"match": {"prefix": "/direct/"}, "direct_response": {
            "status": 200, "body": {"inline_string": json.dumps({"choices": [], "id": "direct"})},
        }, "response_headers_to_add": [{"header": {
            "key": "content-type", "value": "application/json",
        }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]},
        _route("/", "provider"),
    ]}
    if setup.buffer_bytes:
        # The listener's own limit does not hold for HTTP/2, whose stream window is another one.
        host["request_body_buffer_limit"] = setup.buffer_bytes
    filters = [] if setup.module is None else [_module(setup, wasm)]
    filters.append({
        "name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    })
    return {
        "name": "http",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network"
                     ".http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "llm",
            "codec_type": "AUTO",
            "http_protocol_options": {"enable_trailers": True},
            "stream_idle_timeout": "10s",
            # A client of the kit waits for the end of a broken connection.
            "delayed_close_timeout": "0.1s",
            "access_log": [_access_log(access_log)],
            "http_filters": filters,
            "route_config": {"virtual_hosts": [host]},
        },
    }


def _route(prefix: str, cluster: str, **more: Any) -> dict:
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "12s"} | more}


def _access_log(path: str) -> dict:
    return {
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": {
                "case": "%REQ(X-CASE)%",
                "status": "%RESPONSE_CODE%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "outcome": "%FILTER_STATE(wasm.optimizer_outcome:PLAIN)%",
                "response": "%FILTER_STATE(wasm.optimizer_response:PLAIN)%",
                "input_tokens": "%FILTER_STATE(wasm.gen_ai.usage.input_tokens:PLAIN)%",
                "output_tokens": "%FILTER_STATE(wasm.gen_ai.usage.output_tokens:PLAIN)%",
            }},
        },
    }


def _module(setup: Setup, wasm: str) -> dict:
    return {
        "name": "optimizer",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "optimizer",
                "allow_on_headers_stop_iteration": setup.holds_headers,
                "failure_policy": "FAIL_RELOAD",
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": json.dumps(setup.module),
                },
                "vm_config": {
                    "vm_id": "optimizer",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": wasm}},
                    "environment_variables": {"key_values": setup.environment},
                },
            },
        },
    }
