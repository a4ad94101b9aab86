"""The module under settings other than the example's."""

import functools
import json
import socket
import tempfile
import threading
import time

import pytest

from kit import client
from kit.client import Request
from kit.dialects import CHAT
from kit.message import as_json
from kit.optimizer import CACHE, OPTIMIZE, hits, says, transforms
from kit.provider import sse
from kit.proxy import HTTP1
from kit.streams import told

from gateway import UNPREPARED, Place, Refused, Setup, Shipped, Step

def settings(module) -> dict[str, Setup]:
    """One proxy each."""
    silent = module(hooks={"request": False, "cache": False})
    small = {"proxy_buffers": "4 4k", "proxy_buffer_size": "4k", "proxy_busy_buffers_size": "8k"}
    gzip = {"gzip": "on", "gzip_types": "*", "gzip_min_length": "1", "gzip_proxied": "any"}
    return {
        "answers buffered": Setup(module(), proxy={"proxy_buffering": "on"}),
        "answers buffered in files": Setup(module(), proxy={"proxy_buffering": "on"} | small),
        "small request buffers": Setup(module(), http={"client_body_buffer_size": "1k"}),
        "request bodies in files only": Setup(module(), proxy={"client_body_in_file_only": "clean"}),
        "request bodies in single buffers": Setup(module(), UNPREPARED, proxy={"client_body_in_single_buffer": "on"}),
        "requests not buffered": Setup(module(), UNPREPARED, proxy={"proxy_request_buffering": "off"}),
        "no connections kept to the provider": Setup(module(), keepalive=False),
        "the provider spoken to over HTTP/1.0": Setup(module(), proxy={"proxy_http_version": "1.0"}),
        "no connections kept to clients": Setup(module(), http={"keepalive_requests": "3"}),
        "answers compressed": Setup(module(), proxy=gzip),
        "three workers": Setup(module(), workers=3),
        "a zone for shared data": Setup(module(), wasm={"shm_kv": "kv 1m"}),
        "a named zone and a queue": Setup(module(), wasm={"shm_kv": "other 64k", "shm_queue": "q 64k"}),
        "a response buffer of one page": Setup(module(), proxy={"wasm_response_body_buffers": "1 4k"}),
        "small socket buffers": Setup(module(), http={"wasm_socket_buffer_size": "64"}),
        "socket buffers of 1 KiB": Setup(module(), http={"wasm_socket_buffer_size": "1k"},
                                         wasm={"socket_buffer_size": "1k"}),
        "no log of failed callouts": Setup(module(), proxy={"proxy_wasm_log_dispatch_errors": "off"}),
        "the module before the step": Setup(module(), proxy={"proxy_wasm_request_headers_in_access": "off"}),
        "the step in the rewrite phase": Setup(module(), Step.IN_REWRITE),
        "another module before it, which does not call out": Setup(module(), before=silent),
        "isolation of streams": Setup(module(), proxy={"proxy_wasm_isolation": "stream"}),
        "isolation of filters": Setup(module(), proxy={"proxy_wasm_isolation": "filter"}),
    }


NAMES = list(settings(lambda **members: members))


@pytest.fixture(params=NAMES)
def gateway(request, gateways, module):
    return gateways.get(settings(module)[request.param])


def body(number: int, size: int) -> bytes:
    return json.dumps(CHAT.body(user=f"caller {number}", padding="x" * size)).encode()


@pytest.mark.parametrize("size", [10, 20_000])
def test_bodies_and_answers_are_whole(gateway, optimizer, provider, http, size):
    """Whether a body is transformed depends on the setting; it is one or the other, never a mixture."""
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten, cacheEligible=True, cacheKey="k"))
    for stream in (False, True, False):
        answer = sse(*told(CHAT)) if stream else as_json(CHAT.answer)
        provider.answers(answer)
        raw = body(1, size)
        reply = gateway.send(CHAT.call(raw=raw, key="sk-1"), http)
        assert reply.status == 200 and reply.complete
        assert reply.body == b"".join(answer.pieces)
        [seen] = provider.of(reply.case)
        assert seen.body == raw or seen.json == CHAT.shorten(json.loads(raw))


def test_hits_are_served(gateway, optimizer, provider, http, key):
    # Several workers know different things.
    for _ in range(20):
        gateway.send(CHAT.call(key=key), http)
    optimizer.on(OPTIMIZE, hits({"choices": [], "id": "hit"}))
    replies = [gateway.send(CHAT.call(key=key), http) for _ in range(20)]
    assert all(reply.status == 200 for reply in replies)
    assert all(reply.json in ({"choices": [], "id": "hit"}, CHAT.answer) for reply in replies)


