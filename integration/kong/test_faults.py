"""The optimizer is slow, gone or broken, the provider fails, clients leave: every call goes on as it was."""

import re
import socket
import threading
import time

import pytest

from kit import client, http2
from kit.dialects import CHAT
from kit.envoy_config import MIB
from kit.failures import FAILURES, TIMEOUT_MS
from kit.message import NEVER, RESET, Answer, Raw, as_json
from kit.optimizer import OPTIMIZE, hits, says, transforms
from kit.provider import sse
from kit.streams import told

from gateway import PREPARE, UNPREPARED, Setup

# Far above the time-out, far below what any proxy's own time-out would give.
SANE_SECONDS = 8.0
# Each step of a callout has the time-out to itself: what trickles can hold a call as long as it trickles.
TRICKLES = {name for name in FAILURES if name.startswith("trickles")}


@pytest.fixture(params=[PREPARE, UNPREPARED], ids=["prepared", "unprepared"])
def gateway(request, gateways, module):
    configured = module(optimizer={"timeout_ms": TIMEOUT_MS})
    return gateways.get(Setup(configured, prepare=request.param))


def untouched(gateway, provider, call=None, http="HTTP/1.1", **more):
    """Sends a call that goes on as it came."""
    call = call or CHAT.call(key="sk-1")
    reply = gateway.send(call, http, **more)
    assert (reply.status, reply.json) == (200, CHAT.answer), reply
    [seen] = provider.of(reply.case)
    assert seen.body == CHAT.call().body
    return reply


@pytest.mark.parametrize("answer", [row[0] for row in FAILURES.values()], ids=FAILURES.keys())
def test_the_call_goes_on_when_the_optimizer(gateway, optimizer, provider, http, request, answer):
    optimizer.on(OPTIMIZE, answer)
    for _ in range(2):
        reply = untouched(gateway, provider, http=http, timeout=30)
        name = request.node.callspec.id
        assert any(row in name for row in TRICKLES) or reply.elapsed < SANE_SECONDS
        assert gateway.outcome(reply).startswith("bypassed:")


def test_the_call_goes_on_when_connections_are_refused(gateway, optimizer, provider, http):
    with optimizer.away():
        for _ in range(3):
            assert gateway.outcome(untouched(gateway, provider, http=http)).startswith("bypassed:")


@pytest.mark.parametrize("size", [MIB, 40 * MIB], ids=["1 MiB", "40 MiB"])
def test_the_call_goes_on_when_the_answer_is_huge(gateway, optimizer, provider, http, size):
    huge = as_json(b'{"request":{},"x":"' + b"x" * size + b'"}')
    optimizer.on(OPTIMIZE, huge)
    untouched(gateway, provider, http=http, timeout=60)


