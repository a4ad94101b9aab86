"""Calls that the module has no part in: the same bytes both ways as without it."""

import gzip

import pytest

from kit.client import Request
from kit.dialects import ALL, CHAT
from kit.message import RESET, Answer, Raw, as_json
from kit.provider import sse

JSON = ("content-type", "application/json")
# Differ from call to call, or from Envoy to Envoy, with or without the filter.
VARYING = ("x-case", "x-request-id", "date", "x-envoy-upstream-service-time", "host", "content-length")
OFF = ("x-anyray-optimize", "off")
# What the module asks for where it may read the answer: then nothing changes.
IDENTITY = ("accept-encoding", "identity")


def large(count: int) -> bytes:
    return bytes(range(256)) * (count // 256)


# What the client sends and what the provider answers (None: the plain answer).
CALLS = {
    "a GET": (Request(method="GET", path="/v1/models"), None),
    "a GET of a page with a query": (Request(method="GET", path="/a/../b?x=%20&y"), None),
    "a HEAD": (Request(method="HEAD", path="/x"), Answer(body=b"12345")),
    "an OPTIONS": (Request(method="OPTIONS", path=CHAT.path), Answer(status=204)),
    "a DELETE": (Request(method="DELETE", path="/v1/responses/r1"), None),
    "a GET on an endpoint": (Request(method="GET", path=CHAT.path), None),
    "an empty POST": (Request(path="/x"), None),
    "an empty POST on an endpoint": (Request(path=CHAT.path, headers=[JSON]), None),
    "bytes that are no text": (Request(path="/v1/files", body=large(5000)), None),
    "a multipart form": (
        Request(path="/v1/audio/transcriptions", body=b"--x\r\n\r\n\x00\xff\r\n--x--",
                headers=[("content-type", "multipart/form-data; boundary=x")]), None),
    "a chunked body": (
        Request(path="/x", body=[b"one", b"two", 0.05, b"three"], framing="chunked"), None),
    "trailers both ways": (
        Request(path="/x", body=[b"one"], framing="chunked", trailers=[("x-tail", "1")]),
        Answer(body=[b"a", 0.05, b"b"], framing="chunked", trailers=[("x-end", "2")])),
    "trailers both ways on an endpoint, opted out": (
        Request(path=CHAT.path, headers=[JSON, OFF], body=[CHAT.call().body], framing="chunked",
                trailers=[("x-tail", "1")]),
        Answer(headers=[JSON], body=[b"{}"], framing="chunked", trailers=[("x-end", "2")])),
    "headers that come twice": (
        Request(path="/x", headers=[("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("cookie", "a=1")]),
        Answer(headers=[("set-cookie", "a"), ("x-z", "1"), ("set-cookie", "b"), ("x-z", "2")])),
    "headers that are no UTF-8": (
        Request(path="/x", headers=[("x-a", "caf\xe9\xff")]), Answer(headers=[("x-b", "\xfe")])),
    "headers that are no UTF-8 on an endpoint": (
        Request(path=CHAT.path, headers=[JSON, OFF, ("x-a", "\xe9")], body=b"{}"),
        Answer(headers=[JSON, ("x-b", "\xfe")], body=b"{}")),
    "megabytes both ways": (
        Request(path="/x", body=large(3_000_000)), Answer(body=large(3_000_000))),
    "megabytes both ways on an endpoint, opted out": (
        Request(path=CHAT.path, headers=[JSON, OFF], body=large(3_000_000)),
        Answer(headers=[JSON], body=large(3_000_000))),
    "an expectation": (
        Request(path="/x", headers=[("expect", "100-continue")], body=b"x"), None),
    "early hints": (Request(method="GET", path="/x"),
                    Answer(early=[(103, [("link", "</x>")])], body=b"x")),
    "an opted-out call": (CHAT.call(headers=[OFF, ("accept-encoding", "gzip")]), None),
    "an opted-out stream": (
        CHAT.call(headers=[OFF], stream=True), sse(b"data: 1\n\n", b"data: 2\n\n", gap=0.05)),
    "a signed call": (CHAT.call(headers=[("content-digest", "sha-256=:AA==:")]), None),
    "a gzip request": (
        Request(path=CHAT.path, headers=[JSON, ("content-encoding", "gzip")],
                body=gzip.compress(b"{}")), None),
    "a gzip answer": (
        CHAT.call(headers=[OFF]),
        as_json(gzip.compress(b"{}"), headers=[("content-encoding", "gzip"), ("etag", '"1"')])),
    "a request that is no JSON": (CHAT.call(raw=b"{'model': 1}"), None),
    "a request that is no JSON with all its encodings": (
        CHAT.call(raw=b"no json", headers=[("accept-encoding", "gzip, br;q=0.5")]), None),
    "a request of unknown length": (
        Request(path=CHAT.path, headers=[JSON], body=[CHAT.call().body], framing="chunked"), None),
    "a stream": (CHAT.call(stream=True), sse(b"data: 1\n\n", b"data: [DONE]\n\n", gap=0.05)),
    "a 304": (Request(method="GET", path="/x"), Answer(status=304, headers=[("etag", '"1"')])),
    "a 401": (CHAT.call(headers=[IDENTITY]), as_json({"error": {}}, status=401)),
    "a 429 with its advice": (
        CHAT.call(headers=[IDENTITY]), as_json({"error": {}}, status=429, headers=[("retry-after", "3")])),
    "a 500 without a body": (CHAT.call(headers=[IDENTITY]), Answer(status=500)),
    "a redirect": (CHAT.call(headers=[IDENTITY]), Answer(status=307, headers=[("location", "/elsewhere")])),
    "a provider that resets": (CHAT.call(headers=[IDENTITY]), RESET),
    "a provider that speaks no HTTP": (CHAT.call(headers=[IDENTITY]), Raw([b"garbage\r\n\r\n"])),
    "an unreachable provider": (CHAT.call(headers=[IDENTITY], prefix="/gone"), None),
    "an answer that ends early": (
        CHAT.call(headers=[OFF]),
        Answer(headers=[JSON], body=[b'{"a":', 0.1], framing=1000, end="close")),
    "a stream that ends early": (
        CHAT.call(stream=True),
        Answer(headers=[("content-type", "text/event-stream")], body=[b"data: 1\n\n", 0.1],
               framing="chunked", end="reset")),
    **{f"an answered call of {dialect}": (dialect.call(key="sk-1", headers=[
        IDENTITY]), None) for dialect in ALL},
}


def both_ends(proxy, provider, call, http):
    """What the provider and the client saw, less what varies."""
    reply = proxy.send(call, http)
    seen = [
        (s.method, s.path, sorted(s.headers.without(*VARYING, "x-anyray-optimize")), s.body,
         s.framing, list(s.trailers), s.headers.get("content-length"))
        for s in provider.of(reply.case)
    ]
    got = (
        reply.status, sorted(reply.headers.without(*VARYING)), reply.body, list(reply.trailers),
        reply.framing, reply.complete, reply.early, reply.headers.get("content-length"),
    )
    return seen, got


@pytest.mark.parametrize("route", ["", "/h2"], ids=["to HTTP/1.1", "to HTTP/2"])
@pytest.mark.parametrize("call, answer", CALLS.values(), ids=CALLS.keys())
def test_the_same_with_and_without_the_module(
    plain, without, optimizer, provider, http, call, answer, route
):
    if answer is not None:
        provider.answers(answer)
    call = Request(**call.__dict__ | {"path": route + call.path})
    with_module = both_ends(plain, provider, call, http)
    without_it = both_ends(without, provider, call, http)
    assert with_module == without_it


def test_the_order_of_headers_is_kept(plain, without, provider):
    call = CHAT.call(headers=[OFF, *[(f"x-{n}", "v") for n in "zaybxc"]])
    names = []
    for proxy in (plain, without):
        [seen] = provider.of(proxy.send(call).case)
        names.append([name for name, _ in seen.headers if name != OFF[0]])
    assert names[0] == names[1]
