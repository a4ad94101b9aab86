"""The optimizer is slow, gone or broken: every call goes on as it was, with the reason named."""

import json
import socket

import pytest

from conftest import NO_BREAKER, module
from kit import client
from kit.dialects import CHAT
from kit.envoy_config import MIB, Setup
from kit.failures import FAILURES, TIMEOUT_MS
from kit.message import NEVER, as_json
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, says, transforms

# Far above the time-out, far below what any proxy's own time-out would give.
SANE_SECONDS = 5.0
BODY = CHAT.call().body


@pytest.fixture
def impatient(proxies):
    optimizer = {"upstream": "optimizer", "timeout_ms": TIMEOUT_MS}
    return proxies.get(Setup(module(optimizer=optimizer)))


@pytest.mark.parametrize("answer, result, reason", FAILURES.values(), ids=FAILURES.keys())
def test_the_request_goes_on_when_the_optimizer(
    impatient, optimizer, provider, http, answer, result, reason
):
    optimizer.on(OPTIMIZE, answer)
    counting = impatient.counting()
    reply = impatient.send(CHAT.call(key="sk-1"), http)
    assert (reply.status, reply.json) == (200, CHAT.answer)
    [seen] = provider.of(reply.case)
    assert seen.body == BODY
    assert reply.elapsed < SANE_SECONDS
    assert impatient.outcome(reply) == f"bypassed:{reason}"
    counting.expect(exchanges={f"bypassed {reason}": 1}, callouts={f"optimize {result}": 1})


RESPONSE_FAILURES = {
    name: (answer, result) for name, (answer, result, _) in FAILURES.items()
    if "back" not in name and "request" not in name
}


@pytest.mark.parametrize("answer, result", RESPONSE_FAILURES.values(), ids=RESPONSE_FAILURES.keys())
def test_the_response_goes_on_when_the_optimizer(
    impatient, optimizer, provider, http, answer, result
):
    optimizer.on(OPTIMIZE_RESPONSE, answer)
    counting = impatient.counting()
    reply = impatient.send(CHAT.call(key="sk-1"), http)
    assert reply.status == 200
    assert reply.body == json.dumps(CHAT.answer).encode()
    assert reply.elapsed < SANE_SECONDS
    counting.expect(exchanges={"unchanged none": 1}, callouts={f"optimize_response {result}": 1})


def test_the_request_goes_on_when_connections_are_refused(impatient, optimizer, provider, http):
    counting = impatient.counting()
    with optimizer.away():
        reply = impatient.send(CHAT.call(), http)
    assert (reply.status, provider.of(reply.case)[0].body) == (200, BODY)
    reason = "optimizer_unreachable"
    assert impatient.outcome(reply) == f"bypassed:{reason}"
    counting.expect(exchanges={f"bypassed {reason}": 1}, callouts={"optimize unreachable": 1})


@pytest.mark.parametrize("upstream", [
    "no_such_cluster", "optimizer_without_hosts", "optimizer_without_room",
], ids=["names no cluster", "has no hosts", "has no room for a request"])
def test_the_request_goes_on_when_the_upstream(proxies, provider, http, upstream):
    proxy = proxies.get(Setup(module(optimizer={"upstream": upstream})))
    counting = proxy.counting()
    reply = proxy.send(CHAT.call(), http)
    assert (reply.status, provider.of(reply.case)[0].body) == (200, BODY)
    reason = "optimizer_dispatch_failed"
    assert proxy.outcome(reply) == f"bypassed:{reason}"
    counting.expect(exchanges={f"bypassed {reason}": 1}, callouts={"optimize dispatch_failed": 1})


def test_an_answer_over_the_host_s_own_limit_breaks_off(plain, optimizer, provider):
    optimizer.on(OPTIMIZE, as_json(b'{"request":{},"x":"' + b"x" * (33 * MIB) + b'"}'))
    reply = plain.send(CHAT.call())
    assert (reply.status, provider.of(reply.case)[0].body) == (200, BODY)
    assert plain.outcome(reply) == "bypassed:optimizer_reset"


def test_an_answer_larger_than_the_limits_allow_is_not_read(narrow, optimizer, provider, http):
    optimizer.on(OPTIMIZE, says(request=CHAT.body(user="u" * MIB)))
    counting = narrow.counting()
    reply = narrow.send(CHAT.call(), http)
    assert (reply.status, provider.of(reply.case)[0].body) == (200, BODY)
    assert narrow.outcome(reply) == "bypassed:answer_too_large"
    counting.expect(callouts={"optimize too_large": 1})


def test_the_time_out_is_800_ms_unless_set(proxies, optimizer):
    proxy = proxies.get(Setup({"optimizer": {"upstream": "optimizer"}}))
    optimizer.on(OPTIMIZE, NEVER)
    reply = proxy.send(CHAT.call())
    assert proxy.outcome(reply) == "bypassed:optimizer_timeout"
    assert 0.75 < reply.elapsed < SANE_SECONDS


def test_a_client_that_leaves_is_counted_and_harms_nobody(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE, NEVER)
    counting = plain.counting()
    sock = client.begin(plain.port, CHAT.call(), http)
    optimizer.wait_for(lambda seen: seen.path == OPTIMIZE)
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    counting.expect(exchanges={"bypassed client_gone": 1}, callouts={"optimize abandoned": 1})
    assert provider.calls == []
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    reply = plain.send(CHAT.call())
    assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)


def test_a_client_that_leaves_during_the_response_hook_harms_nobody(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE_RESPONSE, NEVER)
    counting = plain.counting()
    sock = client.begin(plain.port, CHAT.call(), http)
    optimizer.wait_for(lambda seen: seen.path == OPTIMIZE_RESPONSE)
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    counting.expect(callouts={"optimize_response abandoned": 1})
    optimizer.reset()
    reply = plain.send(CHAT.call())
    assert reply.json == CHAT.answer


@pytest.fixture
def with_breaker(proxies):
    breaker = {"failures": 3}
    return proxies.get(Setup(module(breaker=breaker)))


def failing(proxy, optimizer, count: int) -> list[str]:
    optimizer.on(OPTIMIZE, as_json({}, status=500))
    return [proxy.outcome(proxy.send(CHAT.call())) for _ in range(count)]


def test_a_success_in_between_keeps_the_breaker_closed(with_breaker, optimizer):
    for _ in range(2):
        assert "bypassed:breaker_open" not in failing(with_breaker, optimizer, 2)
        optimizer.on(OPTIMIZE, says())
        assert with_breaker.outcome(with_breaker.send(CHAT.call())) == "unchanged"


def test_without_a_breaker_every_call_is_tried(impatient, optimizer):
    assert NO_BREAKER == {"failures": 0}
    assert set(failing(impatient, optimizer, 8)) == {"bypassed:optimizer_status"}