def test_many_at_a_time(gateway, optimizer, provider, http):
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    replies = []

    def run(thread: int) -> None:
        for number in range(10):
            calls = [CHAT.call(raw=body(thread, 500 * number)) for _ in range(2)]
            send = client.send_in_turn if http == HTTP1 else functools.partial(client.send_together, http=http)
            replies.extend(send(gateway.port, calls))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(replies) == 80
    assert {(reply.status, reply.error) for reply in replies} == {(200, "")}
    assert all(reply.json == CHAT.answer for reply in replies)


# The configuration


def test_a_wrong_configuration_is_refused_and_named(gateways, module):
    with pytest.raises(Refused, match="limits.*request_bytes"):
        gateways.start(Setup(module(limits={"request_bytes": "8MB"})))


@pytest.mark.parametrize("upstream", ["", "optimizer:0x50", "optimizer:99999", "http://optimizer", "a b", "unix:", ":80",
                                      "[::1", "optimizer:", "127.0.0.1:80/x"])
def test_an_upstream_that_nginx_could_not_call_is_refused(gateways, module, upstream):
    with pytest.raises(Refused, match="optimizer.*upstream"):
        gateways.start(Setup(module(optimizer={"upstream": upstream})))


def test_too_little_room_for_metrics_is_found_at_the_start(gateways, module):
    with pytest.raises(Refused, match="slab_size"):
        gateways.start(Setup(module(), wasm={"metrics": "{ slab_size 16k; }"}))


def test_a_start_is_told_in_one_line(gateways, module):
    gateway = gateways.start(Setup(module()))
    lines = [line for line in gateway.server.log.read_text().splitlines() if "optimizer: " in line]
    assert len(lines) == 1
    for what in ("ready on kong", "response hook: not possible on this host", "by timer"):
        assert what in lines[0]


def test_the_example_takes_its_token_from_the_environment(gateways, module, optimizer):
    configured = module(optimizer={"token_env": "OPTIMIZER_TOKEN"})
    gateway = gateways.get(Setup(configured))
    gateway.send(CHAT.call())
    assert optimizer.asked().headers.all("authorization") == ["Bearer token-of-the-example"]
    with pytest.raises(Refused, match="token_env"):
        gateways.start(Setup(module(optimizer={"token_env": "NO_SUCH_VARIABLE"})))


def test_the_example_s_own_configuration_is_taken(gateways, optimizer):
    """As it is shipped, but for its addresses."""
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    assert gateways.get(Setup(Shipped(optimizer.port))).send(CHAT.call()).json == CHAT.answer
    assert optimizer.asked().headers.all("authorization") == ["Bearer token-of-the-example"]


def test_two_configurations_share_a_worker(gateways, module, optimizer, provider, http):
    """One VM, a root context for each; one may record, the other not."""
    second = Place("/second", module(hooks={"cache": False}))
    gateway = gateways.get(Setup(module(), places=[second]))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    for prefix, cache in (("", True), ("/second", False)) * 3:
        optimizer.calls.clear()
        reply = gateway.send(CHAT.call(prefix=prefix), http)
        assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)
        assert optimizer.asked().json["capabilities"] == {"canShortCircuit": cache}


def test_other_calls_pass_untouched(prepared, optimizer, provider, http):
    for request in (Request(method="GET", path="/models"), Request(method="HEAD", path="/"),
                    Request(method="POST", path="/other", body=b"x" * 9000),
                    Request(method="POST", path="/v1/chat/completions", body=b""),
                    Request(method="POST", path="/v1/chat/completions", body=b"{",
                            headers=[("content-type", "application/json")])):
        reply = prepared.send(request, http)
        assert reply.status == 200
        assert provider.of(reply.case)[0].body == (request.body or b"")
    assert optimizer.calls == []


def test_odd_header_bytes_harm_nobody(prepared, optimizer, http):
    headers = [("authorization", "Bearer \xff\xfe"), ("x-anyray-metadata", '{"user": "\xc3\x28"}'),
               ("x-odd", "\x80" * 200)]
    for _ in range(3):
        assert prepared.send(CHAT.call(headers=headers), http).json == CHAT.answer


def with_headers(count: int, **options) -> Request:
    """A call that comes with so many headers in all; the caller's credentials are the last of its own."""
    call = CHAT.call(**options)
    [credentials] = [field for field in call.headers if field[0] == "authorization"]
    call.headers.remove(credentials)
    # `host`, `content-length` and the case's name come with every call.
    fill = [(f"x-{number}", "1") for number in range(count - len(call.headers) - 4)]
    call.headers += [*fill, credentials]
    return call


