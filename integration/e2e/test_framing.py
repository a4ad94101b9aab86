"""Lengths that lie: what the provider and the client read is never more than one message."""

import json
import socket

import pytest

from kit import client
from kit.dialects import CHAT
from kit.message import Answer, as_json
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, rewrites, says, transforms
from kit.proxy import HTTP1

CLOSE = "connection: close"
# A whole request inside of a body: surplus bytes would be served as the next one.
INNER = "POST /v1/smuggled HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
BODY = CHAT.call().body
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
JSON = "content-type: application/json"

# Each ends with Envoy closing the connection.
LIES = {
    "a length and chunks": ([CLOSE, f"content-length: {len(BODY)}", "transfer-encoding: chunked"], CHUNKED),
    "chunks and a short length": ([CLOSE, "transfer-encoding: chunked", "content-length: 4"], CHUNKED),
    "two lengths": ([CLOSE, f"content-length: {len(BODY)}", "content-length: 0"], BODY),
    "the same length twice": ([CLOSE, f"content-length: {len(BODY)}", f"content-length: {len(BODY)}"], BODY),
    "a list of lengths": ([CLOSE, f"content-length: {len(BODY)}, {len(BODY)}"], BODY),
    "a length with a sign": ([CLOSE, f"content-length: +{len(BODY)}"], BODY),
    "a negative length": ([CLOSE, "content-length: -1"], BODY),
    "a length in hex": ([CLOSE, f"content-length: {len(BODY):#x}"], BODY),
    "a length that is too short": ([CLOSE, f"content-length: {len(BODY) - 2}"], BODY),
    "an unknown coding": ([CLOSE, "transfer-encoding: chunked, identity"], CHUNKED),
    "a hidden coding": ([CLOSE, "transfer-encoding : chunked"], CHUNKED),
    "a coding with a tab": ([CLOSE, "transfer-encoding:\tchunked"], CHUNKED),
    "chunks with a bad size": ([CLOSE, "transfer-encoding: chunked"], b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunks with a request behind": (["transfer-encoding: chunked"], CHUNKED + INNER.encode()),
    "a request behind the body": ([f"content-length: {len(BODY)}"], BODY + INNER.encode()),
}


def answered(proxy, fields: list[str], body: bytes) -> list[int]:
    """The status of every answer to these bytes."""
    head = "\r\n".join([f"POST {CHAT.path} HTTP/1.1", "host: llm.test", JSON, *fields, "", ""])
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as sock:
        sock.sendall(head.encode() + body)
        got = b""
        while data := sock.recv(1 << 16):
            got += data
    return [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("fields, body", LIES.values(), ids=LIES.keys())
def test_the_module_adds_no_reading_of_its_own(plain, without, optimizer, provider, fields, body):
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"note": INNER}))
    expected = answered(without, fields, body)
    seen_without = [(seen.path, seen.complete) for seen in provider.calls]
    provider.reset()
    assert answered(plain, fields, body) == expected
    assert [(seen.path, seen.complete) for seen in provider.calls] == seen_without


def test_a_request_inside_of_a_transform_is_no_request(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"note": INNER * 50}))
    for _ in range(5):
        reply = plain.send(CHAT.call(), http)
        assert reply.json == CHAT.answer
        assert provider.of(reply.case)[0].json["note"] == INNER * 50
    assert {seen.path for seen in provider.calls} == {CHAT.path} and len(provider.calls) == 5


def test_an_answer_inside_of_a_transform_is_no_answer(plain, optimizer, provider):
    inner = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"note": inner * 50}))
    replies = client.send_in_turn(plain.port, [CHAT.call() for _ in range(5)])
    assert [(reply.json["note"], reply.error) for reply in replies] == [(inner * 50, "")] * 5


@pytest.mark.parametrize("length", [10, len(json.dumps(CHAT.answer)) + 500], ids=["short", "long"])
def test_a_provider_s_wrong_length_is_not_made_worse(plain, without, optimizer, provider, length):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-wrong-length"))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"note": "n" * 900}))
    provider.answers(as_json(CHAT.answer, framing=length, end="close"))
    bare = without.send(CHAT.call(), HTTP1)
    reply = plain.send(CHAT.call(), HTTP1)
    assert "note" not in reply.body.decode()
    # What was held when it broke off can still be told from a whole answer by its status.
    assert (reply.status, reply.complete) in [(bare.status, bare.complete), (502, True)]
    # The next one is nobody else's.
    provider.answers(Answer(status=418))
    assert plain.send(CHAT.call(), HTTP1).status == 418