@pytest.mark.parametrize("size", [500, 900, 1100, 3000, 9000, 20_000, 40_000, 100_000])
@pytest.mark.parametrize("fields", [1, 20], ids=["in one field", "in twenty"])
def test_long_heads_of_the_optimizer_harm_nobody(gateway, optimizer, http, size, fields):
    """The runtime moves a head that does not fit into larger buffers, or gives up."""
    more = [(f"x-{number}", "y" * (size // fields)) for number in range(fields)]

    def script(seen):
        answer = transforms(CHAT.shorten)(seen)
        answer.headers += more
        return answer

    optimizer.on(OPTIMIZE, script)
    for _ in range(5):
        assert gateway.send(CHAT.call(), http, timeout=30).json == CHAT.answer


UPSTREAMS = {
    "a port that nobody listens on": "127.0.0.1:1",
    "an address without a route": "[::1]:1",
    "a socket that is not there": "unix:/tmp/no-such-socket",
}


@pytest.mark.parametrize("upstream", UPSTREAMS.values(), ids=UPSTREAMS.keys())
def test_the_call_goes_on_when_the_upstream_is(gateways, module, provider, http, upstream):
    gateway = gateways.get(Setup(module(optimizer={"upstream": upstream, "timeout_ms": TIMEOUT_MS})))
    for _ in range(3):
        reply = untouched(gateway, provider, http=http)
        assert reply.elapsed < SANE_SECONDS


def test_a_name_that_nobody_resolves_costs_its_time_out(gateways, module, provider, http):
    """Names use the proxy's resolver and its time-out; the breaker keeps later calls from waiting."""
    gateway = gateways.get(Setup(
        module(optimizer={"upstream": "optimizer.invalid:8088", "timeout_ms": TIMEOUT_MS},
               breaker={"failures": 1, "open_ms": 600000}),
        resolver="127.0.0.1:1",
    ))
    for _ in range(3):
        untouched(gateway, provider, http=http, timeout=40)


BREAKS = {
    "resets": RESET,
    "closes at once": Raw([]),
    "breaks off in its head": Raw([b"HTTP/1.1 200 OK\r\ncontent-"]),
    "breaks off in its body": Raw([b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"]),
    "breaks off in a chunk": Raw([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{"]),
    "answers 500": as_json({"error": "x"}, status=500),
    "answers 400": as_json({"error": "x"}, status=400),
    "answers without a body": Answer(status=204),
    "answers with a page": Answer(body=b"<html>"),
    "answers with half its JSON": as_json(b'{"choices":['),
    "breaks off in a stream": sse(*told(CHAT)[:3], end="reset"),
}


def said(reply) -> bytes:
    """Its body, but for the request's number, which Kong puts into its errors."""
    return re.sub(rb'("request_id":)"[0-9a-f]+"', rb"\1", reply.body)


@pytest.mark.parametrize("answer", BREAKS.values(), ids=BREAKS.keys())
def test_the_client_gets_what_the_proxy_alone_gives_when_the_provider(
    gateways, gateway, optimizer, provider, http, answer, cache_key
):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, cacheEligible=True, cacheKey=cache_key))
    provider.answers(answer)
    alone = gateways.get(Setup(None)).send(CHAT.call(), http)
    reply = gateway.send(CHAT.call(), http)
    assert (reply.status, said(reply), reply.complete) == (alone.status, said(alone), alone.complete)
    provider.answers(provider.default)
    assert gateway.send(CHAT.call(), http).json == CHAT.answer


def test_a_provider_that_is_away_gives_502(gateway, optimizer, provider, http):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    with provider.away():
        assert gateway.send(CHAT.call(), http).status == 502
    assert gateway.send(CHAT.call(), http).status == 200


# Clients that leave


def leave(sock: socket.socket, how: str) -> None:
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    else:
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


leaving = pytest.mark.parametrize("how", ["reset", "close"])


@leaving
def test_clients_that_leave_while_the_optimizer_is_asked_harm_nobody(gateway, optimizer, provider, http, how):
    gate = threading.Event()

    def later(seen):
        gate.wait(TIMEOUT_MS / 2000)
        return transforms(CHAT.shorten)(seen)

    optimizer.on(OPTIMIZE, later)
    for _ in range(10):
        sock = client.begin(gateway.port, CHAT.call(), http)
        time.sleep(0.02)
        leave(sock, how)
    gate.set()
    optimizer.reset()
    assert gateway.send(CHAT.call(), http).json == CHAT.answer


@leaving
def test_clients_that_leave_before_a_time_out_harm_nobody(gateway, optimizer, http, how):
    optimizer.on(OPTIMIZE, NEVER)
    for _ in range(10):
        leave(client.begin(gateway.port, CHAT.call(), http), how)
    time.sleep(TIMEOUT_MS / 1000 + 0.5)
    optimizer.reset()
    assert gateway.send(CHAT.call(), http).json == CHAT.answer


@leaving
def test_clients_that_leave_before_a_hit_harm_nobody(gateway, optimizer, http, key, how):
    assert gateway.send(CHAT.call(key=key), http).status == 200

    def later(seen):
        time.sleep(0.1)
        return hits({"choices": [], "x": "y" * 500_000})(seen)

    optimizer.on(OPTIMIZE, later)
    for _ in range(10):
        leave(client.begin(gateway.port, CHAT.call(key=key), http), how)
    time.sleep(0.5)
    optimizer.on(OPTIMIZE, hits({"choices": []}))
    reply = gateway.send(CHAT.call(key=key), http)
    assert reply.json["choices"] == [], gateway.told(reply)


@leaving
def test_clients_that_leave_in_the_middle_of_their_body_harm_nobody(gateway, optimizer, http, how):
    body = CHAT.call().body
    for _ in range(10):
        sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=15)
        if http == "HTTP/1.1":
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                         b"content-length: %d\r\n\r\n" % len(body) + body[:20])
        else:
            link = http2.Link(sock, client_side=True)
            link.h2.initiate_connection()
            link.send_headers(1, [(":method", "POST"), (":path", "/v1/chat/completions"), (":scheme", "http"),
                                  (":authority", "x"), ("content-type", "application/json")])
            link.send_data(1, body[:20])
        time.sleep(0.01)
        leave(sock, how)
    assert gateway.send(CHAT.call(), http).json == CHAT.answer


@leaving
def test_clients_that_leave_in_the_middle_of_an_answer_harm_nobody(
    gateway, optimizer, provider, http, how, cache_key
):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, cacheEligible=True, cacheKey=cache_key))
    provider.answers(sse(*told(CHAT), gap=0.05))
    for _ in range(10):
        sock = client.begin(gateway.port, CHAT.call(stream=True), http)
        sock.recv(100)
        leave(sock, how)
    time.sleep(0.6)
    provider.answers(provider.default)
    assert gateway.send(CHAT.call(), http).json == CHAT.answer


def test_streams_that_are_reset_leave_the_others_alone(gateway, optimizer, provider):
    """Over HTTP/2, with all streams on one connection."""
    def later(seen):
        time.sleep(0.1)
        return transforms(CHAT.shorten)(seen)

    optimizer.on(OPTIMIZE, later)
    body = CHAT.call().body
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as sock:
        link = http2.Link(sock, client_side=True)
        link.h2.initiate_connection()
        for number in range(20):
            stream = 2 * number + 1
            link.send_headers(stream, [(":method", "POST"), (":path", "/v1/chat/completions"), (":scheme", "http"),
                                       (":authority", "x"), ("content-type", "application/json"),
                                       ("x-case", f"reset {number}")])
            link.send_data(stream, body)
            link.end(stream)
            if number % 2:
                link.reset(stream)
        ended = set()
        while len(ended) < 10 and (events := link.receive()) is not None:
            ended |= {event.stream_id for event in events if type(event).__name__ == "StreamEnded"}
        assert ended == {4 * number + 1 for number in range(10)}
    assert gateway.send(CHAT.call()).json == CHAT.answer


# The breaker


def test_the_breaker_opens_and_closes(gateways, module, optimizer, provider, http):
    gateway = gateways.get(Setup(module(
        optimizer={"timeout_ms": TIMEOUT_MS}, breaker={"failures": 3, "open_ms": 1500})))
    gateway.send(CHAT.call(), http)
    time.sleep(1.6)  # Whatever state another protocol's run left it in.
    optimizer.on(OPTIMIZE, says())
    assert gateway.outcome(gateway.send(CHAT.call(), http)) == "unchanged"
    optimizer.on(OPTIMIZE, as_json({}, status=500))
    outcomes = [gateway.outcome(untouched(gateway, provider, http=http)) for _ in range(6)]
    assert outcomes[-1] == "bypassed:breaker_open"
    optimizer.on(OPTIMIZE, says())
    deadline = time.monotonic() + 10
    while gateway.outcome(gateway.send(CHAT.call(), http)) != "unchanged":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_slow_answers_count_against_the_breaker(gateways, module, optimizer, provider):
    """No total time-out can be had here; an answer that trickles past it is a failure all the same."""
    gateway = gateways.get(Setup(module(
        optimizer={"timeout_ms": TIMEOUT_MS}, breaker={"failures": 2, "open_ms": 600000})))
    optimizer.on(OPTIMIZE, lambda seen: Raw([
        b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", *[step for byte in b'{"a":1} ' for step in (0.1, bytes([byte]))],
    ]))
    outcomes = [gateway.outcome(untouched(gateway, provider)) for _ in range(4)]
    assert outcomes[-1] == "bypassed:breaker_open", outcomes
