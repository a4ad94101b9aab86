"""The host's buffers: no call gets a 413 or 500 that it would not have got without the module."""

import json

import pytest

from conftest import module
from kit.client import Request
from kit.dialects import CHAT
from kit.envoy_config import MIB, Setup
from kit.message import Answer
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, rewrites, transforms

SIZES = [MIB - 4096, MIB - 1, MIB, MIB + 1, MIB + 70000, 3 * MIB]
SIZE_IDS = ["4 KiB below 1 MiB", "one below", "1 MiB", "one above", "70 kB above", "3 MiB"]
both_framings = pytest.mark.parametrize("framing", ["length", "chunked"],
                                        ids=["length known", "length unknown"])


def padded(value: dict, size: int) -> bytes:
    room = size - len(json.dumps(value | {"user": ""}).encode())
    return json.dumps(value | {"user": "u" * room}).encode()


def grow(value: dict) -> dict:
    return value | {"x_added": "x" * 200000}


def request_of(size: int, framing: str, prefix: str = "") -> Request:
    call = CHAT.call(raw=padded(CHAT.request, size), prefix=prefix)
    call.framing = framing
    # In pieces, so that the length is seen late where it is not told.
    call.body = [call.body[at:at + 100000] for at in range(0, size, 100000)]
    return call


def answer_of(size: int, framing: str) -> Answer:
    body = padded(CHAT.answer, size)
    pieces = [body[at:at + 100000] for at in range(0, size, 100000)]
    return Answer(headers=[("content-type", "application/json")], body=pieces, framing=framing)


@both_framings
@pytest.mark.parametrize("size", SIZES, ids=SIZE_IDS)
@pytest.mark.parametrize("change", [dict, grow], ids=["unchanged", "grown"])
def test_a_request_around_the_buffer_s_size_arrives(
    plain, optimizer, provider, http, size, framing, change
):
    optimizer.on(OPTIMIZE, transforms(change))
    call = request_of(size, framing)
    reply = plain.send(call, http)
    assert (reply.status, reply.json) == (200, CHAT.answer)
    body = b"".join(call.body)
    [seen] = provider.of(reply.case)
    assert seen.body == body or (change is grow and seen.json == grow(json.loads(body)))


@both_framings
@pytest.mark.parametrize("size", SIZES, ids=SIZE_IDS)
@pytest.mark.parametrize("change", [dict, grow], ids=["unchanged", "grown"])
def test_an_answer_around_the_buffer_s_size_arrives(
    plain, optimizer, provider, http, size, framing, change
):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(change))
    answer = answer_of(size, framing)
    provider.answers(answer)
    reply = plain.send(CHAT.call(), http)
    body = b"".join(answer.pieces)
    assert reply.status == 200 and not reply.error
    assert reply.body == body or (change is grow and reply.json == grow(json.loads(body)))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_is_written_back_though_it_is_not_held(plain, optimizer, provider, framing):
    answer = answer_of(3 * MIB, framing)
    provider.answers(answer)
    optimizer.on(OPTIMIZE, transforms(dict, cacheEligible=True, cacheKey=f"ck-large-{framing}"))
    body = b"".join(answer.pieces)
    assert plain.send(CHAT.call()).body == body
    assert optimizer.written_back(f"ck-large-{framing}")["response"] == json.loads(body)


@both_framings
@pytest.mark.parametrize("route", ["", "/h2"], ids=["to HTTP/1.1", "to HTTP/2"])
def test_five_megabytes_are_transformed_where_there_is_room(
    roomy, optimizer, provider, http, framing, route
):
    optimizer.on(OPTIMIZE, transforms(grow))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(grow))
    answer = answer_of(5 * MIB, framing)
    provider.answers(answer)
    call = request_of(5 * MIB, framing, prefix=route)
    reply = roomy.send(call, http)
    assert reply.status == 200 and not reply.error
    assert provider.of(reply.case)[0].json == grow(json.loads(b"".join(call.body)))
    assert reply.json == grow(json.loads(b"".join(answer.pieces)))
    assert roomy.outcome(reply) == "transformed"


TIGHT = Setup(module(limits={"host_buffer_bytes": 3 * MIB}), buffer_bytes=3 * MIB)


@pytest.mark.parametrize("size", [MIB - 100, MIB + 100, 2 * MIB, 3 * MIB, 6 * MIB],
                         ids=lambda size: f"{size} bytes")
def test_a_body_of_unknown_length_is_let_go_in_time(proxies, optimizer, provider, http, size):
    proxy = proxies.get(TIGHT)
    provider.answers(lambda seen: answer_of(size, "chunked"))
    call = request_of(size, "chunked")
    reply = proxy.send(call, http)
    assert reply.status == 200 and not reply.error
    assert provider.of(reply.case)[0].body == b"".join(call.body)
    assert len(reply.body) == size


def test_a_request_over_its_limit_is_let_go_in_the_middle(roomy, optimizer, provider, http):
    optimizer.on(OPTIMIZE, transforms(grow))
    call = request_of(18 * MIB, "chunked")
    reply = roomy.send(call, http)
    assert reply.status == 200
    assert provider.of(reply.case)[0].body == b"".join(call.body)
    assert roomy.outcome(reply) == "bypassed:request_too_large"


# A module that was told of more room than the host has.
DECEIVED = Setup(module(limits={"host_buffer_bytes": 32 * MIB}))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_host_with_less_room_than_it_was_told_refuses_and_nothing_breaks(
    proxies, optimizer, provider, framing
):
    proxy = proxies.get(DECEIVED)
    reply = proxy.send(request_of(4 * MIB, framing))
    assert (reply.status, proxy.outcome(reply)) == (413, "bypassed:host_answered")
    provider.answers(answer_of(4 * MIB, framing))
    assert not proxy.send(CHAT.call()).complete or proxy.send(CHAT.call()).status == 500
    provider.answers(provider.default)
    assert proxy.send(CHAT.call()).json == CHAT.answer


def test_held_bodies_are_forgotten_again(proxies, optimizer, provider):
    """More calls than limits.total_bytes could hold at a time, one after the other."""
    proxy = proxies.get(Setup(module(limits={"total_bytes": 2 * MIB})))
    optimizer.on(OPTIMIZE, transforms(grow))
    for _ in range(12):
        provider.answers(answer_of(400000, "length"))
        assert proxy.outcome(proxy.send(request_of(400000, "length"))) == "transformed"
