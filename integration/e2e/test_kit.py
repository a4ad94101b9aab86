"""The kit itself, without the module: what it sends and sees is what was on the wire."""

import socket
import threading
import time

import pytest

from kit.client import Request
from kit.dialects import ALL
from kit.envoy import Refused
from kit.envoy_config import Setup
from kit.message import RESET, Answer, Raw
from kit.provider import sse


@pytest.mark.parametrize("dialect", ALL, ids=str)
def test_each_dialect_s_call_reaches_the_provider_as_it_was_sent(without, provider, http, dialect):
    call = dialect.call(key="sk-1")
    reply = without.send(call, http)
    assert (reply.status, reply.json) == (200, dialect.answer)
    [seen] = provider.of(reply.case)
    assert seen.body == call.body
    assert seen.headers.get("authorization") == "Bearer sk-1"


def test_chunks_trailers_and_informational_answers_are_kept(without, provider, http):
    request = Request(path="/h2/any", body=[b"a", b"b"], framing="chunked", trailers=[("x-tail", "t")])
    provider.answers(Answer(
        body=[b"one", request.arrived, b"two"], framing="chunked", trailers=[("x-end", "yes")],
    ))
    reply = without.send(request, http)
    [seen] = provider.of(reply.case)
    assert (seen.http, seen.body, seen.trailers.get("x-tail")) == ("HTTP/2", b"ab", "t")
    assert (reply.body, reply.trailers.get("x-end")) == (b"onetwo", "yes")


def test_a_service_waits_for_what_it_sent_to_arrive(without, provider, http):
    request = Request(path="/x")
    provider.answers(sse(b"data: 1\n\n", b"data: 2\n\n", gap=request.arrived))
    reply = without.send(request, http)
    assert reply.complete and reply.body == b"data: 1\n\ndata: 2\n\n"


def test_a_service_that_waits_in_vain_breaks_off(without, provider):
    provider.answers(sse(b"data: 1\n\n", b"data: 2\n\n", gap=threading.Semaphore(0)))
    reply = without.send(Request(path="/x"))
    assert not reply.complete and reply.body == b"data: 1\n\n"


def test_megabytes_pass_both_ways(without, provider, http):
    provider.answers(lambda seen: Answer(body=seen.body))
    body = bytes(range(256)) * 20000
    assert without.send(Request(path="/x", body=body), http).body == body
    assert without.send(Request(path="/h2/x", body=body, framing="chunked"), http).body == body


@pytest.mark.parametrize("answer, status", [
    (RESET, 503),
    (Raw([b"garbage\r\n\r\n"]), 502),
], ids=["a reset", "garbage"])
def test_a_broken_provider_is_the_proxy_s_error(without, provider, http, answer, status):
    provider.answers(answer)
    assert without.send(Request(path="/x"), http).status == status


def test_a_service_can_be_away_and_come_back(without, provider):
    with provider.away():
        assert without.send(Request(method="GET")).status == 503
    assert without.send(Request(method="GET")).status == 200


def test_surplus_bytes_are_noticed(without, provider):
    without.send(Request(method="GET"))
    assert provider.malformed == []
    with socket.create_connection(("127.0.0.1", provider.port)) as sock:
        sock.sendall(b"the rest of a body\r\n\r\n")
        deadline = time.monotonic() + 5
        while not provider.malformed and time.monotonic() < deadline:
            time.sleep(0.01)
    assert provider.malformed
    provider.malformed.clear()


def test_a_wrong_bootstrap_is_refused(proxies):
    with pytest.raises(Refused, match="error"):
        proxies.start(Setup(None, environment={}, buffer_bytes=-1))
