"""The response hook on streams, where `hooks.stream_response` is on: held, shown, told anew."""

import json

import pytest

from conftest import barrier, module
from kit import client
from kit.dialects import CHAT, MESSAGES
from kit.envoy_config import MIB, Setup
from kit.message import NEVER, RESET, Answer, as_json
from kit.optimizer import (
    CACHE, DECISION, OPTIMIZE, OPTIMIZE_RESPONSE, keeps, rewrites, says, transforms,
)
from kit.provider import LIMITS, sse
from kit.proxy import HTTP1
from kit.sdks import COUNTED, Sdks, the_same
from kit.streams import BROKEN, STREAMING, dialect_of, document, recorded, told

streaming = pytest.mark.parametrize("dialect", STREAMING, ids=str)
OTHER_MODEL = rewrites(lambda response: response | {"model": "rewritten"})


@pytest.fixture
def holding(holding_streams, optimizer):
    optimizer.on(OPTIMIZE_RESPONSE, OTHER_MODEL)
    return holding_streams


def untouched(proxy, reply, stream: bytes, reason: str) -> None:
    """The client got the provider's own bytes."""
    assert (reply.status, reply.body, reply.complete) == (200, stream, True)
    assert proxy.logged(reply.case)["response"] == f"bypassed:{reason}"


@streaming
@pytest.mark.parametrize("route", ["", "/h2"], ids=["from HTTP/1.1", "from HTTP/2"])
def test_a_rewritten_stream_reaches_the_client(
    holding, optimizer, provider, http, dialect, route
):
    answer = sse(*told(dialect), gap=0.002)
    answer.headers += [LIMITS, ("etag", '"1"')]
    provider.answers(answer)
    counting = holding.counting()
    reply = holding.send(dialect.call(stream=True, prefix=route), http)
    assert reply.status == 200 and reply.complete and not reply.error
    assert reply.headers.all("content-type") == ["text/event-stream"]
    assert LIMITS in reply.headers and not reply.headers.has("etag")
    assert b'"rewritten"' in reply.body and b'"gpt-x"' not in reply.body
    [asked] = optimizer.to(OPTIMIZE_RESPONSE)
    assert asked.json["endpoint"] == dialect.path
    assert asked.json["request"] == dialect.body(stream=True)
    assert asked.json["response"] == document(dialect)
    assert holding.logged(reply.case)["response"] == "transformed"
    counting.expect(responses={"transformed none": 1}, callouts={"optimize_response ok": 1})


@streaming
def test_the_sdks_consume_a_rewritten_stream(holding, provider, key, dialect):
    provider.answers(sse(*told(dialect)))
    sdks = Sdks(holding.url, key)
    final, _ = sdks.streamed(dialect, **COUNTED[dialect.name])
    provider.answers(as_json(document(dialect) | {"model": "rewritten"}))
    plain = sdks.plain(dialect)
    sdks.close()
    assert final["model"] == "rewritten"
    assert the_same(dialect, plain, final)


@streaming
def test_a_stream_that_is_not_changed_keeps_its_bytes(holding, optimizer, provider, http, dialect):
    stream = b"".join(told(dialect)).replace(b"\n", b"\r\n")
    provider.answers(sse(b": hello\r\n\r\n", stream))
    for script in (keeps, rewrites(lambda response: response)):
        optimizer.on(OPTIMIZE_RESPONSE, script)
        reply = holding.send(dialect.call(stream=True), http)
        assert reply.body == b": hello\r\n\r\n" + stream
        assert holding.logged(reply.case)["response"] == "unchanged"


FAILING = {
    "it answers 500": (as_json({}, status=500), "optimizer_status"),
    "it resets": (RESET, "optimizer_unreachable"),
    "it answers no JSON": (Answer(body=b"no json"), "answer_not_json"),
    "it answers a list": (as_json([]), "answer_wrong_shape"),
    "its response is no object": (
        as_json({"response": "x", "decisions": [DECISION]}), "answer_wrong_shape"),
}


@pytest.mark.parametrize("answer, reason", FAILING.values(), ids=FAILING.keys())
def test_the_stream_goes_on_as_it_came_when(
    holding, optimizer, provider, http, answer, reason
):
    optimizer.on(OPTIMIZE_RESPONSE, answer)
    provider.answers(sse(*told(CHAT)))
    reply = holding.send(CHAT.call(stream=True), http)
    untouched(holding, reply, b"".join(told(CHAT)), reason)


@pytest.fixture
def tight(proxies, optimizer):
    """Holds streams, but neither long ones nor for long."""
    optimizer.on(OPTIMIZE_RESPONSE, OTHER_MODEL)
    return proxies.get(Setup(module(
        optimizer={"upstream": "optimizer", "timeout_ms": 300}, hooks={"stream_response": True},
        limits={"host_buffer_bytes": 4 * MIB, "response_bytes": 3 * MIB}), buffer_bytes=4 * MIB))


def test_it_goes_on_after_the_time_out(tight, optimizer, provider, http):
    optimizer.on(OPTIMIZE_RESPONSE, NEVER)
    provider.answers(sse(*told(CHAT)))
    reply = tight.send(CHAT.call(stream=True), http)
    untouched(tight, reply, b"".join(told(CHAT)), "optimizer_timeout")
    assert 0.25 < reply.elapsed < 5


