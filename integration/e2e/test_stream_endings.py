"""Many streams at a time that end in every way: each is recorded, the whole ones are written back."""

import collections
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import module
from kit import client
from kit.dialects import CHAT, MESSAGES
from kit.envoy_config import MIB, Setup
from kit.message import NEVER, Answer
from kit.optimizer import CACHE, OPTIMIZE, RECORD, says
from kit.provider import sse
from kit.proxy import HTTP1, HTTP2
from kit.streams import STREAMING, document, events, recorded, told

CALLS = 240
# How a stream ends, and what becomes of its write-back.
ENDINGS = {
    "whole": "queued none",
    "left by the client": "bypassed stream_incomplete",
    "left before the end": "queued none",
    "never answered": "bypassed client_gone",
    "reset": "bypassed stream_incomplete",
    "closed": "bypassed stream_incomplete",
    "without a marker": "bypassed stream_incomplete",
    "an error": "bypassed response_error",
}


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def small(proxies, request):
    """An Envoy whose module may hold little at a time: what leaks shows soon."""
    return proxies.get(Setup(
        module(hooks={"record": True}, limits={"total_bytes": 4 * MIB}), concurrency=request.param))


def dialect_of(number: int):
    return STREAMING[number % len(STREAMING)]


def ending_of(number: int) -> str:
    return list(ENDINGS)[number // len(STREAMING) % len(ENDINGS)]


def part_of(number: int) -> list[bytes]:
    """The beginning of a stream, one event or more of it."""
    whole = told(dialect_of(number))
    return whole[:1 + number % (len(whole) - 2)]


def number_of(seen) -> int:
    return int(seen.headers.get("x-case"))


def answer(seen) -> Answer:
    number = number_of(seen)
    whole = told(dialect_of(number))
    match ending_of(number):
        case "whole":
            return sse(*whole, gap=0.001)
        case "left by the client":
            return sse(*part_of(number), end="hang")
        case "left before the end":
            return sse(*whole, end="hang")
        case "never answered":
            return NEVER
        case "reset":
            return sse(*part_of(number), gap=0.002, end="reset")
        case "closed":
            # Over HTTP/2 the connection is others' too.
            return sse(*part_of(number), gap=0.002, end="close")
        case "without a marker":
            return sse(*whole[:-1])
        case _:
            name = "anthropic_error" if dialect_of(number) is MESSAGES else "chat_error"
            if dialect_of(number).path.endswith("responses"):
                name = "responses_error"
            return sse(*events(recorded(name)))


def call(proxy, provider, number: int) -> None:
    """One call of a client, which leaves where its stream does not end."""
    dialect, ending = dialect_of(number), ending_of(number)
    request = dialect.call(stream=True, user=f"user-{number}", headers=[
        ("x-case", str(number)), ("x-request-id", f"call-{number}")])
    http = HTTP2 if number % 3 else HTTP1
    if ending == "never answered":
        sock = client.begin(proxy.port, request, http)
        provider.wait_for(lambda seen: number_of(seen) == number)
    elif ending.startswith("left"):
        last = (part_of(number) if ending == "left by the client" else told(dialect))[-1]
        sock = client.begin(proxy.port, request, http)
        got = b""
        while last not in got:
            more = sock.recv(1 << 16)
            assert more, (number, got)
            got += more
    else:
        reply = client.send(proxy.port, request, http)
        assert reply.status == 200 and reply.complete == (ending not in ("reset", "closed"))
        return
    sock.close()


def test_each_is_counted_once(small, optimizer, provider):
    optimizer.on(OPTIMIZE, lambda seen: says(
        cacheEligible=True, cacheKey=seen.json["request"]["user"])(seen))
    provider.answers(answer)
    counting = small.counting()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda number: call(small, provider, number), range(CALLS)))

    write_backs = collections.Counter(ENDINGS[ending_of(number)] for number in range(CALLS))
    counting.expect(records={"queued none": CALLS}, write_backs=dict(write_backs), seconds=10,
                    callouts={"record ok": CALLS, "cache ok": write_backs["queued none"]})
    recorded_ids = collections.Counter(seen.json["id"] for seen in optimizer.to(RECORD))
    assert recorded_ids == {f"call-{number}": 1 for number in range(CALLS)}
    written = {seen.json["cacheKey"]: seen.json["response"] for seen in optimizer.to(CACHE)}
    assert written == {f"user-{number}": document(dialect_of(number))
                       for number in range(CALLS) if ENDINGS[ending_of(number)] == "queued none"}
    assert len(optimizer.to(CACHE)) == len(written)


def test_nothing_is_kept_of_them(small, optimizer, provider):
    """A call that needs most of what may be held still gets it."""
    large = b"".join(told(CHAT)).replace(b"Gr", b"G" + b"r" * 300_000)
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck"))
    for _ in range(20):
        provider.answers(sse(large[:400_000], end="hang"))
        sock = client.begin(small.port, CHAT.call(stream=True), HTTP1)
        got = 0
        while got < 300_000:
            got += len(sock.recv(1 << 18))
        sock.close()
    time.sleep(0.2)
    provider.answers(sse(large))
    counting = small.counting()
    reply = small.send(CHAT.call(stream=True, user="u" * 900_000))
    assert reply.body == large and small.outcome(reply) == "unchanged"
    counting.expect(write_backs={"queued none": 1}, records={"queued none": 1})
