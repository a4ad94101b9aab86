"""An optimizer that keeps failing is left alone for a while; then a single probe decides."""

import threading
import time

from conftest import PATIENT, module
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.message import NEVER, Answer
from kit.optimizer import OPTIMIZE, transforms

FAILS = Answer(status=500, body=b"")
OPEN = "bypassed:breaker_open"


def started(proxies, concurrency=1, timeout_ms=10000, **breaker):
    optimizer = PATIENT | {"timeout_ms": timeout_ms}
    return proxies.start(Setup(module(optimizer=optimizer, breaker=breaker), concurrency=concurrency))


def transitions(proxy) -> dict[str, int]:
    return {
        dict(labels)["transition"]: int(value)
        for (name, labels), value in proxy.host.samples().items()
        if name == "optimizer_breaker_transitions"
    }


def is_open(proxy) -> list[int]:
    return [int(v) for (name, _), v in proxy.host.samples().items() if name == "optimizer_breaker_open"]


def test_it_opens_after_failures_in_a_row_and_a_good_probe_closes_it(
    proxies, optimizer, provider, http
):
    proxy = started(proxies, failures=3, open_ms=1500)
    try:
        optimizer.on(OPTIMIZE, FAILS)
        outcomes = [proxy.outcome(proxy.send(CHAT.call(), http)) for _ in range(5)]
        assert outcomes == ["bypassed:optimizer_status"] * 3 + [OPEN] * 2
        assert len(optimizer.calls) == 3
        assert transitions(proxy) == {"opened": 1} and is_open(proxy) == [1]
        optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
        time.sleep(1.6)
        assert proxy.outcome(proxy.send(CHAT.call(), http)) == "transformed"
        assert transitions(proxy) == {"opened": 1, "probing": 1, "closed": 1}
        assert is_open(proxy) == [0]
        lines = [line for line in proxy.new_log_lines() if "wasm log optimizer" in line]
        assert sum("keeps failing" in line for line in lines) == 1
        assert sum("answers again" in line for line in lines) == 1
    finally:
        proxy.host.stop()


def test_a_failed_probe_opens_it_again(proxies, optimizer):
    proxy = started(proxies, failures=1, open_ms=500)
    try:
        optimizer.on(OPTIMIZE, FAILS)
        assert proxy.outcome(proxy.send(CHAT.call())) == "bypassed:optimizer_status"
        time.sleep(0.6)
        assert proxy.outcome(proxy.send(CHAT.call())) == "bypassed:optimizer_status"
        assert proxy.outcome(proxy.send(CHAT.call())) == OPEN
        assert transitions(proxy) == {"opened": 1, "probing": 1, "reopened": 1}
    finally:
        proxy.host.stop()


def test_calls_that_wait_are_let_go_when_it_opens(proxies, optimizer, provider, http):
    proxy = started(proxies, timeout_ms=2000, failures=1, open_ms=60000)
    try:
        optimizer.on(OPTIMIZE, NEVER)
        replies = []
        waiting = [
            threading.Thread(target=lambda: replies.append(proxy.send(CHAT.call(), http)))
            for _ in range(4)
        ]
        for thread in waiting:
            thread.start()
            time.sleep(0.4)
        for thread in waiting:
            thread.join()
        assert [reply.status for reply in replies] == [200] * 4
        outcomes = sorted(proxy.outcome(reply) for reply in replies)
        assert outcomes == [OPEN] * 3 + ["bypassed:optimizer_timeout"]
        # The first one waited for the whole time-out, and none of the others until its own.
        assert [provider.of(reply.case)[0].json for reply in replies] == [CHAT.request] * 4
    finally:
        proxy.host.stop()


def test_workers_share_it(proxies, optimizer):
    proxy = started(proxies, concurrency=2, failures=2, open_ms=60000)
    try:
        optimizer.on(OPTIMIZE, FAILS)
        for _ in range(3):
            proxy.send(CHAT.call())
        deadline = time.monotonic() + 5
        while not transitions(proxy).get("opened") and time.monotonic() < deadline:
            proxy.send(CHAT.call())
        time.sleep(0.2)
        asked = len(optimizer.calls)
        outcomes = {proxy.outcome(proxy.send(CHAT.call())) for _ in range(20)}
        assert outcomes == {OPEN} and len(optimizer.calls) == asked
    finally:
        proxy.host.stop()
