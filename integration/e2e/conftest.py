"""One host for each set-up that tests share."""

from __future__ import annotations

import uuid
from typing import Iterator

import pytest

pytest_plugins = ["kit.fixtures"]
pytest.register_assert_rewrite("kit")

import elsewhere
from kit.dialects import CHAT
from kit.envoy_config import MIB, Setup
from kit.optimizer import OPTIMIZE, says
from kit.proxy import HTTP1, HTTP2, ON, Proxies, Proxy
from kit.sdks import Sdks

# Generous, so that a slow machine is no fault; the tests of time-outs set their own.
PATIENT = {"upstream": "optimizer", "timeout_ms": 10000}
# Many tests break the optimizer on purpose; only the breaker's own tests want it to open.
NO_BREAKER = {"failures": 0}

# Signs of a module that broke, whatever the client got.
BROKEN = ("panicked", "trapped", "Uncaught RuntimeError", "already borrowed", "wasm trap", "Function: proxy_on")


# Last, when what is not asked for has been taken out.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items) -> None:
    if ON != "envoy":
        unknown = elsewhere.mark(items)
        if unknown and not config.option.keyword and config.args == [str(config.rootpath)]:
            raise pytest.UsageError(f"elsewhere.py names tests that do not exist: {unknown}")


def module(**members) -> dict:
    """A configuration of the module with what every test here wants."""
    return {"optimizer": PATIENT, "breaker": NO_BREAKER} | members


def barrier(proxy, optimizer, provider) -> None:
    """One more write-back and its arrival: what was queued before it has left by then."""
    sentinel = f"sentinel-{uuid.uuid4().hex}"
    provider.answers(provider.default)
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=sentinel))
    assert proxy.send(CHAT.call()).status == 200
    optimizer.written_back(sentinel)


@pytest.fixture(scope="session")
def proxies(optimizer_service, provider_service, tmp_path_factory) -> Iterator[Proxies]:
    started = Proxies(optimizer_service, provider_service, tmp_path_factory.mktemp("envoys"))
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def whole_modules(clean_slate, proxies) -> Iterator[None]:
    """No test may break the module."""
    for proxy in proxies.running.values():
        proxy.new_log_lines()
    yield
    for proxy in proxies.running.values():
        broken = [line for line in proxy.new_log_lines() if any(sign in line for sign in BROKEN)]
        assert not broken, broken
        assert proxy.host.process.poll() is None, "the host is gone"


@pytest.fixture
def plain(proxies) -> Proxy:
    """The module with its defaults on an untouched Envoy."""
    return proxies.get(Setup(module()))


@pytest.fixture
def without(proxies) -> Proxy:
    """The same Envoy without the filter."""
    return proxies.get(Setup(None))


@pytest.fixture
def roomy(proxies) -> Proxy:
    """Host and module both told to hold 32 MiB, as the shipped example does."""
    limits = {"host_buffer_bytes": 32 * MIB}
    return proxies.get(Setup(module(limits=limits), buffer_bytes=32 * MIB))


@pytest.fixture
def narrow(proxies) -> Proxy:
    """Limits that a page of text exceeds."""
    return proxies.get(Setup(module(limits={"request_bytes": 2048, "response_bytes": 2048})))


@pytest.fixture
def recording(proxies) -> Iterator[Proxy]:
    """Leaves a record of every call, without prompts and answers."""
    proxy = proxies.get(Setup(module(hooks={"record": True})))
    yield proxy
    # Tests here count records: none may be left to be counted in the next one.
    proxy.settle()


@pytest.fixture
def holding_streams(proxies) -> Proxy:
    """The response hook looks at streams too, on a host with room for them."""
    limits = {"host_buffer_bytes": 32 * MIB}
    hooks = {"stream_response": True}
    return proxies.get(Setup(module(hooks=hooks, limits=limits), buffer_bytes=32 * MIB))


@pytest.fixture(params=[HTTP1, HTTP2][: 2 if ON == "envoy" else 1], ids=str)
def http(request) -> str:
    return request.param


@pytest.fixture
def sdks(plain, key) -> Iterator[Sdks]:
    """The official SDKs as one caller of the module with its defaults."""
    clients = Sdks(plain.url, key)
    yield clients
    clients.close()
