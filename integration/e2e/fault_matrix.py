"""The fault matrix: what goes wrong, at which hook, and what has to become of the call.

Each fault is one row; it is played at each hook, for plain and for streamed calls, over HTTP/1.1
and over HTTP/2. `test_fault_matrix.py` plays it, `fault_report.py` writes down what came out.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field, replace
from typing import Callable, Iterator, Union

import faults_on_wasi
from conftest import NO_BREAKER, module
from kit.client import Request
from kit.dialects import CHAT
from kit.envoy_config import MIB, Setup
from kit.message import NEVER, RESET, Answer, Raw, as_json
from kit.optimizer import (
    CACHE, DECISION, OPTIMIZE, OPTIMIZE_RESPONSE, RECORD, Script,
)
from kit.provider import sse
from kit.proxy import HTTP1, HTTP2, ON
from kit.streams import document, told
from test_buffers import padded

# The default; each hook that a call waits for may cost it so much, and no more.
TIMEOUT_MS = 800
REQUEST_LIMIT, RESPONSE_LIMIT, HOST_BUFFER = 256 << 10, 512 << 10, 4 * MIB
# What must never be seen by anybody but its owner.
TOKEN, KEY, LEAK = "canary-token", "canary-key", "canary-leak"
# As long as the model that the provider names: an answer at its limit stays there.
OTHER_MODEL = "gpt-y"


@dataclass(frozen=True)
class Hook:
    """A place where the module asks the optimizer, or tells it something."""

    name: str
    kind: str
    path: str
    # Somebody waits for the answer.
    waits: bool
    hooks: dict

    def setup(self, upstream: str, **members) -> Setup:
        """The host and the module with this hook, and as few others as can be."""
        # A write-back and a transformed answer need an optimizer that answered before.
        alone = {} if upstream == "optimizer" or self is REQUEST else {"request": False}
        return Setup(module(
            optimizer={"upstream": upstream, "timeout_ms": TIMEOUT_MS, "token": TOKEN},
            hooks=self.hooks | alone, breaker=NO_BREAKER, record={"content": True},
            limits={"host_buffer_bytes": HOST_BUFFER, "request_bytes": REQUEST_LIMIT,
                    "response_bytes": RESPONSE_LIMIT}, **members,
        ), buffer_bytes=HOST_BUFFER)

    def __str__(self) -> str:
        return self.name


REQUEST = Hook("request", "optimize", OPTIMIZE, True, {"response": False})
RESPONSE = Hook("response", "optimize_response", OPTIMIZE_RESPONSE, True, {"stream_response": True})
WRITE_BACK = Hook("write-back", "cache", CACHE, False, {"response": False})
RECORDS = Hook("record", "record", RECORD, False, {"response": False, "record": True})
HOOKS = (REQUEST, RESPONSE, WRITE_BACK, RECORDS)


@dataclass(frozen=True)
class Expected:
    """What becomes of one call. Verdicts are spelled as the access log spells them."""

    exchange: str = "transformed"
    response: str | None = None
    write_back: str | None = None
    record: str | None = None
    callouts: dict[str, str] = field(default_factory=dict)
    # The provider's answer speaks against the transform.
    rejected: bool = False
    # The client's answer, beside the one it gets without the filter: the `same`, `rewritten`
    # by the response hook, the host's own `502` where that one breaks off, or none, it is `gone`.
    # Where the component is the proxy: one that is `broken` off too, or the `component's` 502.
    client: str = "same"
    # How often the provider is called.
    provider: int = 1

    def callout(self, hook: Hook, result: str) -> "Expected":
        return replace(self, callouts=self.callouts | {hook.kind: result})


def well(hook: Hook) -> Expected:
    """A call without any fault."""
    done = Expected(callouts={"optimize": "ok"})
    if hook is RESPONSE:
        done = replace(done, response="transformed", client="rewritten").callout(hook, "ok")
    elif hook is WRITE_BACK:
        done = replace(done, write_back="queued").callout(hook, "ok")
    elif hook is RECORDS:
        done = replace(done, record="queued").callout(hook, "ok")
    return done


def left_alone(hook: Hook, reason: str, result: str | None = None) -> Expected:
    """A call that the request hook bypasses; `result` of its callout, if there was one."""
    done = Expected(exchange=f"bypassed:{reason}", callouts={"optimize": result} if result else {})
    if hook is RESPONSE:
        done = replace(done, response="bypassed:request_bypassed")
    elif hook is RECORDS:
        done = replace(done, record="queued").callout(hook, "ok")
    return done


Scripted = Union[Script, Answer, Raw]


@dataclass(frozen=True)
class Fault:
    """One row: how to script it, and what is expected of it (None: it cannot happen there)."""

    party: str
    name: str
    expected: Callable[[Hook, bool], Expected | None]
    # What the optimizer answers at the hook.
    optimizer: Callable[[Hook], Scripted] | None = None
    upstream: str = "optimizer"
    # The optimizer stops listening before the hook is reached.
    refuses: bool = False
    # What the provider answers, to a plain call and to a streamed one.
    provider: Callable[[bool], Answer | Raw] | None = None
    # The route to the provider.
    prefix: str = ""
    # What the client makes of its request.
    request: Callable[[Request], Request] | None = None
    # Several requests at a time on one connection.
    together: bool = False
    # Where the client leaves.
    leaves: str | None = None
    # Somebody waits for a time-out, or would if it were waited for.
    slow: bool = False
    # Takes longer than most, for other reasons.
    costly: bool = False


# --- The optimizer's -----------------------------------------------------------------------------

JSON = [("content-type", "application/json")]
LEAKY = ("x-leak", LEAK)
OK_HEAD = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-leak: " + LEAK.encode()
           + b"\r\ncontent-length: 1000\r\n\r\n")
HALF = OK_HEAD + b'{"request":{"model":"' + LEAK.encode()


def optimizer(name: str, answer: Scripted, result: str, reason: str, queued: str | None = None,
              response: Scripted | None = None, **more) -> Fault:
    """An answer as the hooks that wait for it see it, and (`queued`) those that do not.

    `response`: where the response hook's has to look otherwise.
    """

    def expected(hook: Hook, stream: bool) -> Expected:
        if hook is REQUEST:
            return left_alone(hook, reason, result)
        if hook is RESPONSE:
            return replace(well(hook), response=f"bypassed:{reason}",
                           client="same").callout(hook, result)
        return well(hook).callout(hook, queued or result)

    script = lambda hook: response if hook is RESPONSE and response is not None else answer
    return Fault("optimizer", name, expected, optimizer=script, **more)


def unreachable(hook: Hook, stream: bool) -> Expected:
    """Nobody listens any more where the hook asks."""
    if hook is REQUEST:
        return left_alone(hook, "optimizer_unreachable", "unreachable")
    done = well(hook).callout(hook, "unreachable")
    if hook is RESPONSE:
        done = replace(done, response="bypassed:optimizer_unreachable", client="same")
    return done


def undispatched(hook: Hook, stream: bool) -> Expected | None:
    """The host finds nobody to ask; a write-back follows an answer, so there is none."""
    failed, reason = "dispatch_failed", "optimizer_dispatch_failed"
    if hook is REQUEST:
        return left_alone(hook, reason, failed)
    if hook is WRITE_BACK:
        return None
    done = Expected(exchange="unchanged", callouts={hook.kind: failed})
    if hook is RESPONSE:
        return replace(done, response=f"bypassed:{reason}")
    return replace(done, record="queued")


def status(code: int, **more) -> Answer:
    headers = [LEAKY, ("location", f"/{LEAK}")]
    return as_json({"error": LEAK}, status=code, headers=headers, **more)


def wrapped(**members) -> dict:
    return {"protocolVersion": 1, "decisions": [DECISION]} | members


# As many levels as blow a stack: left open; closed again, in the place of a list of objects.
NESTED = b'{"decisions":[{"kind":"k"}],"%s":{"%s":[{"a":' + b"[" * 100_000
RETYPED = b'{"decisions":[{"kind":"k"}],"%s":{"%s":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
FULL = {"request": CHAT.body(user=LEAK), "response": CHAT.answer | {"user": LEAK}}

OPTIMIZER = [
    Fault("optimizer", "is absent (a cluster without hosts)", undispatched,
          upstream="optimizer_without_hosts"),
    Fault("optimizer", "is an unknown cluster", undispatched, upstream="no_such_cluster"),
    Fault("optimizer", "refuses connections", unreachable, refuses=True),
    optimizer("accepts and never answers", NEVER, "timeout", "optimizer_timeout", slow=True),
    optimizer("trickles a byte every 500 ms", Raw([OK_HEAD, *[b" ", 0.5] * 12]),
              "timeout", "optimizer_timeout", slow=True),
    optimizer("answers after the time-out", as_json(wrapped(**FULL), delay=TIMEOUT_MS / 1000 + 0.3),
              "timeout", "optimizer_timeout", queued="ok", slow=True),
    optimizer("stalls in the middle of its answer", Raw([HALF], end="hang"),
              "timeout", "optimizer_timeout", slow=True),
    optimizer("dies in the middle of its answer", Raw([HALF]), "reset", "optimizer_reset"),
    optimizer("resets without an answer", RESET, "unreachable", "optimizer_unreachable"),
    optimizer("answers 500", status(500), "status", "optimizer_status"),
    optimizer("answers 503", status(503), "status", "optimizer_status"),
    Fault("optimizer", "answers 404", optimizer=lambda hook: status(404),
          # It keeps no records, and says so.
          expected=lambda hook, stream: well(hook) if hook is RECORDS else optimizer(
              "", Answer(), "status", "optimizer_status").expected(hook, stream)),
    optimizer("answers 301", status(301), "status", "optimizer_status"),
    optimizer("answers with nothing", Answer(headers=[LEAKY]), "not_json", "answer_not_json", "ok"),
    optimizer("answers with a page", Answer(headers=[LEAKY], body=b"<html>" + LEAK.encode()),
              "not_json", "answer_not_json", "ok"),
    optimizer("answers with JSON of a wrong shape", as_json([wrapped(**FULL)]),
              "wrong_shape", "answer_wrong_shape", "ok"),
    optimizer("opens 100,000 levels", as_json(NESTED % (b"request", b"messages")),
              "not_json", "answer_not_json", "too_large",
              response=as_json(NESTED % (b"response", b"choices"))),
    optimizer("nests 100,000 levels in `messages` and `choices`",
              as_json(RETYPED % (b"request", b"messages")),
              "ok", "transform_required_retyped", "too_large",
              response=as_json(RETYPED % (b"response", b"choices"))),
    optimizer("answers with 64 MB", Answer(headers=JSON, body=[b'{"x":"', *[b"x" * MIB] * 64, b'"}']),
              "reset", "optimizer_reset", costly=True),
    optimizer("answers with more than the host's buffer",
              as_json(wrapped(request=CHAT.body(user="u" * (HOST_BUFFER + MIB)))),
              "too_large", "answer_too_large"),
    optimizer("makes a body larger than the limit",
              as_json(wrapped(request={"user": "u" * REQUEST_LIMIT})),
              "ok", "transform_too_large", "too_large",
              response=as_json(wrapped(response=CHAT.answer | {"x": "x" * RESPONSE_LIMIT}))),
    optimizer("takes away what the dialect requires (`messages`, `choices`)",
              as_json(wrapped(request={"model": LEAK, "input": []})),
              "ok", "transform_required_missing", "ok",
              response=as_json(wrapped(response={"id": LEAK, "choices": []}))),
    optimizer("makes null of what the dialect requires",
              as_json(wrapped(request=CHAT.body() | {"messages": None})),
              "ok", "transform_required_retyped", "ok",
              response=as_json(wrapped(response=CHAT.answer | {"choices": None}))),
    optimizer("gives `request` and `response` as strings",
              as_json(wrapped(request=LEAK, response=LEAK)),
              "wrong_shape", "answer_wrong_shape", "ok"),
    optimizer("says too small a `content-length`", as_json(wrapped(**FULL), framing=40),
              "not_json", "answer_not_json", "ok"),
    optimizer("says too large a `content-length`", as_json(wrapped(**FULL), framing=9000, end="close"),
              "reset", "optimizer_reset"),
    optimizer("answers in what is no UTF-8",
              as_json(json.dumps(wrapped(**FULL)).encode().replace(b"canary", b"caf\xe9")),
              "not_json", "answer_not_json", "ok"),
    optimizer("answers with gzip",
              as_json(gzip.compress(json.dumps(wrapped(**FULL)).encode()),
                      headers=[("content-encoding", "gzip")]),
              "not_json", "answer_not_json", "ok"),
]

# --- The provider's ------------------------------------------------------------------------------

EVENTS = [("content-type", "text/event-stream")]
PLAIN, STREAM = json.dumps(document(CHAT)).encode(), told(CHAT)


def healthy(stream: bool) -> Answer:
    return sse(*STREAM) if stream else Answer(headers=JSON, body=PLAIN)


def both(**more) -> Callable[[bool], Answer]:
    """A healthy answer with something about it."""
    return lambda stream: replace(healthy(stream), **more)


def refusal(code: int) -> Callable[[bool], Answer]:
    return lambda stream: as_json({"error": {"message": "no"}}, status=code)


def sized(size: int) -> Callable[[bool], Answer]:
    """An answer of exactly so many bytes."""

    def answer(stream: bool) -> Answer:
        if not stream:
            return Answer(headers=JSON, body=padded(document(CHAT), size))
        rest = size - len(b"".join(STREAM))
        comments = [b":" + b"x" * (min(rest - at, 1 << 16) - 3) + b"\n\n"
                    for at in range(0, rest, 1 << 16)]
        return sse(*comments, *STREAM)

    return answer


def provider(name: str, answer: Callable[[bool], Answer | Raw] | None,
             reason: str | tuple[str, str] | None = None,
             response: str | tuple[str, str] | None = None, client: str = "same",
             rejected: bool = False, calls: int = 1, **more) -> Fault:
    """An answer, and why it is neither shown to the optimizer (`response`) nor written back.

    Two reasons are those of a plain answer and of a stream; none: there is nothing wrong with it.
    """

    def expected(hook: Hook, stream: bool) -> Expected:
        of = lambda reasons: reasons[stream] if isinstance(reasons, tuple) else reasons
        done = replace(well(hook), rejected=rejected, provider=calls)
        if hook is RESPONSE and (reason or response):
            verdict = f"bypassed:{of(response or reason)}"
            done = replace(done, response=verdict, callouts={"optimize": "ok"}, client=client)
        elif hook is WRITE_BACK and reason:
            done = replace(done, write_back=f"bypassed:{of(reason)}", callouts={"optimize": "ok"})
        return done

    return Fault("provider", name, expected, provider=answer, **more)


PROVIDER = [
    provider("is absent", None, "response_not_from_provider", calls=0, prefix="/gone"),
    provider("resets without an answer", lambda stream: RESET, "response_not_from_provider"),
    provider("is slow", lambda stream: replace(
        sse(*STREAM, gap=0.01) if stream else Answer(headers=JSON, body=[PLAIN[:50], 0.1, PLAIN[50:]]),
        delay=0.1), costly=True),
    provider("dies in the middle of its body, which has a length",
             lambda stream: Answer(headers=EVENTS if stream else JSON,
                                   body=[*STREAM[:4], 0.05] if stream else [PLAIN[:50], 0.05],
                                   framing=100_000, end="close"),
             ("response_unreadable", "stream_incomplete"), "client_gone", client="502",
             costly=True),
    provider("dies in the middle of a chunked body",
             lambda stream: Answer(headers=EVENTS if stream else JSON,
                                   body=[*STREAM[:4], 0.05] if stream else [PLAIN[:50], 0.05],
                                   framing="chunked", end="reset"),
             ("response_unreadable", "stream_incomplete"), "client_gone", client="502",
             costly=True),
    *(provider(f"answers {code}", refusal(code), "response_status", rejected=code < 500)
      for code in (400, 401, 404, 429, 500, 503)),
    provider("says too small a `content-length`",
             lambda stream: Answer(headers=EVENTS if stream else JSON,
                                   body=b"".join(STREAM) if stream else PLAIN, framing=60),
             ("response_not_json", "stream_incomplete")),
    provider("sends trailers", both(framing="chunked", trailers=[("x-end", "kept")])),
    provider("sends gzip unasked",
             lambda stream: Answer(
                 headers=[*(EVENTS if stream else JSON), ("content-encoding", "gzip")],
                 body=gzip.compress(b"".join(STREAM) if stream else PLAIN, mtime=0)),
             "response_encoded"),
    provider("answers with an empty body", both(body=b"", framing="length"), "response_empty"),
    provider("answers 204", lambda stream: Answer(status=204, headers=EVENTS if stream else JSON),
             "response_empty"),
    provider("sends 1xx first", both(early=[(103, [("link", "</x>; rel=preload")])])),
    provider("answers with a byte less than the limit", sized(RESPONSE_LIMIT - 1)),
    provider("answers with as much as the limit", sized(RESPONSE_LIMIT)),
    provider("answers with a byte more than the limit", sized(RESPONSE_LIMIT + 1),
             "response_too_large"),
    provider("answers with more than the host's buffer", sized(HOST_BUFFER + MIB),
             "response_too_large"),
]

# --- The client's --------------------------------------------------------------------------------


def client(name: str, change: Callable[[Request], Request], reason: str | None = None,
           **more) -> Fault:
    """A request that looks otherwise; `reason` where it is left alone for it."""
    expected = lambda hook, stream: left_alone(hook, reason) if reason else well(hook)
    return Fault("client", name, expected, request=change, **more)


def bytewise(framing: str) -> Callable[[Request], Request]:
    return lambda request: replace(
        request, framing=framing, body=[bytes([octet]) for octet in request.body])


def of_size(size: int, framing: str = "length") -> Callable[[Request], Request]:
    return lambda request: replace(
        request, framing=framing, body=padded(json.loads(request.body), size))


def with_headers(*fields: tuple[str, str]) -> Callable[[Request], Request]:
    return lambda request: replace(request, headers=[*request.headers, *fields])


def awaiting(request: Request) -> Request:
    """The body comes when the proxy has had time to say `100 Continue`."""
    expecting = [*request.headers, ("expect", "100-continue")]
    return replace(request, headers=expecting, body=[0.05, request.body])


def late(stream: bool) -> Answer | Raw:
    """No answer, while the client leaves. A host that does not say so has to be given one, for an end."""
    if ON == "envoy":
        return NEVER
    return replace(sse(*STREAM, gap=0.05) if stream else healthy(stream), delay=1.0)


def stalled(stream: bool) -> Answer:
    """Half an answer, and no end of it but for such a host."""
    half = [*STREAM[:4]] if stream else [PLAIN[:50]]
    hangs = {"body": half, "end": "hang"} if ON == "envoy" else {"body": [*half, 2.0], "end": "close"}
    return replace(healthy(stream), framing="chunked", **hangs)


def leaves(name: str, point: str, hooks: tuple[Hook, ...], callouts: dict[str, str], calls: int,
           write_back: str | tuple[str, str] | None = None, response: str | None = None,
           **more) -> Fault:
    def expected(hook: Hook, stream: bool) -> Expected | None:
        if hook not in hooks:
            return None
        done = Expected("transformed" if calls else "bypassed:client_gone", client="gone",
                        callouts=callouts, provider=calls)
        if hook is RESPONSE:
            done = replace(done, response=response)
        elif hook is WRITE_BACK and write_back:
            reason = write_back[stream] if isinstance(write_back, tuple) else write_back
            done = replace(done, write_back=f"bypassed:{reason}")
        elif hook is RECORDS:
            done = replace(done, record="queued").callout(hook, "ok")
        return done

    return Fault("client", name, expected, leaves=point, **more)


ASKED = {"optimize": "ok"}
METADATA = "x-anyray-metadata"
CLIENT = [
    leaves("leaves in the middle of its body", "body", HOOKS, {}, 0,
           request=lambda request: replace(
               request, framing="chunked", unfinished=True, body=request.body[:60])),
    leaves("leaves while the optimizer is asked about the request", "optimize", HOOKS,
           {"optimize": "abandoned"}, 0),
    leaves("leaves before the provider answers", "provider", HOOKS, ASKED, 1, "client_gone",
           provider=late),
    leaves("leaves in the middle of the answer", "answer", HOOKS, ASKED, 1,
           ("response_unreadable", "stream_incomplete"), "bypassed:client_gone",
           provider=stalled),
    leaves("leaves while the optimizer is asked about the answer", "optimize_response", (RESPONSE,),
           ASKED | {"optimize_response": "abandoned"}, 1, response="bypassed:client_gone"),
    client("sends chunks of one byte", bytewise("chunked")),
    client("sends its body byte by byte", bytewise("length")),
    client("expects 100-continue", awaiting),
    client("sends a byte less than the limit", of_size(REQUEST_LIMIT - 1)),
    client("sends as much as the limit", of_size(REQUEST_LIMIT)),
    client("sends a byte more than the limit", of_size(REQUEST_LIMIT + 1), "request_too_large"),
    client("sends more than the host's buffer", of_size(HOST_BUFFER + MIB), "request_too_large"),
    client("sends more than the host's buffer, of unknown length",
           of_size(HOST_BUFFER + MIB, "chunked"), "request_too_large"),
    client("sends headers that are no UTF-8", with_headers(
        ("x-note", "caf\xe9 \xff"), ("x-request-note", "\xff"), ("traceparent", "\xfe\xff"))),
    client("sends 57 KB of headers", with_headers(*((f"x-{n}", "h" * 1880) for n in range(30)))),
    client("sends its requests together (pipelined, or as streams of one connection)",
           lambda request: request, together=True),
    client("sends metadata that is no JSON", with_headers((METADATA, '{"user":'))),
    client("sends metadata that is no UTF-8", with_headers((METADATA, '{"user":"\xff\xfe"}'))),
    client("sends 50 KB of metadata", with_headers((METADATA, '{"user":"%s"}' % ("u" * 50_000)))),
    client("sends metadata of 4,000 levels", with_headers((METADATA, "[" * 4000 + "]" * 4000))),
    client("sends metadata 90 times", with_headers(*[(METADATA, '{"user":"eve","a":1}')] * 90)),
    client("sends metadata full of nonsense", with_headers((METADATA, json.dumps({
        "": 1e308, "\n\r": "\r\nx-injected: 1", "cacheScope": "0" * 32, "user": [], "a\0b": -0.0})))),
]

NO_FAULT = Fault("nobody", "nothing is wrong", lambda hook, stream: well(hook))
FAULTS = (*OPTIMIZER, *PROVIDER, *CLIENT)


@dataclass(frozen=True)
class Row:
    """A fault at a hook over one protocol; played once plain and once streamed."""

    fault: Fault
    hook: Hook
    http: str

    @property
    def setup(self) -> Setup:
        if ON != "envoy" and self.fault.prefix == "/gone":
            return self.hook.setup(self.fault.upstream, provider="http://127.0.0.1:1")
        return self.hook.setup(self.fault.upstream)

    def expected(self, stream: bool) -> Expected | None:
        """What becomes of it on this host."""
        expected = self.fault.expected(self.hook, stream)
        if ON == "envoy" or expected is None:
            return expected
        return faults_on_wasi.expected(self, stream, expected)

    @property
    def outlives_the_call(self) -> bool:
        """What it comes to is known seconds after the client got its answer."""
        return self.fault.slow and not self.hook.waits

    def __str__(self) -> str:
        return f"the {self.fault.party} {self.fault.name}, {self.hook}, {self.http}"


def rows() -> Iterator[Row]:
    for fault in FAULTS:
        for hook in HOOKS:
            for http in (HTTP1, HTTP2) if ON == "envoy" else (HTTP1,):
                row = Row(fault, hook, http)
                if row.expected(False):
                    yield row
