"""The response hook: what the optimizer makes of an answer is what the client gets."""

import gzip
import json

import pytest

from conftest import module
from kit.dialects import ALL, CHAT, MESSAGES
from kit.envoy_config import MIB, Setup
from kit.message import RESET, Answer, Raw, as_json
from kit.optimizer import (
    DECISION, OPTIMIZE, OPTIMIZE_RESPONSE, hits, raw_members, rewrites, transforms,
)
from kit.provider import LIMITS, sse

PLAIN_BYTES = json.dumps(CHAT.answer).encode()


def shorter(response: dict) -> dict:
    return {k: v for k, v in response.items() if k != "usage"} | {"x_rewritten": True}


@pytest.mark.parametrize("route", ["", "/h2"], ids=["from HTTP/1.1", "from HTTP/2"])
@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_a_rewritten_answer_reaches_the_client(plain, optimizer, provider, http, dialect, route):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    counting = plain.counting()
    call = dialect.call(key="sk-1", prefix=route)
    reply = plain.send(call, http)
    assert reply.complete and not reply.error
    assert (reply.status, reply.json) == (200, shorter(dialect.answer))
    assert reply.headers.all("content-length") in ([], [str(len(reply.body))])
    assert LIMITS in reply.headers

    [asked] = optimizer.to(OPTIMIZE_RESPONSE)
    envelope = raw_members(asked.body)
    assert json.loads(envelope["endpoint"]) == dialect.path
    assert envelope["response"] == json.dumps(dialect.answer)
    assert envelope["request"] == call.body.decode()
    assert plain.logged(reply.case)["response"] == "transformed"
    counting.expect(responses={"transformed none": 1}, callouts={"optimize_response ok": 1})


def test_it_sees_the_request_that_the_provider_got(plain, optimizer):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    plain.send(CHAT.call())
    [asked] = optimizer.to(OPTIMIZE_RESPONSE)
    assert asked.json["request"] == CHAT.shorten(CHAT.request)
    assert asked.json["metadata"] == optimizer.asked().json["metadata"]


@pytest.mark.parametrize("change", [
    lambda response: response | {"choices": [{"text": "x" * 20000}]},
    lambda response: response | {"choices": [{"text": ""}]},
], ids=["longer", "shorter"])
def test_the_length_follows_the_answer(plain, optimizer, http, change):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(change))
    reply = plain.send(CHAT.call(), http)
    assert reply.json == change(CHAT.answer) and not reply.error


NOT_APPLIED = {
    "there are no decisions": {"response": {"id": "other"}, "decisions": []},
    "decisions are missing": {"response": {"id": "other"}},
    "decisions are null": {"response": {"id": "other"}, "decisions": None},
    "the response is null": {"response": None, "decisions": [DECISION]},
    "the response is missing": {"decisions": [DECISION]},
    "the response is a string": {"response": "x", "decisions": [DECISION]},
    "the response is an array": {"response": [{}], "decisions": [DECISION]},
    "the response is the same": {"response": CHAT.answer, "decisions": [DECISION]},
}


@pytest.mark.parametrize("answer", NOT_APPLIED.values(), ids=NOT_APPLIED.keys())
def test_not_applied_where(plain, optimizer, http, answer):
    optimizer.on(OPTIMIZE_RESPONSE, as_json(answer))
    reply = plain.send(CHAT.call(), http)
    assert reply.body == PLAIN_BYTES


def test_a_changed_answer_loses_its_etag_and_digests(plain, optimizer, provider, http):
    kept = [("x-request-cost", "0.1"), ("set-cookie", "a=1"), ("set-cookie", "b=2"),
            ("content-type", "application/json; charset=utf-8")]
    lost = [("etag", '"1"'), ("content-digest", "sha-256=:AA==:"), ("digest", "sha-256=AA=="),
            ("content-md5", "AA=="), ("repr-digest", "sha-256=:AA==:")]
    provider.answers(Answer(headers=[*kept, *lost], body=PLAIN_BYTES))
    reply = plain.send(CHAT.call(), http)
    assert set(kept + lost) <= set(reply.headers)

    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    reply = plain.send(CHAT.call(), http)
    assert reply.json == shorter(CHAT.answer)
    assert set(kept) <= set(reply.headers)
    assert not {name for name, _ in lost} & {name for name, _ in reply.headers}


SKIPPED = {
    "a 400": (as_json({"error": {}}, status=400), "response_status"),
    "a 500": (as_json({"error": {}}, status=500), "response_status"),
    "plain text": (
        Answer(headers=[("content-type", "text/plain")], body=PLAIN_BYTES),
        "response_content_type"),
    "no content type": (Answer(body=PLAIN_BYTES), "response_content_type"),
    "a gzip answer": (
        as_json(gzip.compress(PLAIN_BYTES), headers=[("content-encoding", "gzip")]),
        "response_encoded"),
    "a stream": (sse(b"data: {}\n\n", b"data: [DONE]\n\n"), "response_stream"),
    "an empty answer": (as_json(b""), "response_empty"),
    "a 204": (as_json(b"", status=204), "response_empty"),
    "an answer of unknown length": (
        as_json(PLAIN_BYTES, framing="chunked"), "response_length_unknown"),
    "an answer over the host's buffer": (
        as_json({"x": "x" * MIB}), "response_over_host_buffer"),
    "no JSON": (as_json(b"{'a': 1}"), "response_not_json"),
    "JSON that is not UTF-8": (as_json(b'{"a":"\xff"}'), "response_not_json"),
    "an array": (as_json([CHAT.answer]), "response_not_object"),
    "a member named twice": (as_json(b'{"id":1,"id":2}'), "response_duplicate_member"),
}


