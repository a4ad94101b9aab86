"""No prompt, answer, key or token in anything that the module says, at the most talkative level."""

from __future__ import annotations

import json
import re
import time

import pytest

from conftest import NO_BREAKER
from kit import client
from kit.dialects import ALL, CHAT, EMBEDDINGS
from kit.envoy import Refused
from kit.envoy_config import Setup
from kit.example import TOKEN, running
from kit.message import NEVER, RESET, Answer, as_json
from kit.optimizer import CACHE, OPTIMIZE, OPTIMIZE_RESPONSE, RECORD, hits, rewrites, transforms
from kit.provider import sse
from kit.proxy import HTTP1, HTTP2, ON
from kit.streams import STREAMING, told

# Every canary has this in it, also when it is cut into the pieces of a stream.
BIRD = "canary"
SECRETS = [("cookie", f"{BIRD}-cookie"), ("x-api-key", f"{BIRD}-x-api-key"),
           ("x-custom", f"{BIRD}-header"), ("traceparent", f"{BIRD}-trace"), ("tracestate", f"{BIRD}=trace"),
           ("user-agent", f"{BIRD}-agent"),
           ("x-anyray-metadata", json.dumps({"user": f"{BIRD}-user", "sessionId": f"{BIRD}-session"})),
           ("x-anyray-test", "1")]
EVERYTHING = {
    "optimizer": {"upstream": "optimizer", "timeout_ms": 300, "token": f"{BIRD}-token"},
    "hooks": {"record": True, "stream_response": True},
    "record": {"content": True},
    "decisions_header": "always",
    "attribution": {"team": {"header": "x-custom"}},
    # Room for streams to be held.
    "limits": {"host_buffer_bytes": 4 << 20, "request_bytes": 100_000},
}
# A line of Envoy's log: [time][thread][level][logger] …
LINE = re.compile(r"^\[[^]]*\]\[\d+\]\[(\w+)\]\[(\w+)\]")


SIGNS = {
    "envoy": ("[trace][wasm]", "optimizer: ready on envoy", "wasmcustom.optimizer_exchanges", '"bypassed:'),
}.get(ON, ("optimizer: ready on wasi-http", "Counter optimizer_exchanges", "Note optimizer_outcome bypassed:"))


@pytest.fixture
def talkative(proxies):
    return proxies.get(Setup(EVERYTHING | {"breaker": NO_BREAKER}, log_level="trace", buffer_bytes=4 << 20))


@pytest.fixture
def breaking(proxies):
    return proxies.get(Setup(EVERYTHING | {"breaker": {"failures": 2, "open_ms": 200}},
                             log_level="trace", buffer_bytes=4 << 20))


@pytest.fixture
def example(proxies):
    return running(proxies, "example-talkative", log_level="trace")


def module_lines(proxy) -> list[str]:
    """What was logged of the module: its own lines and Envoy's about it, continued lines too."""
    if ON != "envoy":
        return proxy.host.log.read_text(errors="replace").splitlines()
    lines, ours = [], False
    for line in proxy.host.log.read_text(errors="replace").splitlines():
        if found := LINE.match(line):
            ours = found[2] == "wasm"
        if ours:
            lines.append(line)
    return lines


def all_that_is_said(proxy, replies) -> str:
    """The module's log lines, all metrics, the access log and what clients are told of decisions."""
    headers = [value for reply in replies for value in reply.headers.all("x-anyray-optimization")]
    return "\n".join([
        *module_lines(proxy), proxy.host.measured(),
        proxy.host.access_log.read_text() if proxy.host.access_log.exists() else
        "\n".join(line for line in proxy.host.log.read_text().splitlines() if line.startswith("{")),
        *headers,
    ])


def prompt(dialect, **members):
    """A call in which everything that is the client's is a canary."""
    content = [{"role": "user", "content": f"{BIRD}-prompt   of a user"}]
    value = content if dialect.prompt == "messages" else f"{BIRD}-prompt   of a user"
    return dialect.call(key=f"{BIRD}-key", headers=SECRETS, query=f"?key={BIRD}-query",
                        **({dialect.prompt: value, "user": f"{BIRD}-member"} | members))


