"""What a streamed answer puts into the cache, and which streams never get there."""

import gzip
import json

import pytest

from conftest import barrier
from kit import client
from kit.client import Request
from kit.dialects import CHAT, EMBEDDINGS, MESSAGES, RESPONSES
from kit.message import Answer, as_json
from kit.optimizer import CACHE, OPTIMIZE, says, transforms
from kit.provider import sse
from kit.proxy import HTTP1, HTTP2
from kit.streams import BROKEN, STREAMING, dialect_of, document, recorded, told

streaming = pytest.mark.parametrize("dialect", STREAMING, ids=str)
EVENT_STREAM = ("content-type", "text/event-stream")


@pytest.fixture
def eligible(optimizer, cache_key) -> str:
    """The key under which the optimizer wants every answer back."""
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    return cache_key


@streaming
@pytest.mark.parametrize("route", ["", "/h2"], ids=["from HTTP/1.1", "from HTTP/2"])
def test_a_stream_is_written_back_as_the_plain_answer(
    plain, optimizer, provider, http, route, dialect, eligible
):
    provider.answers(sse(*told(dialect)))
    counting = plain.counting()
    reply = plain.send(dialect.call(stream=True, prefix=route), http)
    assert reply.body == b"".join(told(dialect)) and reply.complete
    written = optimizer.written_back(eligible)
    assert written["response"] == document(dialect)
    assert written["request"] == dialect.body(stream=True)
    counting.expect(write_backs={"queued none": 1}, responses={"bypassed response_stream": 1})


def test_it_carries_the_request_as_it_was_sent(plain, optimizer, provider, cache_key):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, cacheEligible=True, cacheKey=cache_key))
    provider.answers(sse(*told(CHAT)))
    plain.send(CHAT.call(stream=True))
    assert optimizer.written_back(cache_key)["request"] == CHAT.shorten(CHAT.body(stream=True))


SPELLINGS = {
    "with LF over HTTP/1.1": (HTTP1, lambda stream: stream),
    "with CRLF over HTTP/2": (HTTP2, lambda stream: stream.replace(b"\n", b"\r\n")),
    "with CR over HTTP/2": (HTTP2, lambda stream: stream.replace(b"\n", b"\r")),
    "with a BOM, comments and blank lines over HTTP/1.1": (HTTP1, lambda stream: (
        b"\xef\xbb\xbf: hello\n\n" + stream.replace(b"\n\n", b"\nid: 7\nretry: 1\n\n\n: ping\n\n"))),
}