@pytest.mark.parametrize("answer, reason", SKIPPED.values(), ids=SKIPPED.keys())
def test_left_alone(plain, optimizer, provider, http, answer, reason):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    provider.answers(answer)
    counting = plain.counting()
    reply = plain.send(CHAT.call(), http)
    assert (reply.status, reply.body) == (answer.status, b"".join(answer.pieces))
    assert optimizer.to(OPTIMIZE_RESPONSE) == []
    assert plain.logged(reply.case)["response"] == f"bypassed:{reason}"
    counting.expect(responses={f"bypassed {reason}": 1}, exchanges={"unchanged none": 1})


def test_left_alone_where_the_request_was(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    counting = plain.counting()
    reply = plain.send(CHAT.call(headers=[("x-anyray-optimize", "off")]), http)
    assert reply.body == PLAIN_BYTES
    assert optimizer.to(OPTIMIZE_RESPONSE) == []
    counting.expect(responses={"bypassed request_bypassed": 1})


BROKEN = {
    "nobody listens": (None, 503),
    "it resets": (RESET, 503),
    "it speaks no HTTP": (Raw([b"garbage\r\n\r\n"]), 502),
}


@pytest.mark.parametrize("answer, status", BROKEN.values(), ids=BROKEN.keys())
def test_the_proxy_s_own_answer_is_left_alone_when(
    plain, optimizer, provider, http, answer, status
):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    if answer:
        provider.answers(answer)
    reply = plain.send(CHAT.call(prefix="" if answer else "/gone"), http)
    assert reply.status == status
    assert b"upstream connect error" in reply.body or status == 502
    assert optimizer.to(OPTIMIZE_RESPONSE) == []


@pytest.mark.parametrize("framing, end", [(100000, "close"), ("chunked", "reset")],
                         ids=["shorter than its length", "cut in its chunks"])
def test_an_answer_that_breaks_off_breaks_off(
    plain, roomy, optimizer, provider, http, framing, end
):
    provider.answers(Answer(headers=[("content-type", "application/json")],
                            body=[PLAIN_BYTES, 0.2], framing=framing, end=end))
    for proxy in (plain, roomy):
        reply = proxy.send(CHAT.call(), http)
        assert not (reply.complete and reply.status == 200)
    assert optimizer.to(OPTIMIZE_RESPONSE) == []


@pytest.mark.parametrize("route", ["", "/h2"], ids=["from HTTP/1.1", "from HTTP/2"])
@pytest.mark.parametrize("trailers", [[], [("x-end", "kept")]], ids=["alone", "with trailers"])
def test_a_chunked_answer_is_rewritten_where_the_host_has_room(
    roomy, optimizer, provider, http, route, trailers
):
    pieces = [PLAIN_BYTES[:30], 0.05, PLAIN_BYTES[30:]]
    provider.answers(Answer(headers=[("content-type", "application/json")], body=pieces,
                            framing="chunked", trailers=trailers))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    reply = roomy.send(CHAT.call(prefix=route), http)
    assert reply.json == shorter(CHAT.answer) and not reply.error
    assert list(reply.trailers) == trailers


def test_informational_answers_pass(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    provider.answers(as_json(CHAT.answer, early=[(103, [("link", "</x>; rel=preload")])]))
    reply = plain.send(CHAT.call(), http)
    assert reply.json == shorter(CHAT.answer)


def test_a_hit_does_not_run_it(plain, optimizer, key):
    plain.send(CHAT.call(key=key))
    optimizer.reset()
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    assert plain.outcome(plain.send(CHAT.call(key=key))) == "hit"
    assert optimizer.to(OPTIMIZE_RESPONSE) == []


def test_switched_off_it_asks_nothing_and_counts_nothing(proxies, optimizer, http):
    proxy = proxies.get(Setup(module(hooks={"response": False})))
    counting = proxy.counting()
    reply = proxy.send(CHAT.call(), http)
    assert reply.body == PLAIN_BYTES
    assert optimizer.to(OPTIMIZE_RESPONSE) == []
    counting.expect(exchanges={"unchanged none": 1}, responses={})


def test_a_larger_answer_than_the_limit_is_left_alone(narrow, optimizer, provider, http):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    provider.answers(as_json(CHAT.answer | {"x": "x" * 2048}))
    counting = narrow.counting()
    assert len(narrow.send(CHAT.call(), http).json["x"]) == 2048
    counting.expect(responses={"bypassed response_too_large": 1})


def test_an_answer_grown_over_the_host_s_buffer_is_not_applied(plain, optimizer, http):
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"x": "x" * MIB}))
    reply = plain.send(MESSAGES.call(), http)
    assert (reply.status, reply.json) == (200, MESSAGES.answer)


def test_slow_answers_in_pieces_are_one_answer(plain, optimizer, provider, http):
    pieces = [step for at in range(0, len(PLAIN_BYTES), 40)
              for step in (PLAIN_BYTES[at:at + 40], 0.01)]
    provider.answers(Answer(headers=[("content-type", "application/json")], body=pieces))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(shorter))
    reply = plain.send(CHAT.call(), http)
    assert reply.json == shorter(CHAT.answer)