def answer(dialect, **members) -> dict:
    text = json.dumps(dialect.answer).replace("Hello.", f"{BIRD}-answer").replace(" there was", f"{BIRD}-answer")
    return json.loads(text) | {"note": f"{BIRD}-note"} | members


def stream(dialect) -> Answer:
    return sse(*(event.replace(b"Gr", BIRD.encode() + b"-stream") for event in told(dialect)),
               b"event: canary-event\ndata: {\"canary\":\"canary-event\"}\n\n")


ADVICE = [
    transforms(lambda request: request | {"note": f"{BIRD}-transform"}, cacheEligible=True,
               cacheKey=f"{BIRD}-cache-key", optimizationId=f"{BIRD}-id"),
    hits({"id": f"{BIRD}-hit", "choices": [], "content": []}),
    hits({"nothing": f"{BIRD}-hit"}),
    transforms(lambda request: {"model": f"{BIRD}-model", "messages": f"{BIRD}-text", "prompt": 1}),
    transforms(lambda request: f"{BIRD}-no-object"),
    as_json({"error": {"message": f"{BIRD}-error"}}, status=500, headers=[("x-error", f"{BIRD}-header")]),
    as_json(f'{{"{BIRD}-broken'.encode()),
    as_json({f"{BIRD}-member": f"{BIRD}-wrong-shape"}),
    Answer(status=302, headers=[("location", f"/{BIRD}-location")]),
    Answer(headers=[("content-encoding", "gzip")], body=BIRD.encode()),
    RESET, NEVER,
]
REVIEWS = [
    rewrites(lambda response: response | {"review": f"{BIRD}-review"}),
    rewrites(lambda response: f"{BIRD}-no-object"),
    as_json(f'{{"{BIRD}-broken'.encode()),
    as_json({"error": f"{BIRD}-error"}, status=503),
    RESET,
]


def answers(dialect) -> list:
    """What a provider may say: well, badly, and in between."""
    return [
        as_json(answer(dialect)), as_json(answer(dialect), framing="chunked"),
        as_json({"error": {"message": f"bad key {BIRD}-key, prompt {BIRD}-prompt"}}, status=401),
        as_json({"error": f"{BIRD}-error"}, status=500),
        as_json(f'{{"{BIRD}-broken'.encode()),
        Answer(headers=[("content-type", "application/json"), ("content-encoding", "gzip")], body=BIRD.encode()),
        Answer(headers=[("content-type", "text/event-stream")], framing="chunked",
               body=[f'data: {{"{BIRD}-cut'.encode(), 0.01], end="reset"),
        as_json(answer(dialect), headers=[("x-anyray-optimization", f"{BIRD}-forged")]),
    ]


def calls(dialect):
    yield prompt(dialect)
    yield prompt(dialect, note="x" * 110_000 + BIRD)
    yield prompt(dialect, tools=[{"name": f"{BIRD}-tool"}])
    if dialect is not EMBEDDINGS:
        yield prompt(dialect, stream=True)
    yield dialect.call(raw=f'{{"{BIRD}-half'.encode(), headers=SECRETS)
    yield dialect.call(raw=f'{{"{BIRD}":1,"{BIRD}":2}}'.encode(), headers=SECRETS)
    yield dialect.call(raw=f'["{BIRD}"]'.encode(), headers=[*SECRETS, ("content-encoding", BIRD)])
    yield dialect.call(headers=[*SECRETS, ("x-anyray-optimize", "off"), ("content-digest", BIRD)])


