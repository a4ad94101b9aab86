"""A wrong configuration: Envoy refuses to start, with one line that names what is wrong."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from kit.envoy import Refused
from kit.envoy_config import Setup
from kit.proxy import Proxies

UPSTREAM = {"upstream": "optimizer"}
WRONG = {
    "nothing": ({}, "optimizer"),
    "no upstream": ({"optimizer": {}}, "optimizer.upstream"),
    "an empty upstream": ({"optimizer": {"upstream": ""}}, "optimizer.upstream"),
    "a member nobody knows": ({"optimizer": UPSTREAM, "optimiser": {}}, "optimiser"),
    "a hook that is no boolean": (
        {"optimizer": UPSTREAM, "hooks": {"cache": "yes"}}, "hooks.cache"),
    "a time-out out of range": (
        {"optimizer": UPSTREAM | {"timeout_ms": 60001}}, "optimizer.timeout_ms"),
    "a limit as text": (
        {"optimizer": UPSTREAM, "limits": {"request_bytes": "8MB"}}, "limits.request_bytes"),
    "a buffer that is too small": (
        {"optimizer": UPSTREAM, "limits": {"host_buffer_bytes": 1000}},
        "limits.host_buffer_bytes"),
    "an endpoint that is none": (
        {"optimizer": UPSTREAM, "endpoints": {"/x": "/v1/chat"}}, "endpoints./x"),
    "an attribution without a source": (
        {"optimizer": UPSTREAM, "attribution": {"user": {}}}, "attribution.user"),
    "an attribution with two sources": (
        {"optimizer": UPSTREAM, "attribution": {"user": {"header": "a", "property": ["b"]}}},
        "attribution.user"),
    "a scope that is no attribution": (
        {"optimizer": UPSTREAM, "cache": {"scope": "team"}}, "cache.scope"),
    "two tokens": (
        {"optimizer": UPSTREAM | {"token": "canary-token", "token_env": "T"}}, "optimizer.token"),
    "a token with a line break": (
        {"optimizer": UPSTREAM | {"token": "canary-token\r\nx: y"}}, "optimizer.token"),
    "a token in a variable that is not set": (
        {"optimizer": UPSTREAM | {"token_env": "NO_SUCH_VARIABLE"}}, "optimizer.token_env"),
}


@pytest.fixture(scope="module")
def refusals(optimizer_service, provider_service, tmp_path_factory) -> dict[str, str]:
    """The log of every Envoy with a wrong configuration, two at a time."""
    proxies = Proxies(optimizer_service, provider_service, tmp_path_factory.mktemp("wrong"))

    def log_of(configuration: dict) -> str:
        try:
            proxy = proxies.start(Setup(configuration))
        except Refused as refused:
            return str(refused)
        proxy.host.stop()
        return "Envoy started"

    with ThreadPoolExecutor(2) as pool:
        logs = pool.map(log_of, (configuration for configuration, _ in WRONG.values()))
        return dict(zip(WRONG, logs))


@pytest.mark.parametrize("name", WRONG)
def test_envoy_refuses(refusals, name):
    log, path = refusals[name], WRONG[name][1]
    telling = [line for line in log.splitlines() if "configuration: " in line]
    assert len(telling) == 1, log
    assert path in telling[0]
    assert "canary-token" not in log
    assert "panicked" not in log
