"""What a wasi:http host does where others do something else, and what only there is to be done: forwarding."""

import json
import re
import threading
import time
import uuid
from pathlib import Path

import openai
import pytest

from conftest import PATIENT, module
from kit import client
from kit.client import Request
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.message import NEVER, RESET, Answer, Raw, as_json
from kit.optimizer import CACHE, OPTIMIZE, RECORD, hits, says, transforms
from kit.provider import sse
from kit.proxy import HTTP1, ON, Proxy
from kit.streams import told
from kit.wasi import COMPONENT, ROOT, Wasi

pytestmark = pytest.mark.skipif(ON == "envoy", reason="E2E_HOST=wasi")


@pytest.fixture
def proven(proxies):
    """The default: only proven callers get hits."""
    return proxies.get(Setup(module(cache={"serve": "proven"})))


def test_a_wrong_configuration_answers_every_call_with_500_and_says_why(tmp_path, provider):
    config = {"optimizer": {"upstream": "o:1", "token": "canary"}, "providr": "x"}
    wrong = Wasi(Setup(config), config, tmp_path, checked=False)
    try:
        for _ in range(2):
            reply = client.send(wrong.port, CHAT.call(), HTTP1)
            assert reply.status == 500 and b"configuration" in reply.body
        assert provider.calls == []
        log = wrong.log.read_text()
        assert log.count("configuration: providr: unknown field") == 2 and "canary" not in log
    finally:
        wrong.stop()


def test_the_configuration_may_be_in_a_file(tmp_path, optimizer, provider):
    config = module(provider=f"http://127.0.0.1:{provider.port}")
    config["optimizer"] = PATIENT | {"upstream": f"127.0.0.1:{optimizer.port}"}
    (tmp_path / "optimizer.json").write_text(json.dumps(config))
    named = Setup(None, environment={"OPTIMIZER_CONFIG_FILE": "/config/optimizer.json"})
    running = Wasi(named, None, tmp_path / "host", files=tmp_path)
    try:
        optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
        reply = Proxy(running).send(CHAT.call())
        assert provider.of(reply.case)[0].json == CHAT.shorten(CHAT.request)
    finally:
        running.stop()


def test_nobody_is_proven_where_nothing_is_remembered(proven, optimizer, provider, key):
    assert proven.send(CHAT.call(key=key)).status == 200
    optimizer.on(OPTIMIZE, hits(CHAT.answer))
    for caller in (key, "sk-other"):
        reply = proven.send(CHAT.call(key=caller))
        assert proven.outcome(reply) == "bypassed:hit_unproven"
        assert len(provider.of(reply.case)) == 1


@pytest.mark.parametrize("answer", [NEVER, Raw([b"HTTP/1.1 200 OK\r\n\r\n", *[b"{", 0.2] * 30])],
                         ids=["nothing", "a trickle"])
def test_a_callout_s_time_out_is_for_all_of_it(proxies, optimizer, provider, answer):
    proxy = proxies.get(Setup(module(optimizer=PATIENT | {"timeout_ms": 400})))
    optimizer.on(OPTIMIZE, answer)
    reply = proxy.send(CHAT.call())
    assert (reply.status, reply.json) == (200, CHAT.answer)
    assert proxy.outcome(reply) == "bypassed:optimizer_timeout"
    assert provider.of(reply.case)[0].body == CHAT.call().body


@pytest.mark.parametrize("slow, other", [(CACHE, RECORD), (RECORD, CACHE)], ids=["write-back", "record"])
def test_what_nobody_waits_for_does_not_wait_for_one_another(recording, optimizer, slow, other, cache_key):
    """One of them is answered only when the other has come: one after the other, it would end with its time-out."""
    has_come = threading.Event()

    def once_it_has(seen):
        has_come.wait(30)
        return Answer(status=204)

    counting = recording.counting()
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey=cache_key))
    optimizer.on(slow, once_it_has)
    recording.send(CHAT.call())
    optimizer.wait_for(lambda seen: seen.path == other, seconds=15)
    has_come.set()
    counting.expect(15, callouts={"cache ok": 1, "record ok": 1})


@pytest.mark.parametrize("answer", [RESET, Raw([b"garbage\r\n\r\n"])], ids=["a reset", "garbage"])
def test_a_broken_provider_is_a_502(plain, provider, answer):
    provider.answers(answer)
    assert plain.send(CHAT.call()).status == 502


def test_a_provider_that_is_away_is_a_502(plain, provider):
    with provider.away():
        assert plain.send(CHAT.call()).status == 502