@streaming
@pytest.mark.parametrize("http, spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_however_it_is_spelled_and_split(plain, optimizer, provider, dialect, http, spell, eligible):
    stream = spell(b"".join(told(dialect)))
    # Byte by byte, with a pause between most of them, lest they be put together on the way.
    pauses = [b"", 0.00005, 0.00005]
    bytewise = [step for at in range(len(stream)) for step in (stream[at:at + 1], pauses[at % 3])]
    head = [("content-type", "text/event-stream; charset=utf-8")]
    provider.answers(Answer(headers=head, body=bytewise, framing="chunked"))
    reply = plain.send(dialect.call(stream=True), http)
    assert reply.body == stream and reply.complete
    assert optimizer.written_back(eligible)["response"] == document(dialect)


@pytest.mark.parametrize("shape", [
    {"framing": "length"}, {"framing": "close"}, {"framing": "chunked", "trailers": [("x-end", "t")]},
], ids=["a length", "an end of the connection", "trailers"])
def test_however_it_ends(plain, optimizer, provider, http, shape, eligible):
    provider.answers(Answer(headers=[EVENT_STREAM], body=list(told(CHAT)), **shape))
    reply = plain.send(CHAT.call(stream=True), http)
    assert reply.body == b"".join(told(CHAT)) and reply.complete
    assert optimizer.written_back(eligible)["response"] == document(CHAT)


def test_a_stream_nobody_asked_for_is_written_back(plain, optimizer, provider, eligible):
    provider.answers(sse(*told(CHAT)))
    plain.send(CHAT.call())
    assert optimizer.written_back(eligible)["response"] == document(CHAT)


def test_json_where_a_stream_was_asked_for_is_written_back(plain, optimizer, eligible):
    plain.send(CHAT.call(stream=True))
    assert optimizer.written_back(eligible)["response"] == CHAT.answer


def test_ten_megabytes_in_many_events_are_written_back(plain, optimizer, provider, http, eligible):
    first, *middle, finish, usage, end = told(CHAT)
    piece = document(CHAT)["choices"][0]["message"]["content"] * 12
    event = middle[0].replace(b'"Gr"', json.dumps(piece, ensure_ascii=False).encode())
    stream = [first, *[event * 50] * 360, finish, usage, end]
    assert 9_000_000 < sum(map(len, stream)) < 12_000_000
    provider.answers(sse(*stream))
    reply = plain.send(CHAT.call(stream=True), http)
    assert reply.body == b"".join(stream) and reply.complete
    [choice] = optimizer.written_back(eligible)["response"]["choices"]
    assert choice["message"]["content"] == piece * 50 * 360


def not_written_back(proxy, optimizer, provider, call, reason, key, http):
    counting = proxy.counting()
    reply = proxy.send(call, http)
    counting.expect(write_backs={f"bypassed {reason}": 1})
    barrier(proxy, optimizer, provider)
    assert not any(key.encode() in seen.body for seen in optimizer.to(CACHE))
    return reply


@pytest.mark.parametrize("name, reason", BROKEN.items(), ids=BROKEN.keys())
def test_a_broken_recording_is_not_written_back(
    plain, optimizer, provider, http, name, reason, eligible
):
    stream = recorded(name)
    provider.answers(sse(stream[:500], stream[500:]))
    call = dialect_of(name).call(stream=True)
    reply = not_written_back(plain, optimizer, provider, call, reason, eligible, http)
    assert reply.body == stream and reply.complete


def last(dialect) -> bytes:
    return told(dialect)[-1]


NO_STORE = [("cache-control", "no-store")]
EXCLUDED = {
    "no end marker": (CHAT.call(stream=True), sse(*told(CHAT)[:-1]), "stream_incomplete"),
    "no end marker of messages": (
        MESSAGES.call(stream=True), sse(*told(MESSAGES)[:-1]), "stream_incomplete"),
    "no end marker of responses": (
        RESPONSES.call(stream=True), sse(*told(RESPONSES)[:-1]), "stream_incomplete"),
    "an end marker cut in two": (
        CHAT.call(stream=True), sse(*told(CHAT)[:-1], last(CHAT)[:-4]), "stream_incomplete"),
    "only an end marker": (CHAT.call(stream=True), sse(last(CHAT)), "stream_unexpected"),
    "nothing but comments": (CHAT.call(stream=True), sse(b": hello\n\n"), "stream_incomplete"),
    "an error among the events": (
        CHAT.call(stream=True),
        sse(*told(CHAT)[:3], b'data: {"error":{"message":"overloaded"}}\n\n', last(CHAT)),
        "response_error"),
    "an error event of Anthropic's": (
        MESSAGES.call(stream=True),
        sse(*told(MESSAGES)[:4], b'event: error\ndata: {"type":"error","error":{}}\n\n'),
        "response_error"),
    "another dialect's stream": (
        MESSAGES.call(stream=True), sse(*told(CHAT)), "stream_unexpected"),
    "a stream of embeddings": (EMBEDDINGS.call(), sse(*told(CHAT)), "stream_unexpected"),
    "no JSON": (CHAT.call(stream=True), sse(b"data: hello\n\n", last(CHAT)), "response_not_json"),
    "a provider that resets": (
        CHAT.call(stream=True), sse(*told(CHAT)[:4], gap=0.02, end="reset"), "stream_incomplete"),
    "a provider that closes": (
        CHAT.call(stream=True), sse(*told(CHAT)[:4], gap=0.02, end="close"), "stream_incomplete"),
    "a failing provider": (
        CHAT.call(stream=True), as_json({"error": {}}, status=500), "response_status"),
    "a failing provider that streams": (
        CHAT.call(stream=True), sse(*told(CHAT), status=500), "response_status"),
    "an encoded stream": (
        CHAT.call(stream=True),
        Answer(headers=[EVENT_STREAM, ("content-encoding", "gzip")],
               body=gzip.compress(b"".join(told(CHAT))), framing="chunked"), "response_encoded"),
    "a client that said no-store": (
        CHAT.call(stream=True, headers=NO_STORE), sse(*told(CHAT)), "no_store"),
    "a response that is stored": (
        RESPONSES.call(stream=True, store=True), sse(*told(RESPONSES)), "no_store"),
}


@pytest.mark.parametrize("call, answer, reason", EXCLUDED.values(), ids=EXCLUDED.keys())
def test_never_written_back(plain, optimizer, provider, http, call, answer, reason, eligible):
    provider.answers(answer)
    reply = not_written_back(plain, optimizer, provider, call, reason, eligible, http)
    assert reply.status == answer.status
    if answer.end == "clean":
        sent = b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
        assert reply.body == sent and reply.complete


@streaming
def test_a_client_that_leaves_writes_nothing_back(
    plain, optimizer, provider, http, dialect, eligible
):
    events = told(dialect)[:5]
    provider.answers(sse(*events, gap=0.005, end="hang"))
    counting = plain.counting()
    leaves(plain, dialect.call(stream=True), http, events[-1])
    counting.expect(write_backs={"bypassed stream_incomplete": 1})
    barrier(plain, optimizer, provider)
    assert not any(eligible.encode() in call.body for call in optimizer.to(CACHE))


@pytest.mark.parametrize("end", ["hang", "reset"])
@streaming
def test_an_answer_is_whole_with_its_end_marker(
    plain, optimizer, provider, http, dialect, end, eligible
):
    """OpenAI's SDK hangs up as soon as it has the marker; so may the provider."""
    provider.answers(sse(*told(dialect), gap=0.005, end=end))
    counting = plain.counting()
    leaves(plain, dialect.call(stream=True), http, told(dialect)[-1])
    counting.expect(write_backs={"queued none": 1})
    optimizer.wait_for(lambda seen: seen.path == CACHE and eligible.encode() in seen.body)


def leaves(proxy, call: Request, http: str, after: bytes) -> None:
    """Sends a call and is gone once these bytes have come."""
    sock = client.begin(proxy.port, call, http)
    got = b""
    # A client of HTTP/2 finds the event inside its frames as well.
    while after not in got:
        more = sock.recv(1 << 16)
        assert more, got
        got += more
    sock.close()