def every_kind_of_call(proxy, optimizer, provider, dialect, http) -> list:
    """Each advice, each review and each answer at least once, with every kind of request."""
    replies = []

    def play(call, advice, review, said) -> None:
        optimizer.on(OPTIMIZE, advice)
        optimizer.on(OPTIMIZE_RESPONSE, review)
        provider.answers(said)
        replies.append(proxy.send(call, http))

    for call in calls(dialect):
        play(call, ADVICE[0], REVIEWS[0], answers(dialect)[0])
    for advice in ADVICE:
        play(prompt(dialect), advice, REVIEWS[0], answers(dialect)[0])
    for review in REVIEWS:
        play(prompt(dialect), ADVICE[0], review, answers(dialect)[0])
    for said in answers(dialect):
        play(prompt(dialect), ADVICE[0], REVIEWS[0], said)
    if dialect in STREAMING:
        for review in REVIEWS:
            play(prompt(dialect, stream=True), ADVICE[0], review, stream(dialect))
        play(prompt(dialect, stream=True), ADVICE[1], REVIEWS[0], stream(dialect))
    optimizer.on(OPTIMIZE, NEVER)
    client.begin(proxy.port, prompt(dialect), HTTP1).close()
    # What was queued has left, and was refused in words of its own.
    for path in (CACHE, RECORD):
        optimizer.on(path, as_json({"error": f"{BIRD}-refused"}, status=500))
    play(prompt(dialect), ADVICE[0], REVIEWS[0], answers(dialect)[0])
    optimizer.wait_for(lambda seen: seen.path == RECORD)
    return replies


@pytest.mark.parametrize("dialect", ALL, ids=str)
@pytest.mark.parametrize("host", ["talkative", "example"])
def test_what_the_module_says_holds_no_content(request, host, dialect, optimizer, provider):
    proxy = request.getfixturevalue(host)
    http = HTTP2 if ALL.index(dialect) % 2 and ON == "envoy" else HTTP1
    replies = every_kind_of_call(proxy, optimizer, provider, dialect, http)
    assert any(BIRD in seen.everything for seen in optimizer.calls), "they flew"
    said = all_that_is_said(proxy, replies)
    # Else there would be nothing to find them in.
    for sign in SIGNS:
        assert sign in said, sign
    assert any(reply.headers.has("x-anyray-optimization") for reply in replies)
    found = [line for line in said.splitlines() if BIRD in line or TOKEN in line]
    assert not found, found[:10]


def test_the_breaker_s_lines_hold_no_content(breaking, optimizer, provider):
    optimizer.on(OPTIMIZE, as_json({"error": f"{BIRD}-error"}, status=500))
    replies = [breaking.send(prompt(CHAT)) for _ in range(4)]
    optimizer.on(OPTIMIZE, ADVICE[0])
    time.sleep(0.3)
    replies += [breaking.send(prompt(CHAT)) for _ in range(2)]
    said = all_that_is_said(breaking, replies)
    assert "the optimizer keeps failing" in said and "the optimizer answers again" in said
    assert BIRD not in said


def test_a_host_set_up_wrongly_is_told_so_without_content(proxies, optimizer, provider):
    proxy = proxies.start(Setup(EVERYTHING, log_level="trace", holds_headers=False))
    try:
        replies, said = [], ""
        # On a busy machine the verdict may take a call or two more.
        while "allow_on_headers_stop_iteration" not in said and len(replies) < 8:
            replies.append(proxy.send(prompt(CHAT)))
            said = all_that_is_said(proxy, replies)
        assert "allow_on_headers_stop_iteration" in said and BIRD not in said
    finally:
        proxy.host.stop()


WRONG = {
    "a token with a line end": {"optimizer": {"upstream": "optimizer", "token": f"{BIRD}\nx"}},
    "a token of another type": {"optimizer": {"upstream": "optimizer", "token": [BIRD]}},
    "two tokens": {"optimizer": {"upstream": "optimizer", "token": BIRD, "token_env": "PATH"}},
    "a mistake elsewhere": {"optimizer": {"upstream": "optimizer", "token": BIRD, "timeout_ms": 0}},
}


@pytest.mark.parametrize("configuration", WRONG.values(), ids=WRONG.keys())
def test_a_refused_configuration_does_not_tell_the_token(proxies, configuration):
    with pytest.raises(Refused) as refused:
        proxies.start(Setup(configuration, log_level="trace"))
    # Envoy itself repeats the whole configuration; the module's line is what is asked about.
    ours = [line for line in str(refused.value).splitlines() if "configuration: optimizer" in line]
    assert ours and not any(BIRD in line for line in ours)
