"""What every end-to-end suite shares: the scripted services, and names that no other test has used."""

from __future__ import annotations

import uuid
from typing import Iterator

import pytest

from .optimizer import Optimizer
from .provider import Provider
from .proxy import Cannot


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    try:
        return (yield)
    except Cannot as why:
        pytest.skip(str(why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except Cannot as why:
        pytest.skip(str(why))


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


@pytest.fixture
def clean_slate(optimizer_service, provider_service) -> Iterator[None]:
    """Scripts and records begin empty; no test may break the wire's framing."""
    optimizer_service.reset()
    provider_service.reset()
    yield
    assert provider_service.malformed == [], "surplus bytes on a connection to the provider"
    assert optimizer_service.malformed == [], "surplus bytes on a connection to the optimizer"


@pytest.fixture
def optimizer(optimizer_service) -> Optimizer:
    return optimizer_service


@pytest.fixture
def provider(provider_service) -> Provider:
    return provider_service


@pytest.fixture
def key() -> str:
    """A caller's key that no other test has used."""
    return f"sk-{uuid.uuid4().hex}"


@pytest.fixture
def cache_key() -> str:
    """A cache key that no other test has used."""
    return f"ck-{uuid.uuid4().hex}"
