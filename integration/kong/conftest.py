"""The scripted services of the end-to-end suite, and an nginx for each set-up that tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from typing import Iterator

import pytest

pytest.register_assert_rewrite("kit", "nginx")

from kit.dialects import CHAT
from kit.optimizer import OPTIMIZE, Optimizer, says
from kit.provider import Provider
from kit.proxy import HTTP1, HTTP2

from nginx import BINARY, Gateway, Gateways, Setup

MISSING = (
    "not tested: Kong. This suite needs an nginx with ngx_wasm_module "
    "(make test-kong NGINX=/path/to/nginx); nothing here says that the module works there"
)


def pytest_configure(config) -> None:
    if not BINARY:
        pytest.exit(MISSING, returncode=2)
    if not shutil.which(BINARY):
        pytest.exit(f"not tested: Kong. No such program: {BINARY}", returncode=2)
    said = subprocess.run([BINARY, "-V"], capture_output=True, text=True).stderr
    if "ngx_wasm" not in said and "wasm" not in said:
        pytest.exit(f"not tested: Kong. {BINARY} has no ngx_wasm_module in it", returncode=2)


class Module:
    """Configurations of the module for the scripted optimizer."""

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer

    def __call__(self, **members) -> dict:
        """What every test here wants, and these members."""
        to = {"upstream": f"127.0.0.1:{self.optimizer.port}", "timeout_ms": 10000}
        to |= members.pop("optimizer", {})
        # Many tests break the optimizer on purpose; only the breaker's own tests want it to open.
        return {"optimizer": to, "breaker": {"failures": 0}, "decisions_header": "always",
                "kong": {"transform": True}} | members


@pytest.fixture(scope="session")
def optimizer_service() -> Iterator[Optimizer]:
    service = Optimizer()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def provider_service() -> Iterator[Provider]:
    service = Provider()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def gateways(provider_service, tmp_path_factory) -> Iterator[Gateways]:
    started = Gateways(provider_service, tmp_path_factory.mktemp("nginxes"))
    yield started
    started.stop()
    for gateway in started.running.values():
        assert gateway.broken() == [], "at the end"


@pytest.fixture(autouse=True)
def clean_slate(optimizer_service, provider_service, gateways) -> Iterator[None]:
    """Scripts and records begin empty; no test may cost a worker or break the wire's framing."""
    optimizer_service.reset()
    provider_service.reset()
    yield
    assert provider_service.malformed == [], "surplus bytes on a connection to the provider"
    assert optimizer_service.malformed == [], "surplus bytes on a connection to the optimizer"
    for gateway in gateways.running.values():
        assert gateway.broken() == []


@pytest.fixture
def module(optimizer_service) -> Module:
    return Module(optimizer_service)


@pytest.fixture
def optimizer(optimizer_service) -> Optimizer:
    return optimizer_service


@pytest.fixture
def provider(provider_service) -> Provider:
    return provider_service


@pytest.fixture
def prepared(gateways, module) -> Gateway:
    """The shipped example: the Lua step, and transforms switched on."""
    return gateways.get(Setup(module()))


@pytest.fixture(params=[HTTP1, HTTP2], ids=["over HTTP/1.1", "over HTTP/2"])
def http(request) -> str:
    return request.param


@pytest.fixture
def key() -> str:
    """A caller's key that no other test has used."""
    return f"sk-{uuid.uuid4().hex}"


@pytest.fixture
def cache_key() -> str:
    """A cache key that no other test has used."""
    return f"ck-{uuid.uuid4().hex}"