def test_a_stream_larger_than_the_host_s_room_flows_on(tight, provider, http):
    """Of the host's room, 2 MiB are left for what one callback may bring."""
    comments = [b": " + b"x" * (MIB // 8) + b"\n\n"] * 20
    provider.answers(sse(*comments, *told(CHAT), gap=0.001))
    reply = tight.send(CHAT.call(stream=True), http)
    untouched(tight, reply, b"".join(comments + told(CHAT)), "response_over_host_buffer")


NOT_APPLIED = {
    "no choice is left": ({"choices": []}, "transform_array_emptied"),
    "a choice has no message": ({"choices": [{"index": 0}]}, "transform_unreplayable"),
    "the choices are none": ({"choices": ["x"]}, "transform_required_retyped"),
}


@pytest.mark.parametrize("change, reason", NOT_APPLIED.values(), ids=NOT_APPLIED.keys())
def test_what_cannot_be_told_as_a_stream_is_not_applied(
    holding, optimizer, provider, http, change, reason
):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | change))
    provider.answers(sse(*told(CHAT)))
    reply = holding.send(CHAT.call(stream=True), http)
    untouched(holding, reply, b"".join(told(CHAT)), reason)


@pytest.mark.parametrize("name, reason", BROKEN.items(), ids=BROKEN.keys())
def test_a_broken_stream_is_not_shown(holding, optimizer, provider, name, reason):
    provider.answers(sse(recorded(name)))
    reply = holding.send(dialect_of(name).call(stream=True), HTTP1)
    untouched(holding, reply, recorded(name), reason)
    assert optimizer.to(OPTIMIZE_RESPONSE) == []


def test_a_stream_that_breaks_off_breaks_off(holding, optimizer, provider, http):
    provider.answers(sse(*told(CHAT)[:4], gap=0.02, end="reset"))
    reply = holding.send(CHAT.call(stream=True), http)
    assert not (reply.complete and reply.status == 200)
    assert optimizer.to(OPTIMIZE_RESPONSE) == []


@pytest.mark.parametrize("verdict, status", [("transformed", "applied"), ("unchanged", "unchanged")])
def test_the_client_is_told(holding, optimizer, provider, http, verdict, status):
    provider.answers(sse(*told(MESSAGES)))
    if verdict == "transformed":
        optimizer.on(OPTIMIZE, transforms(MESSAGES.shorten))
    asking = [("x-anyray-test", "1")]
    reply = holding.send(MESSAGES.call(stream=True, headers=asking), http)
    assert holding.outcome(reply) == verdict
    header = json.loads(reply.headers.get("x-anyray-optimization"))
    assert header["status"] == status
    # Those of the request hook first, then those of the response hook.
    assert header["decisions"] == [DECISION] * (2 if verdict == "transformed" else 1)


def test_a_plain_answer_to_a_streaming_client_is_shown_too(holding, http):
    reply = holding.send(CHAT.call(stream=True), http)
    assert reply.json == CHAT.answer | {"model": "rewritten"}


def test_what_the_client_got_is_written_back(holding, optimizer, provider, cache_key, http):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    provider.answers(sse(*told(CHAT)))
    holding.send(CHAT.call(stream=True), http)
    assert optimizer.written_back(cache_key)["response"] == document(CHAT) | {"model": "rewritten"}


def test_a_bypassed_stream_is_written_back_as_it_came(holding, optimizer, provider, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    optimizer.on(OPTIMIZE_RESPONSE, as_json({}, status=500))
    provider.answers(sse(*told(CHAT)))
    holding.send(CHAT.call(stream=True))
    assert optimizer.written_back(cache_key)["response"] == document(CHAT)


def test_without_room_streams_are_not_held(proxies, optimizer, provider, http):
    proxy = proxies.get(Setup(module(hooks={"stream_response": True})))
    optimizer.on(OPTIMIZE_RESPONSE, OTHER_MODEL)
    call = CHAT.call(stream=True)
    provider.answers(sse(*told(CHAT), gap=call.arrived))
    reply = proxy.send(call, http)
    untouched(proxy, reply, b"".join(told(CHAT)), "response_length_unknown")


def test_with_the_request_hook_bypassed_streams_are_not_held(holding, provider, http):
    call = CHAT.call(stream=True, headers=[("x-anyray-optimize", "off")])
    provider.answers(sse(*told(CHAT), gap=call.arrived))
    reply = holding.send(call, http)
    untouched(holding, reply, b"".join(told(CHAT)), "request_bypassed")


def test_a_client_that_leaves_is_counted(holding, optimizer, provider, http):
    provider.answers(sse(*told(CHAT)))
    optimizer.on(OPTIMIZE_RESPONSE, as_json({}, delay=0.3))
    counting = holding.counting()
    sock = client.begin(holding.port, CHAT.call(stream=True), http)
    optimizer.wait_for(lambda seen: seen.path == OPTIMIZE_RESPONSE)
    sock.close()
    counting.expect(responses={"bypassed client_gone": 1},
                    callouts={"optimize_response abandoned": 1})
    barrier(holding, optimizer, provider)
    assert len(optimizer.to(CACHE)) == 1