def test_an_answer_that_breaks_off_while_it_is_held_breaks_off_for_the_client(plain, provider):
    begun = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"id\":"
    provider.answers(Raw([begun]))
    reply = plain.send(CHAT.call())
    # How much of it still arrives is the host's business; that it is no whole answer is ours.
    assert not reply.complete and reply.status in (0, 200) and b"{\"id\":".startswith(reply.body)


def test_bytes_behind_an_answer_of_the_provider_harm_nobody_else(plain, provider):
    """The host may see them before the answer, which is none then."""
    body = json.dumps(CHAT.answer).encode()
    provider.answers(Raw([b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nwellHTTP/1.1 " + body]))
    reply = plain.send(CHAT.call())
    assert (reply.status, reply.body) in [(200, b"well"), (502, b"the provider cannot be reached\n")]
    provider.answers(provider.default)
    assert plain.send(CHAT.call()).json == CHAT.answer


def test_bytes_behind_an_answer_of_the_optimizer_harm_nobody(plain, optimizer, provider):
    optimizer.on(OPTIMIZE, Raw([b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n{\"a\"HTTP/1.1 "]))
    reply = plain.send(CHAT.call())
    assert (reply.status, reply.json) == (200, CHAT.answer)
    assert provider.of(reply.case)[0].body == CHAT.call().body
    assert plain.outcome(reply) in ("bypassed:answer_not_json", "bypassed:optimizer_unreachable")


LARGE_HEADS = {"one header": [("x-large", "h" * 131_000)], "many": [(f"x-{n}", "h" * 1_400) for n in range(85)]}


@pytest.mark.parametrize("headers", LARGE_HEADS.values(), ids=LARGE_HEADS)
@pytest.mark.parametrize("path", [CHAT.path, "/any"])
def test_headers_larger_than_the_host_carries_are_refused(plain, optimizer, provider, path, headers):
    """wasmtime would end the instance."""
    call = CHAT.call()
    call.path = path
    provider.answers(as_json(CHAT.answer, headers=headers))
    reply = plain.send(call)
    assert (reply.status, reply.body) == (502, b"the headers of the provider's answer are too large\n")
    provider.answers(provider.default)
    call.headers += headers
    reply = plain.send(call)
    assert (reply.status, reply.body) == (431, b"the request's headers are too large\n")
    assert provider.of(reply.case) == []


@pytest.mark.parametrize("size", [60_000, 110_000])
def test_large_headers_pass(plain, optimizer, provider, size):
    def script(seen):
        answer = transforms(CHAT.shorten)(seen)
        answer.headers.append(("x-large", "h" * 200_000))
        return answer

    optimizer.on(OPTIMIZE, script)
    headers = [("x-large", "h" * size)]
    provider.answers(as_json(CHAT.answer, headers=headers))
    reply = plain.send(CHAT.call(headers=headers))
    assert (reply.status, reply.json, reply.headers.get("x-large")) == (200, CHAT.answer, "h" * size)
    [seen] = provider.of(reply.case)
    assert seen.json == CHAT.shorten(CHAT.request) and seen.headers.get("x-large") == "h" * size


@pytest.mark.parametrize("method, status", [("HEAD", 200), ("GET", 204), ("GET", 304), ("DELETE", 204)])
def test_what_has_no_body_passes(plain, provider, method, status):
    provider.answers(Answer(status=status))
    reply = plain.send(Request(method=method, path="/v1/models"))
    [seen] = provider.of(reply.case)
    assert (reply.status, reply.body, reply.error) == (status, b"", "")
    assert (seen.method, seen.body, seen.headers.get("transfer-encoding")) == (method, b"", None)


def test_what_concerns_the_connection_stays_there(plain, provider):
    ours = [("te", "trailers"), ("keep-alive", "timeout=5"), ("proxy-authorization", "Basic x"), ("x-own", "1")]
    reply = plain.send(Request(path="/any", body=b"x", headers=ours))
    [seen] = provider.of(reply.case)
    assert [name for name, _ in ours if seen.headers.has(name)] == ["x-own"]
    assert seen.headers.all("host") == [f"127.0.0.1:{provider.port}"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_leaves_before_its_answer_begins_has_it_called_all_the_same(
        recording, optimizer, provider, cache_key, stream):
    """The host tells nobody. What is kept of it is a whole answer, or nothing."""
    has_left = threading.Event()

    def once_it_has(seen):
        has_left.wait(15)
        return transforms(CHAT.shorten, cacheEligible=True, cacheKey=cache_key)(seen)

    optimizer.on(OPTIMIZE, once_it_has)
    if stream:
        provider.answers(sse(*told(CHAT), gap=0.1))
    counting = recording.counting()
    call, id = CHAT.call(**{"stream": True} if stream else {}), uuid.uuid4().hex
    call.headers.append(("x-request-id", id))
    with client.begin(recording.port, call, HTTP1):
        optimizer.wait_for(lambda seen: seen.path == OPTIMIZE)
    time.sleep(0.3)  # For the host, which knows.
    has_left.set()
    assert recording.logged(id, seconds=10)["outcome"] == "transformed"
    [seen] = provider.calls
    assert seen.complete and seen.json["messages"] == CHAT.shorter_prompt
    record = optimizer.record(id)
    assert (record["status"], record["optimizationStatus"]) == (200, "applied")
    # The provider's stream is broken off when its first event finds nobody.
    assert ("completionTokens" in record) is not stream
    if stream:
        counting.expect(write_backs={"bypassed stream_incomplete": 1})
    else:
        assert optimizer.written_back(cache_key)["response"] == CHAT.answer


def test_a_client_that_leaves_a_silent_stream_is_noticed(plain, provider):
    """The provider says nothing more, so that nothing is written which would show it."""
    provider.answers(Answer(headers=[("content-type", "text/event-stream")], framing="chunked",
                            body=[b"data: {}\n\n", 8.0, b"data: [DONE]\n\n"]))
    request = CHAT.call(stream=True)
    named = Request(**{**request.__dict__, "headers": [*request.headers, ("x-request-id", "left")]})
    with client.begin(plain.port, named, HTTP1) as sock:
        assert b"200 OK" in sock.recv(65536)
    began = time.monotonic()
    plain.logged("left", seconds=7.0)
    assert time.monotonic() - began < 7.0


def test_the_example_for_spin_is_a_configuration_and_allows_what_it_calls(tmp_path):
    """Its members are those of Spin's manifest, version 2; Spin itself does not run here."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    manifest = tomllib.loads((ROOT / "examples/wasi-http/spin.toml").read_text())
    assert manifest["spin_manifest_version"] == 2 and set(manifest) == {
        "spin_manifest_version", "application", "trigger", "component"}
    [trigger], [(name, component)] = manifest["trigger"]["http"], manifest["component"].items()
    assert trigger == {"route": "/...", "component": name}
    assert set(component) == {"source", "allowed_outbound_hosts", "environment"}
    assert (ROOT / "examples/wasi-http" / component["source"]).resolve() == COMPONENT.resolve()
    config = json.loads(component["environment"]["OPTIMIZER_CONFIG"])
    assert component["allowed_outbound_hosts"] == [f"http://{config['optimizer']['upstream']}", config["provider"]]
    Wasi(Setup(config), config, tmp_path).stop()


def test_an_sdk_s_stream_comes_event_by_event(plain, optimizer, provider, key):
    events = [b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % n for n in range(4)]
    arrived = threading.Semaphore(0)
    provider.answers(sse(*events, gap=arrived))
    optimizer.on(OPTIMIZE, transforms(CHAT.shorten))
    with openai.OpenAI(base_url=f"{plain.url}/v1", api_key=key, max_retries=0) as sdk:
        texts = []
        for event in sdk.chat.completions.create(**CHAT.request, stream=True):
            texts.append(event.choices[0].delta.content)
            arrived.release()
    assert texts == ["0", "1", "2", "3"]
    assert provider.calls[-1].json["messages"] == CHAT.shorter_prompt


def test_an_instance_that_serves_again_remembers(tmp_path, optimizer, provider, key):
    config = module(provider=f"http://127.0.0.1:{provider.port}")
    config["optimizer"] = PATIENT | {"upstream": f"127.0.0.1:{optimizer.port}"}
    running = Wasi(Setup(config), config, tmp_path, reuse=True)
    try:
        proxy = Proxy(running)
        assert proxy.send(CHAT.call(key=key)).status == 200
        optimizer.on(OPTIMIZE, hits(CHAT.answer))
        deadline = time.monotonic() + 5
        # The instance is free again once its call is over.
        while proxy.outcome(reply := proxy.send(CHAT.call(key=key))) != "hit" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (proxy.outcome(reply), provider.of(reply.case)) == ("hit", [])
    finally:
        running.stop()


def test_an_instance_that_serves_on_and_on_keeps_nothing_of_its_calls(tmp_path, optimizer, provider):
    config = module(provider=f"http://127.0.0.1:{provider.port}", hooks={"record": True})
    config["optimizer"] = PATIENT | {"upstream": f"127.0.0.1:{optimizer.port}"}
    running = Wasi(Setup(config), config, tmp_path, reuse=True)

    def kept_by(calls: int) -> int:
        """What the host has of its own after so many calls, in KiB."""
        for _ in range(calls):
            assert client.send(running.port, CHAT.call(), HTTP1).status == 200
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])

    try:
        warm = kept_by(500)
        # A hundred bytes of each of their three callouts would be twice as much.
        assert kept_by(1000) < warm + 150
    finally:
        running.stop()