@pytest.mark.parametrize("count", [95, 96, 120, 400])
def test_beyond_95_headers_a_call_is_left_alone(prepared, optimizer, provider, http, key, count):
    """It shows a hundred with its own at most, and may write past the room that it asked for."""
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    call = with_headers(count, key=key)
    reply = prepared.send(call, http)
    assert (reply.status, reply.json) == (200, CHAT.answer)
    [seen] = provider.of(reply.case)
    assert [field for field in seen.headers if field in call.headers] == call.headers
    if count > 95:
        assert prepared.outcome(reply) == "bypassed:request_headers_truncated"
        assert seen.body == call.body and optimizer.calls == []
    else:
        assert prepared.outcome(reply) == "applied"
        assert seen.json == CHAT.shorten(CHAT.request)


def test_credentials_behind_what_the_runtime_shows_are_nobody_s(prepared, optimizer, http, key):
    assert prepared.send(CHAT.call(key=key), http).status == 200
    optimizer.on(OPTIMIZE, hits({"choices": [], "id": "hit"}))
    assert prepared.send(CHAT.call(key=key), http).json["id"] == "hit"
    assert prepared.send(with_headers(120, key="somebody-else"), http).json == CHAT.answer


@pytest.mark.parametrize("count", [80, 120, 400])
def test_answers_with_more_headers_than_are_shown_pass(prepared, optimizer, provider, http, cache_key, count):
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    headers = [(f"x-{number}", "1") for number in range(count)]
    provider.answers(as_json(CHAT.answer, headers=headers))
    reply = prepared.send(CHAT.call(), http)
    assert (reply.status, reply.json) == (200, CHAT.answer)
    assert [field for field in reply.headers if field in headers] == headers
    if count < 95:
        optimizer.written_back(cache_key)
    else:
        time.sleep(1)
        assert optimizer.to(CACHE) == []


def test_own_headers_do_not_reach_the_provider(prepared, optimizer, provider, http):
    headers = [("x-anyray-test", "1"), ("x-anyray-metadata", '{"user":"u"}')]
    reply = prepared.send(CHAT.call(headers=headers), http)
    [seen] = provider.of(reply.case)
    left = [value for name, value in seen.headers if name.startswith("x-anyray")]
    assert left == ([] if prepared.server.TAKES_HEADERS_OUT else ["", ""])
    assert optimizer.asked().json["metadata"]["user"] == "u"


@pytest.mark.parametrize("address", ["[::1]", "unix"])
def test_the_optimizer_may_be_elsewhere(gateways, module, optimizer, provider, http, address):
    """Behind IPv6 or a Unix socket: both lead to the scripted one."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        listener = socket.socket(socket.AF_UNIX if address == "unix" else socket.AF_INET6)
        try:
            listener.bind(path if address == "unix" else ("::1", 0))
        except OSError as error:
            pytest.skip(f"no {address} here: {error}")
        listener.listen(16)
        optimizer.accept_from(listener)
        upstream = f"unix:{path}" if address == "unix" else f"[::1]:{listener.getsockname()[1]}"
        gateway = gateways.start(Setup(module(optimizer={"upstream": upstream})))
        optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
        reply = gateway.send(CHAT.call(), http)
        assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)
        listener.close()


def test_a_name_is_resolved_by_nginx(gateways, module, optimizer, provider):
    """Without a resolver nginx asks a public one, in vain here; calls go on after its time-out."""
    gateway = gateways.start(Setup(
        module(optimizer={"upstream": f"localhost:{optimizer.port}", "timeout_ms": 300}),
        resolver="127.0.0.1:1"))
    reply = gateway.send(CHAT.call(), timeout=40)
    assert reply.json == CHAT.answer


# Reloads


def test_calls_under_way_survive_a_reload(gateways, module, optimizer, provider):
    gateway = gateways.start(Setup(module(), workers=2))

    def later(seen):
        time.sleep(0.3)
        return transforms(CHAT.shorten)(seen)

    optimizer.on(OPTIMIZE, later)
    replies = []

    def run(number: int) -> None:
        for _ in range(5):
            replies.append(gateway.send(CHAT.call()))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    for _ in range(2):
        time.sleep(0.4)
        gateway.server.reload()
    [thread.join() for thread in threads]
    assert len(replies) == 30
    assert {(reply.status, reply.error) for reply in replies} == {(200, "")}
    assert all(reply.json == CHAT.answer for reply in replies)
