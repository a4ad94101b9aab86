"""The program that the suite runs on, and one running proxy for each set-up that tests share."""

from __future__ import annotations

from typing import Iterator

import pytest

pytest_plugins = ["kit.fixtures"]
pytest.register_assert_rewrite("gateway")

from kit.optimizer import Optimizer
from kit.proxy import HTTP1, HTTP2

import kong
import nginx
from gateway import Gateway, Gateways, Setup

MISSING = (
    "not tested: the module in Kong. This suite needs a Kong with Wasm, or an nginx with ngx_wasm_module "
    "(make test-kong KONG=/path/to/kong, or NGINX=/path/to/nginx); nothing here says that the module works there"
)
PROGRAM = kong if kong.BINARY else nginx


def pytest_configure(config) -> None:
    chosen = [program for program in (kong, nginx) if program.BINARY]
    if not chosen:
        pytest.exit(MISSING, returncode=2)
    if len(chosen) > 1:
        pytest.exit("not tested: the module in Kong. KONG= or NGINX=, not both", returncode=2)
    if why := chosen[0].missing():
        pytest.exit(f"not tested: the module in Kong. {why}", returncode=2)


class Module:
    """Configurations of the module for the scripted optimizer."""

    def __init__(self, optimizer: Optimizer, old: bool):
        self.optimizer = optimizer
        self.on_kong = {"transform": True} | ({"metrics": False} if old else {})

    def __call__(self, **members) -> dict:
        """What every test here wants, and these members."""
        to = {"upstream": f"127.0.0.1:{self.optimizer.port}", "timeout_ms": 10000}
        to |= members.pop("optimizer", {})
        on_kong = self.on_kong | members.pop("kong", {})
        # Many tests break the optimizer on purpose; only the breaker's own tests want it to open.
        return {"optimizer": to, "breaker": {"failures": 0}, "decisions_header": "always", "kong": on_kong} | members


@pytest.fixture(scope="session")
def gateways(provider_service, tmp_path_factory) -> Iterator[Gateways]:
    server = kong.Kong if PROGRAM is kong else nginx.Nginx
    started = Gateways(server, PROGRAM.is_old(), provider_service, tmp_path_factory.mktemp("proxies"))
    yield started
    started.stop()
    for gateway in started.running.values():
        assert gateway.broken() == [], "at the end"


@pytest.fixture(autouse=True)
def whole_workers(clean_slate, gateways) -> Iterator[None]:
    """No test may cost a worker."""
    yield
    for gateway in gateways.running.values():
        assert gateway.broken() == []


@pytest.fixture
def module(optimizer_service, gateways) -> Module:
    return Module(optimizer_service, gateways.old)


@pytest.fixture
def prepared(gateways, module) -> Gateway:
    """The shipped example: the Lua step, and transforms switched on."""
    return gateways.get(Setup(module()))


@pytest.fixture(params=[HTTP1, HTTP2], ids=["over HTTP/1.1", "over HTTP/2"])
def http(request) -> str:
    return request.param
