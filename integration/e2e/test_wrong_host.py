"""A host that does not show the bodies of held requests never keeps a call waiting for good."""

import socket

import pytest

from conftest import module
from kit.client import Request
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, transforms

MISSING = "allow_on_headers_stop_iteration: true"


def wrong(proxies, **members):
    """A fresh Envoy, without the line that the module needs."""
    return proxies.start(Setup(module(**members), holds_headers=False))


def slowly(request: Request, seconds: float) -> Request:
    """The head at once, the body after a while."""
    request.body = [seconds, request.body]
    return request


def test_a_call_goes_on_and_later_ones_are_left_alone(proxies, optimizer, provider, http):
    proxy = wrong(proxies)
    try:
        optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
        call = CHAT.call()
        replies = [proxy.send(call, http) for _ in range(4)]
        for reply in replies:
            assert (reply.status, reply.json, reply.complete) == (200, CHAT.answer, True)
            assert provider.of(reply.case)[0].body == call.body
        assert [proxy.outcome(reply) for reply in replies] == [
            "bypassed:request_body_overdue", "bypassed:request_body_overdue",
            "bypassed:host_cannot_hold", "bypassed:host_cannot_hold",
        ]
        assert optimizer.calls == []
        assert sum(MISSING in line for line in proxy.new_log_lines()) == 1
    finally:
        proxy.host.stop()


def test_a_call_without_a_known_length_goes_on_too(proxies, optimizer, provider, http):
    limits = {"host_buffer_bytes": 4 << 20}
    proxy = wrong(proxies, limits=limits)
    try:
        call = CHAT.call()
        call.framing = "chunked"
        reply = proxy.send(call, http)
        assert (reply.status, reply.json) == (200, CHAT.answer)
        assert provider.of(reply.case)[0].body == call.body
        assert proxy.outcome(reply) == "bypassed:request_body_overdue"
    finally:
        proxy.host.stop()


def test_a_slow_client_is_no_wrong_host(proxies, optimizer, provider, http):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    optimizer.on(OPTIMIZE_RESPONSE, transforms(dict))
    proxy = proxies.start(Setup(module()))
    try:
        first = proxy.send(slowly(CHAT.call(), 1.2), http)
        assert (first.status, provider.of(first.case)[0].json) == (200, CHAT.request)
        assert proxy.outcome(first) == "bypassed:request_body_overdue"
        # It says nothing about the host, which the next call proves good.
        for call in (CHAT.call(), slowly(CHAT.call(), 1.2)):
            reply = proxy.send(call, http)
            assert proxy.outcome(reply) == "transformed"
            assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)
        assert not any(MISSING in line for line in proxy.new_log_lines())
    finally:
        proxy.host.stop()


def test_a_client_that_leaves_while_it_is_watched_harms_nobody(proxies, optimizer, provider):
    proxy = wrong(proxies)
    try:
        with pytest.raises(TimeoutError):
            sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2)
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"
                         b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
            sock.recv(1)
        sock.close()
        reply = proxy.send(CHAT.call())
        assert (reply.status, reply.json) == (200, CHAT.answer)
    finally:
        proxy.host.stop()
