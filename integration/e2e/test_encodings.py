"""Identity is asked of the provider exactly where its answer will be read."""

import gzip
import json

import pytest

from conftest import module
from kit.client import Request
from kit.dialects import CHAT, MESSAGES
from kit.envoy_config import Setup
from kit.message import as_json
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, hits, rewrites, says
from kit.provider import sse
from kit.streams import STREAMING, told

GZIP = ("accept-encoding", "gzip, br")
OFF = ("x-anyray-optimize", "off")


def upstream_encoding(proxy, provider, call, http) -> list[str]:
    reply = proxy.send(call, http)
    return provider.of(reply.case)[0].headers.all("accept-encoding")


def test_identity_where_the_response_hook_reads(plain, optimizer, provider, http):
    assert upstream_encoding(plain, provider, CHAT.call(headers=[GZIP]), http) == ["identity"]


@pytest.fixture
def only_requests(proxies):
    """Response hook off: only a write-back reads answers."""
    return proxies.get(Setup(module(hooks={"response": False})))


def test_identity_where_a_write_back_is_due(only_requests, optimizer, provider, http):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-identity"))
    call = CHAT.call(headers=[GZIP])
    assert upstream_encoding(only_requests, provider, call, http) == ["identity"]
    assert optimizer.written_back("ck-identity")["response"] == CHAT.answer


def test_identity_where_a_refused_hit_is_written_back(plain, optimizer, provider, key, http):
    optimizer.on(OPTIMIZE, hits({"id": "x"}, cacheEligible=True, cacheKey="ck-refused"))
    call = CHAT.call(key=key, headers=[GZIP])
    assert upstream_encoding(plain, provider, call, http) == ["identity"]


@pytest.mark.parametrize("dialect", STREAMING, ids=str)
def test_identity_where_a_stream_is_written_back(plain, optimizer, provider, http, dialect, cache_key):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    call = dialect.call(headers=[GZIP], stream=True)
    assert upstream_encoding(plain, provider, call, http) == ["identity"]


def test_identity_where_the_response_hook_reads_a_stream(holding_streams, provider, http):
    call = CHAT.call(headers=[GZIP], stream=True)
    assert upstream_encoding(holding_streams, provider, call, http) == ["identity"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_identity_where_a_record_is_made(recording, optimizer, provider, http, stream):
    call = CHAT.call(headers=[GZIP], stream=stream)
    assert upstream_encoding(recording, provider, call, http) == ["identity"]
    # A record alone is no reason to change a call that is to be left alone.
    for call in (CHAT.call(headers=[GZIP, OFF], stream=stream),
                 CHAT.call(headers=[GZIP], raw=b"no json")):
        assert upstream_encoding(recording, provider, call, http) == [GZIP[1]]
    optimizer.on(OPTIMIZE, as_json({}, status=500))
    call = CHAT.call(headers=[GZIP], stream=stream)
    assert upstream_encoding(recording, provider, call, http) == [GZIP[1]]


UNREAD = {
    "an opted-out call": CHAT.call(headers=[GZIP, OFF]),
    "a stream": CHAT.call(headers=[GZIP], stream=True),
    "a request that is no JSON": CHAT.call(headers=[GZIP], raw=b"no json"),
    "a signed request": CHAT.call(headers=[GZIP, ("content-digest", "sha-256=:AA==:")]),
    "a GET": Request(method="GET", path=CHAT.path, headers=[GZIP]),
    "another path": Request(path="/v1/files", headers=[GZIP], body=b"{}"),
}


@pytest.mark.parametrize("call", UNREAD.values(), ids=UNREAD.keys())
def test_the_client_s_own_where_nothing_is_read(plain, optimizer, provider, http, call):
    assert upstream_encoding(plain, provider, call, http) == [GZIP[1]]


def test_the_client_s_own_with_the_response_hook_off(only_requests, optimizer, provider, http):
    call = CHAT.call(headers=[GZIP])
    assert upstream_encoding(only_requests, provider, call, http) == [GZIP[1]]


@pytest.mark.parametrize("answer", [
    as_json({}, status=500), as_json([]), says(request=CHAT.body(messages=[])),
    hits({"id": "x"}),
], ids=["it fails", "its shape is wrong", "its transform is refused", "its hit is refused"])
def test_the_client_s_own_is_put_back_when(plain, optimizer, provider, key, http, answer):
    optimizer.on(OPTIMIZE, answer)
    call = CHAT.call(key=key, headers=[GZIP])
    assert upstream_encoding(plain, provider, call, http) == [GZIP[1]]


def test_none_stays_none_on_a_bypass(plain, optimizer, provider, http):
    optimizer.on(OPTIMIZE, as_json({}, status=500))
    assert upstream_encoding(plain, provider, CHAT.call(), http) == []


def test_a_gzip_answer_passes_as_it_is(plain, optimizer, provider, http):
    encoded = gzip.compress(json.dumps(CHAT.answer).encode())
    provider.answers(as_json(encoded, headers=[("content-encoding", "gzip"), ("etag", '"1"')]))
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-gzip"))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: {"forged": True}))
    counting = plain.counting()
    reply = plain.send(CHAT.call(headers=[GZIP]), http)
    assert reply.body == encoded
    assert reply.headers.get("content-encoding") == "gzip"
    assert reply.headers.get("etag") == '"1"'
    counting.expect(
        responses={"bypassed response_encoded": 1}, write_backs={"bypassed response_encoded": 1})


def test_identity_as_a_content_encoding_is_no_encoding(plain, optimizer, provider, http):
    provider.answers(as_json(MESSAGES.answer, headers=[("content-encoding", "identity")]))
    optimizer.on(OPTIMIZE_RESPONSE, rewrites(lambda response: response | {"model": "m2"}))
    assert plain.send(MESSAGES.call(), http).json["model"] == "m2"


def test_a_gzip_stream_passes_as_it_is(plain, optimizer, provider, http, cache_key):
    encoded = gzip.compress(b"".join(told(CHAT)))
    stream = sse(encoded[:100], encoded[100:], gap=0.02)
    stream.headers.append(("content-encoding", "gzip"))
    provider.answers(stream)
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    counting = plain.counting()
    reply = plain.send(CHAT.call(headers=[GZIP], stream=True), http)
    assert reply.body == encoded and reply.complete
    counting.expect(
        responses={"bypassed response_encoded": 1}, write_backs={"bypassed response_encoded": 1})
