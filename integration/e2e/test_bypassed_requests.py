"""Requests that the module leaves alone: the provider gets them as they were sent."""

import gzip
import json

import pytest

from conftest import module
from kit.client import Request
from kit.dialects import CHAT
from kit.envoy_config import MIB, Setup
from kit.optimizer import transforms

BODY = CHAT.call().body
JSON = ("content-type", "application/json")
SIGV4 = "AWS4-HMAC-SHA256 Credential=AKID/20261101/eu-west-1/bedrock/aws4_request, Signature=00"


def post(*headers, body=BODY, **more) -> Request:
    return Request(path=CHAT.path, headers=list(headers), body=body, **more)


def of_size(size: int) -> bytes:
    padding = size - len(json.dumps(CHAT.body(user="")).encode())
    body = json.dumps(CHAT.body(user="u" * padding)).encode()
    assert len(body) == size
    return body


BYPASSED = {
    "the client opted out": (post(JSON, ("x-anyray-optimize", "off")), "opted_out"),
    "a GET": (Request(method="GET", path=CHAT.path), "method"),
    "a PUT": (Request(method="PUT", path=CHAT.path, headers=[JSON], body=BODY), "method"),
    "plain text": (post(("content-type", "text/plain")), "request_content_type"),
    "a form": (post(("content-type", "multipart/form-data; boundary=x")), "request_content_type"),
    "no content type": (post(), "request_content_type"),
    "a gzip body": (
        post(JSON, ("content-encoding", "gzip"), body=gzip.compress(BODY)), "request_encoded"),
    "a SigV4 signature": (post(JSON, ("authorization", SIGV4)), "request_signed"),
    "a content-digest": (post(JSON, ("content-digest", "sha-256=:AA==:")), "request_signed"),
    "a digest": (post(JSON, ("digest", "sha-256=AA==")), "request_signed"),
    "a content-md5": (post(JSON, ("content-md5", "AA==")), "request_signed"),
    "a repr-digest": (post(JSON, ("repr-digest", "sha-256=:AA==:")), "request_signed"),
    "no body": (post(JSON, body=b""), "request_empty"),
    "no JSON": (post(JSON, body=b"model=gpt-x"), "request_not_json"),
    "half a JSON object": (post(JSON, body=BODY[:-1]), "request_not_json"),
    "two JSON objects": (post(JSON, body=BODY + BODY), "request_not_json"),
    "JSON that is not UTF-8": (
        post(JSON, body=BODY.replace(b"hello", b"h\xffllo")), "request_not_json"),
    "nesting without end": (post(JSON, body=b'{"a":' + b"[" * 100000), "request_not_json"),
    "an array": (post(JSON, body=b"[" + BODY + b"]"), "request_not_object"),
    "a string": (post(JSON, body=b'"hello"'), "request_not_object"),
    "null": (post(JSON, body=b"null"), "request_not_object"),
    "a member named twice": (
        post(JSON, body=b'{"model":"cheap",' + BODY[1:]), "request_duplicate_member"),
    "a member named twice in two spellings": (
        post(JSON, body=b'{"mod\\u0065l":"cheap",' + BODY[1:]), "request_duplicate_member"),
    "a body over the host's buffer": (
        post(JSON, body=of_size(MIB + 1)), "request_over_host_buffer"),
    "a body of unknown length": (post(JSON, framing="chunked"), "request_length_unknown"),
}


@pytest.mark.parametrize("call, reason", BYPASSED.values(), ids=BYPASSED.keys())
def test_the_provider_gets_the_request_as_it_was_sent(
    plain, optimizer, provider, http, call, reason
):
    optimizer.on("/v1/optimize", transforms(CHAT.shorten))
    counting = plain.counting()
    reply = plain.send(call, http)
    assert reply.status == 200
    [seen] = provider.of(reply.case)
    assert seen.body == call.body
    assert plain.outcome(reply) == f"bypassed:{reason}"
    counting.expect(exchanges={f"bypassed {reason}": 1})
    assert optimizer.calls == []


LIMITED = {
    "a body over limits.request_bytes": (
        {"request_bytes": 2048, "response_bytes": 2048}, post(JSON, body=of_size(2049)), "request_too_large"),
    "a body of unknown length over limits.request_bytes": (
        {"request_bytes": 2048, "host_buffer_bytes": 32 * MIB},
        post(JSON, body=of_size(40000), framing="chunked"), "request_too_large"),
    "a body of unknown length over the host's buffer": (
        {"host_buffer_bytes": 3 * MIB},
        post(JSON, body=of_size(3 * MIB + 100), framing="chunked"), "request_over_host_buffer"),
    "a body over limits.total_bytes": (
        {"total_bytes": MIB, "host_buffer_bytes": 32 * MIB},
        post(JSON, body=of_size(2 * MIB)), "over_total_bytes"),
}


@pytest.mark.parametrize("limits, call, reason", LIMITED.values(), ids=LIMITED.keys())
def test_a_request_over_a_limit_passes(
    proxies, optimizer, provider, http, limits, call, reason
):
    room = limits.get("host_buffer_bytes")
    proxy = proxies.get(Setup(module(limits=limits), buffer_bytes=room))
    optimizer.on("/v1/optimize", transforms(CHAT.shorten))
    reply = proxy.send(call, http)
    assert reply.status == 200
    assert provider.of(reply.case)[0].body == call.body
    assert proxy.outcome(reply) == f"bypassed:{reason}"
    assert optimizer.calls == []


def test_a_request_at_the_limit_is_optimized(narrow, optimizer):
    narrow.send(post(JSON, body=of_size(2048)))
    assert len(optimizer.asked().json["request"]["user"]) > 1000


@pytest.mark.parametrize("headers", [
    [("x-note", "caf\xe9 \xff")],
    [("authorization", "Bearer \xff\xfe")],
    [("x-anyray-metadata", '{"user":"\xff"}')],
    [("content-type", "application/json\xff")],
    [("traceparent", "\xff"), ("tracestate", "\xfe")],
], ids=lambda headers: headers[0][0])
def test_headers_that_are_no_utf8_break_nothing(plain, provider, http, headers):
    if not any(name == "content-type" for name, _ in headers):
        headers = [JSON, *headers]
    reply = plain.send(post(*headers), http)
    assert reply.status == 200
    assert provider.of(reply.case)[0].body == BODY
