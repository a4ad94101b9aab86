"""Calls beside and after one another: none sees another's, and nothing is kept of them."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import module
from kit import client
from kit.dialects import ALL, CHAT
from kit.envoy_config import MIB, Setup
from kit.message import NEVER, RESET, Answer, as_json
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, hits, rewrites, says, transforms
from kit.proxy import HTTP1, HTTP2, ON


def echo(seen) -> Answer:
    """A provider whose answer tells which request it had."""
    return as_json({"id": "e", "user": seen.json["user"], "note": seen.json.get("note")})


def by_user(seen) -> Answer:
    """An optimizer that treats every fourth caller differently."""
    user = seen.json["request"]["user"]
    turn = int(user.rsplit("-", 1)[1]) % 4
    if turn == 0:
        return transforms(lambda request: request | {"note": user})(seen)
    if turn == 1:
        return hits({"id": "c", "user": user, "note": "cached"})(seen)
    if turn == 2:
        return as_json({}, status=500)
    return says()(seen)


@pytest.mark.parametrize("concurrency", [1, 2], ids=["one worker", "two workers"])
def test_calls_at_the_same_time_keep_apart(proxies, optimizer, provider, key, concurrency):
    proxy = proxies.get(Setup(module(), concurrency=concurrency))
    provider.answers(echo)
    assert proxy.send(CHAT.call(key=key, user="user-3")).status == 200
    optimizer.on(OPTIMIZE, by_user)
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"seen": response["user"]}))

    def call(number: int):
        padding = "p" * (number * 997 % 50000)
        request = CHAT.call(key=key, user=f"user-{number}", padding=padding)
        return number, proxy.send(request, HTTP2 if number % 3 and ON == "envoy" else HTTP1)

    with ThreadPoolExecutor(12) as pool:
        for number, reply in pool.map(call, range(240)):
            user = f"user-{number}"
            expected = {
                0: {"id": "e", "user": user, "note": user, "seen": user},
                1: {"id": "c", "user": user, "note": "cached"},
                2: {"id": "e", "user": user, "note": None},
                3: {"id": "e", "user": user, "note": None, "seen": user},
            }[number % 4]
            assert (reply.status, reply.json) == (200, expected)


def test_calls_on_one_connection_follow_one_another(plain, optimizer, provider, key):
    provider.answers(echo)
    assert plain.send(CHAT.call(key=key, user="user-3")).status == 200
    optimizer.on(OPTIMIZE, by_user)
    replies = client.send_in_turn(
        plain.port, [CHAT.call(key=key, user=f"user-{number}") for number in range(20)])
    assert [reply.json["user"] for reply in replies] == [f"user-{n}" for n in range(20)]
    assert not any(reply.error for reply in replies)


def test_a_retry_sends_the_transform_again(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    answers = iter([Answer(status=503), RESET, as_json(CHAT.answer)])
    provider.answers(lambda seen: next(answers))
    reply = plain.send(CHAT.call(prefix="/retry"), http)
    assert reply.json == CHAT.answer
    bodies = [seen.json for seen in provider.of(reply.case)]
    assert bodies == [CHAT.shorten(CHAT.request)] * 3
    assert len(optimizer.to(OPTIMIZE)) == 1


def test_the_host_s_own_200_is_no_provider_s(plain, optimizer, provider, key, http):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-direct"))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: {"forged": True}))
    for _ in range(2):
        reply = plain.send(CHAT.call(key=key, prefix="/direct"), http)
        assert (reply.status, reply.json["id"]) == (200, "direct")
    optimizer.on(OPTIMIZE, hits({"id": "cached"}))
    reply = plain.send(CHAT.call(key=key, prefix="/direct"), http)
    assert (reply.json["id"], plain.outcome(reply)) == ("direct", "bypassed:hit_unproven")
    assert not [seen for seen in optimizer.calls if seen.path != OPTIMIZE]


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_an_expectation_is_met(plain, optimizer, provider, dialect):
    optimizer.on(OPTIMIZE, transforms(dialect.shorten))
    reply = plain.send(dialect.call(headers=[("expect", "100-continue")]))
    assert [status for status, _ in reply.early] == [100]
    assert provider.of(reply.case)[0].json == dialect.shorten(dialect.request)


@pytest.fixture
def small(proxies):
    """An Envoy whose module may hold little at a time: what leaks shows soon."""
    return proxies.get(Setup(module(
        optimizer={"upstream": "optimizer", "timeout_ms": 300},
        limits={"total_bytes": 2 * MIB, "host_buffer_bytes": 32 * MIB},
        cache={"serve": "anyone"},
    ), buffer_bytes=32 * MIB))


def answered_badly(optimizer, provider):
    optimizer.on(OPTIMIZE, as_json({}, status=500))


def never_answered(optimizer, provider):
    optimizer.on(OPTIMIZE, NEVER)


def cached(optimizer, provider):
    optimizer.on(OPTIMIZE, hits({"id": "x" * 300000}))


def refused_by_the_provider(optimizer, provider):
    provider.answers(RESET)


def cut_by_the_provider(optimizer, provider):
    provider.answers(Answer(headers=[("content-type", "application/json")],
                            body=[b'{"a":"' + b"x" * 300000, 0.05], framing=400000, end="close"))


def cut_in_a_chunk_by_the_provider(optimizer, provider):
    provider.answers(Answer(headers=[("content-type", "application/json")],
                            body=[b'{"a":"' + b"x" * 300000, 0.05], framing="chunked", end="reset"))


def unanswered_by_the_response_hook(optimizer, provider):
    optimizer.on(OPTIMIZE_RESPONSE, RESET)


ENDINGS = [answered_badly, never_answered, cached, refused_by_the_provider, cut_by_the_provider,
           cut_in_a_chunk_by_the_provider, unanswered_by_the_response_hook]


def is_optimized(proxy, optimizer, provider) -> None:
    optimizer.reset()
    provider.reset()
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"note": "n"}))
    reply = proxy.send(CHAT.call(user="u" * 900000))
    assert proxy.outcome(reply) == "transformed"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__.replace("_", " "))
def test_nothing_is_kept_of_calls_that_were(small, optimizer, provider, http, ending, framing):
    ending(optimizer, provider)
    call = CHAT.call(user="u" * 600000)
    call.framing = framing
    for _ in range(4):
        small.send(call, http)
    is_optimized(small, optimizer, provider)


def leave(proxy, request: client.Request, after) -> None:
    sock = client.begin(proxy.port, request, HTTP1)
    after()
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def test_nothing_is_kept_of_clients_that_left(small, optimizer, provider):
    body = json.dumps(CHAT.body(user="u" * 600000)).encode()
    headers = [("content-type", "application/json")]
    half = client.Request(path=CHAT.path, headers=[*headers, ("content-length", str(len(body)))],
                          body=body[:-1000])
    whole = CHAT.call(raw=body)
    for _ in range(4):
        sock = socket.create_connection(("127.0.0.1", small.port))
        lines = [f"POST {half.path} HTTP/1.1", "host: llm.test",
                 *(f"{name}: {value}" for name, value in half.headers), "", ""]
        sock.sendall("\r\n".join(lines).encode() + half.body)
        time.sleep(0.05)
        sock.close()
    optimizer.on(OPTIMIZE, NEVER)
    for _ in range(4):
        asked = len(optimizer.to(OPTIMIZE))
        leave(small, whole, lambda: optimizer.wait_for(
            lambda seen: len(optimizer.to(OPTIMIZE)) > asked))
    optimizer.on(OPTIMIZE, says())
    optimizer.on(OPTIMIZE_RESPONSE, NEVER)
    for _ in range(4):
        asked = len(optimizer.to(OPTIMIZE_RESPONSE))
        leave(small, whole, lambda: optimizer.wait_for(
            lambda seen: len(optimizer.to(OPTIMIZE_RESPONSE)) > asked))
    is_optimized(small, optimizer, provider)
