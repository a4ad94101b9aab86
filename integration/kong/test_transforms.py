"""Transforms: only of bodies that were prepared, and only where the operator switched them on."""

import json

import pytest

from kit import client
from kit.client import AUTHORITY, Request
from kit.dialects import ALL, CHAT
from kit.optimizer import OPTIMIZE, raw_members, says, transforms

from gateway import PREPARE, READ_ONLY, UNPREPARED, Setup

CALLER_SPELLING = (
    b'{ "model" : "gpt-x",\n "seed":12345678901234567890, "temperature":1.50,"top_p":1e0 ,'
    b' "user":"caf\\u00e9", "x_unknown":{"b":1, "a":[ ]},"messages":[{"role":"user",'
    b'"content":"a  b"}]  }'
)


def padded(size: int) -> bytes:
    """A chat request of so many bytes."""
    empty = json.dumps(CHAT.body(padding=""))
    return json.dumps(CHAT.body(padding="x" * (size - len(empty)))).encode()


def got(provider, reply):
    [seen] = provider.of(reply.case)
    assert seen.headers.all("content-length") == [str(len(seen.body))]
    assert not seen.headers.has("transfer-encoding")
    return seen


def sent(call: Request, how: str) -> Request:
    """The same call, with its body on the wire in another way."""
    body = call.body
    pieces = {
        "whole": body,
        "chunked": [body],
        "in many chunks": [body[at:at + 7] for at in range(0, len(body), 7)],
        "byte by byte": [piece for byte in body for piece in (bytes([byte]), 0.0005)],
        "in segments": [piece for at in range(0, len(body), 16) for piece in (body[at:at + 16], 0.002)],
    }[how]
    framing = "chunked" if "chunk" in how else "length"
    headers = call.headers + ([("expect", "100-continue")] if how == "expected" else [])
    return Request(path=call.path, headers=headers, body=pieces, framing=framing)


WAYS = ["whole", "chunked", "in many chunks", "in segments", "byte by byte"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_prepared_body_is_transformed(prepared, optimizer, provider, http, dialect, how):
    optimizer.on(OPTIMIZE, transforms(dialect.shorten))
    call = dialect.call(key="sk-1")
    reply = prepared.send(sent(call, how), http)
    assert (reply.status, reply.json) == (200, dialect.answer)
    seen = got(provider, reply)
    assert seen.json == dialect.shorten(dialect.request)
    before, after = raw_members(call.body), raw_members(seen.body)
    for name in before.keys() - {dialect.prompt}:
        assert after[name] == before[name]
    assert prepared.outcome(reply) == "applied"


def test_unchanged_members_keep_their_spelling(prepared, optimizer, provider, http):
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"messages": CHAT.shorter_prompt}))
    reply = prepared.send(CHAT.call(raw=CALLER_SPELLING), http)
    before, after = raw_members(CALLER_SPELLING), raw_members(got(provider, reply).body)
    assert after.keys() == before.keys()
    for name in before.keys() - {"messages"}:
        assert after[name] == before[name]
    assert json.loads(after["messages"]) == CHAT.shorter_prompt


def test_an_unchanged_body_goes_on_as_it_came(prepared, optimizer, provider, http):
    reply = prepared.send(CHAT.call(raw=CALLER_SPELLING), http)
    assert got(provider, reply).body == CALLER_SPELLING
    assert prepared.outcome(reply) == "unchanged"


@pytest.mark.parametrize("size", [1000, 9000, 70000, 500_000])
def test_bodies_of_any_size_that_fits_are_transformed(prepared, optimizer, provider, http, size):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    raw = padded(size)
    reply = prepared.send(CHAT.call(raw=raw), http)
    assert raw_members(got(provider, reply).body)["padding"] == raw_members(raw)["padding"]
    assert json.loads(raw_members(provider.of(reply.case)[0].body)["messages"]) == CHAT.shorter_prompt


def test_a_longer_body_than_the_original_is_whole(prepared, optimizer, provider, http):
    more = [{"role": "system", "content": "y" * 300_000}]
    optimizer.on(OPTIMIZE, transforms(lambda request: request | {"messages": more + request["messages"]}))
    reply = prepared.send(CHAT.call(), http)
    assert got(provider, reply).json["messages"][0] == more[0]


def test_expect_100_continue_is_answered_and_the_body_transformed(prepared, optimizer, provider):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    call = CHAT.call(headers=[("expect", "100-continue")])
    call.body = [0.1, call.body]
    reply = prepared.send(call)
    assert [status for status, _ in reply.early] == [100]
    assert got(provider, reply).json == CHAT.shorten(CHAT.request)


def test_a_body_in_a_file_goes_on_as_it_is(gateways, module, optimizer, provider, http):
    gateway = gateways.get(Setup(module(), http={"client_body_buffer_size": "8k"}))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    raw = padded(100_000)
    for _ in range(3):
        reply = gateway.send(CHAT.call(raw=raw), http)
        assert reply.status == 200
        assert got(provider, reply).body == raw
    assert optimizer.calls == []


@pytest.mark.parametrize("how", WAYS)
def test_without_the_step_a_body_goes_on_as_it_is(gateways, module, optimizer, provider, http, how):
    gateway = gateways.get(Setup(module(), prepare=UNPREPARED))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    for _ in range(3):
        reply = gateway.send(sent(CHAT.call(), how), http)
        assert (reply.status, reply.json) == (200, CHAT.answer)
        [seen] = provider.of(reply.case)
        assert seen.body == CHAT.call().body


@pytest.mark.parametrize("prepare", [PREPARE, UNPREPARED], ids=["prepared", "unprepared"])
def test_switched_off_a_body_goes_on_as_it_is(gateways, module, optimizer, provider, http, prepare):
    gateway = gateways.get(Setup(module(kong={"transform": False}), prepare=prepare))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    for how in WAYS:
        reply = gateway.send(sent(CHAT.call(), how), http)
        assert (reply.status, reply.json) == (200, CHAT.answer)
        [seen] = provider.of(reply.case)
        assert seen.body == CHAT.call().body


@pytest.mark.parametrize("how", WAYS)
def test_a_body_that_was_only_read_harms_nobody(gateways, module, optimizer, provider, how, http):
    """nginx crashes where such a body is replaced, on the next call of the same connection."""
    gateway = gateways.get(Setup(module(), prepare=READ_ONLY))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    calls = [sent(CHAT.call(headers=[("x-case", f"{how} {http} {number}")]), how) for number in range(20)]
    if http == "HTTP/1.1":
        replies = client.send_in_turn(gateway.port, calls)
    else:
        replies = client.send_together(gateway.port, calls, http)
    for number, reply in enumerate(replies):
        assert (reply.status, reply.json) == (200, CHAT.answer)
        [seen] = provider.of(f"{how} {http} {number}")
        assert seen.json in (CHAT.request, CHAT.shorten(CHAT.request))


@pytest.mark.parametrize("how", WAYS)
def test_many_calls_on_one_connection_are_transformed(prepared, optimizer, provider, how, http):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    calls = [sent(CHAT.call(headers=[("x-case", f"{how} {http} {number}")]), how) for number in range(30)]
    if http == "HTTP/1.1":
        replies = client.send_in_turn(prepared.port, calls)
    else:
        replies = client.send_together(prepared.port, calls, http)
    for number, reply in enumerate(replies):
        assert (reply.status, reply.json) == (200, CHAT.answer)
        [seen] = provider.of(f"{how} {http} {number}")
        assert seen.json == CHAT.shorten(CHAT.request)
