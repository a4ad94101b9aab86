"""Providers and optimizers over TLS, which a wasi:http host speaks for the component: whom it trusts, and whom it does not."""

import contextlib
import datetime
import socket
import ssl
import threading
import time

import openai
import pytest
import trustme

from conftest import PATIENT, module
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.optimizer import OPTIMIZE, hits, transforms
from kit.provider import sse
from kit.proxy import ON, Proxy
from kit.streams import data
from kit.wasi import WASMTIME, Wasi

pytestmark = pytest.mark.skipif(ON == "envoy", reason="E2E_HOST=wasi")
# It trusts Mozilla's authorities, and no others can be named.
own_authority = pytest.mark.skipif(bool(WASMTIME), reason="`wasmtime serve` trusts no authority of one's own")

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certified(by: trustme.CA, name: str = "localhost", **more) -> ssl.SSLContext:
    """A server's side, with a certificate for `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    by.issue_cert(name, **more).configure_cert(context)
    return context


@pytest.fixture
def start(tmp_path, optimizer, provider):
    """Starts hosts whose optimizer and provider are these, and that trust `authority`."""
    running = []

    def start(authority: trustme.CA | None = None, **members) -> Proxy:
        plain = {"upstream": f"127.0.0.1:{optimizer.port}"}
        config = module(**{"provider": f"http://127.0.0.1:{provider.port}"} | members)
        config["optimizer"] = PATIENT | plain | members.get("optimizer", {})
        trusted = None
        if authority:
            trusted = tmp_path / "authority.pem"
            authority.cert_pem.write_to_path(trusted)
        running.append(Wasi(Setup(config), config, tmp_path / "host", reuse=True, ca=trusted))
        return Proxy(running[-1])

    yield start
    for host in running:
        host.stop()


@pytest.fixture
def sdk(start, provider, authority, key):
    """The official SDK, and the component in front of a provider that speaks TLS only."""
    with provider.over_tls(certified(authority)) as port:
        proxy = start(authority, provider=f"https://localhost:{port}")
        with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0) as client:
            yield client


@own_authority
def test_a_call_is_transformed_and_its_repeat_comes_from_the_cache(sdk, optimizer, provider, key):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    live = sdk.chat.completions.create(**CHAT.request)
    [seen] = provider.calls
    assert seen.json == CHAT.shorten(CHAT.request) and seen.headers.all("authorization") == [f"Bearer {key}"]
    assert live.choices[0].message.content == "Hello."
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    deadline = time.monotonic() + 5
    # The instance that remembers the caller is free again once its call is over.
    while provider.calls and time.monotonic() < deadline:
        provider.calls.clear()
        assert sdk.chat.completions.create(**CHAT.request) == live
    assert provider.calls == []


@own_authority
def test_a_stream_comes_event_by_event(sdk, optimizer, provider):
    texts = ["Hé", "llo", "\U0001f600", "."]
    events = data(*[{"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts])
    arrived = threading.Semaphore(0)
    provider.answers(sse(*events, gap=arrived))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    got = []
    for event in sdk.chat.completions.create(**CHAT.request, stream=True):
        got.append(event.choices[0].delta.content)
        arrived.release()
    assert got == texts
    assert provider.calls[-1].json["messages"] == CHAT.shorter_prompt


@own_authority
def test_a_large_call_passes(sdk, optimizer, provider):
    """Larger than any record or window of TLS."""
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"user": "u"}))
    long = [{"role": "user", "content": "é" * 1_000_000}]
    assert sdk.chat.completions.create(model="gpt-x", messages=long).id == "chatcmpl-1"
    assert provider.calls[-1].json == {"model": "gpt-x", "messages": long, "user": "u"}


@own_authority
def test_the_optimizer_is_asked_over_tls(start, optimizer, provider, authority):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    with optimizer.over_tls(certified(authority)) as port:
        proxy = start(authority, optimizer={"upstream": f"https://localhost:{port}"})
        reply = proxy.send(CHAT.call())
        assert proxy.outcome(reply) == "transformed" and reply.json == CHAT.answer
    assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)


def test_a_handshake_that_never_ends_costs_a_callout_its_time_out(start, provider):
    """wasmtime sets it no limit: the component does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = {"upstream": f"https://localhost:{listener.getsockname()[1]}", "timeout_ms": 400}
        proxy = start(optimizer=asked)
        reply = proxy.send(CHAT.call())
        assert proxy.outcome(reply) == "bypassed:optimizer_timeout"
    assert (reply.status, reply.json) == (200, CHAT.answer)
    assert provider.of(reply.case)[0].body == CHAT.call().body


# Who is asked, and what is wrong with the certificate.
WRONG = {
    "of an unknown authority": lambda authority: certified(trustme.CA()),
    "for another name": lambda authority: certified(authority, "other.example"),
    "that has run out": lambda authority: certified(authority, not_after=LONG_AGO),
}


@pytest.fixture(params=WRONG)
def refused(request, authority) -> tuple[trustme.CA | None, ssl.SSLContext]:
    """Who is trusted, and a server that is not."""
    return None if WASMTIME else authority, WRONG[request.param](authority)


def test_no_provider_is_asked_that_has_a_certificate(start, provider, refused, key):
    trusted, server = refused
    with provider.over_tls(server) as port:
        reply = start(trusted, provider=f"https://localhost:{port}").send(CHAT.call(key=key))
    assert (reply.status, reply.body) == (502, b"the provider cannot be reached\n")
    assert provider.calls == []


def test_the_call_goes_on_where_the_optimizer_has_a_certificate(start, optimizer, provider, refused):
    trusted, server = refused
    with optimizer.over_tls(server) as port:
        proxy = start(trusted, optimizer={"upstream": f"https://localhost:{port}"})
        reply = proxy.send(CHAT.call())
        assert proxy.outcome(reply) == "bypassed:optimizer_unreachable"
    assert (reply.status, reply.json) == (200, CHAT.answer)
    assert provider.of(reply.case)[0].body == CHAT.call().body and optimizer.calls == []


def test_nothing_leaves_for_an_https_provider_in_the_clear(start, key):
    """Not even where it speaks no TLS: it is told no more than a handshake's first message."""
    got = bytearray()

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock:
                    got.extend(sock.recv(1 << 16))
                    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        reply = start(provider=f"https://localhost:{listener.getsockname()[1]}").send(CHAT.call(key=key))
    assert (reply.status, reply.body) == (502, b"the provider cannot be reached\n")
    handshake = b"\x16\x03"
    assert got.startswith(handshake) and key.encode() not in got and b"HTTP" not in got
