"""Clients that put exact bytes on the wire and keep what came back."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import h2.events
import h2.exceptions

from . import http1, http2
from .message import Headers, Pairs, Pieces

AUTHORITY = "llm.test"


@dataclass
class Request:
    """One call of a client; the same for HTTP/1.1 and HTTP/2."""

    method: str = "POST"
    path: str = "/"
    headers: Pairs = field(default_factory=list)
    body: bytes | Pieces = b""
    # `length` says the body's length beforehand, `chunked` does not.
    framing: Literal["length", "chunked"] = "length"
    trailers: Pairs = field(default_factory=list)
    # A chunked body that never comes to its end.
    unfinished: bool = False
    # Released with each piece of the reply's body that arrives.
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def pieces(self) -> Pieces:
        return self.body if isinstance(self.body, list) else [self.body] if self.body else []

    @property
    def length(self) -> int:
        return sum(len(piece) for piece in self.pieces if isinstance(piece, bytes))


@dataclass
class Reply:
    """What the client got, as far as it came."""

    case: str = ""
    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    trailers: Headers = field(default_factory=Headers)
    early: list[tuple[int, Headers]] = field(default_factory=list)
    framing: str = "none"
    complete: bool = False
    error: str = ""
    # Released with each piece of the body that arrives: the request's.
    arrived: threading.Semaphore = field(default_factory=threading.Semaphore)
    # Seconds from the request's begin to the reply's end.
    elapsed: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def everything(self) -> str:
        fields = [f"{k}: {v}" for k, v in self.headers + self.trailers]
        return "\n".join([*fields, self.body.decode("latin-1")])


def send(port: int, request: Request, http: str, timeout: float = 15.0) -> Reply:
    """Sends one request over a connection of its own and reads the whole reply."""
    started = time.monotonic()
    reply = Reply(arrived=request.arrived)
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            (_http1 if http == "HTTP/1.1" else _http2)(sock, request, reply)
        except (http1.Broken, OSError, h2.exceptions.ProtocolError) as error:
            reply.error = f"{type(error).__name__}: {error}"
    reply.elapsed = time.monotonic() - started
    return reply


def begin(port: int, request: Request, http: str) -> socket.socket:
    """Sends a whole request, and leaves the reply or the leaving to the caller."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=15)
    if http == "HTTP/1.1":
        _send_http1(sock, request)
    else:
        link = http2.Link(sock, client_side=True)
        _open_http2(link)
        _send_http2(link, request)
    return sock


def send_in_turn(port: int, requests: list[Request]) -> list[Reply]:
    """Sends HTTP/1.1 requests over one connection, each after the reply to the one before."""
    replies = []
    with socket.create_connection(("127.0.0.1", port), timeout=15) as sock:
        for request in requests:
            replies.append(Reply())
            _http1(sock, request, replies[-1])
    return replies


def send_together(port: int, requests: list[Request], http: str) -> list[Reply]:
    """Sends requests over one connection, all before the first reply: pipelined, or as streams."""
    replies = [Reply() for _ in requests]
    with socket.create_connection(("127.0.0.1", port), timeout=15) as sock:
        if http == "HTTP/1.1":
            for request in requests:
                _send_http1(sock, request)
            reader = http1.Reader(sock)
            for request, reply in zip(requests, replies):
                _read_http1(reader, request, reply, is_last=reply is replies[-1])
        else:
            link = http2.Link(sock, client_side=True)
            _open_http2(link)
            streams = {_send_http2(link, request): reply for request, reply in zip(requests, replies)}
            _read_http2(link, streams)
    return replies


def _send_http1(sock: socket.socket, request: Request) -> None:
    fields = [("host", AUTHORITY), *request.headers]
    chunked = request.framing == "chunked"
    if chunked:
        fields.append(("transfer-encoding", "chunked"))
    elif request.length or request.method not in ("GET", "HEAD"):
        fields.append(("content-length", str(request.length)))
    head = http1.head(f"{request.method} {request.path} HTTP/1.1", fields)
    # A body in one piece goes with the head: whether the proxy has read it when it answers
    # decides whether it keeps the connection.
    whole = isinstance(request.body, bytes) and not chunked
    # A proxy that has answered may stop reading: the reply is what counts then.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(head + request.body if whole else head)
        if not whole:
            http1.write_pieces(sock, request.pieces, chunked)
        if chunked and not request.unfinished:
            sock.sendall(b"0\r\n" + http1.head("", request.trailers)[2:])


def _http1(sock: socket.socket, request: Request, reply: Reply) -> None:
    _send_http1(sock, request)
    _read_http1(http1.Reader(sock), request, reply)


def _read_http1(
    reader: http1.Reader, request: Request, reply: Reply, is_last: bool = True
) -> None:
    reader.arrived = reply.arrived
    while True:
        status = int(reader.line().split(b" ")[1])
        fields = reader.fields()
        if status >= 200:
            break
        reply.early.append((status, fields))
    reply.status, reply.headers = status, fields
    body = bytearray()
    try:
        if request.method == "HEAD" or status in (204, 304):
            pass
        elif (fields.get("transfer-encoding") or "").lower() == "chunked":
            reply.framing = "chunked"
            reply.trailers = reader.chunks(body)
        elif fields.has("content-length"):
            reply.framing = "length"
            reader.exactly(int(fields.get("content-length")), body)
        else:
            reply.framing = "close"
            reader.until_close(body)
    finally:
        reply.body = bytes(body)
    reply.complete = True
    if is_last and reader.buffer:
        reply.error = f"surplus bytes after the reply: {reader.buffer[:200]!r}"


def _open_http2(link: http2.Link) -> None:
    link.h2.initiate_connection()
    link.h2.increment_flow_control_window(1 << 26)
    link.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 26})


def _send_http2(link: http2.Link, request: Request) -> int:
    """Sends the head at once; the body in a thread, because its window comes with what is read."""
    stream = link.h2.get_next_available_stream_id()
    fields = [
        (":method", request.method),
        (":scheme", "http"),
        (":authority", AUTHORITY),
        (":path", request.path),
        *((name.lower(), value) for name, value in request.headers),
    ]
    if request.framing == "length" and (request.length or request.method not in ("GET", "HEAD")):
        fields.append(("content-length", str(request.length)))
    bodyless = not request.pieces and not request.trailers
    link.send_headers(stream, fields, end=bodyless)

    def write() -> None:
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            link.send_pieces(stream, request.pieces)
            if request.trailers:
                link.send_headers(stream, request.trailers, end=True)
            elif not bodyless and not request.unfinished:
                link.end(stream)

    threading.Thread(target=write, daemon=True).start()
    return stream


def _http2(sock: socket.socket, request: Request, reply: Reply) -> None:
    link = http2.Link(sock, client_side=True)
    _open_http2(link)
    _read_http2(link, {_send_http2(link, request): reply})


def _read_http2(link: http2.Link, replies: dict[int, Reply]) -> None:
    bodies = {stream: bytearray() for stream in replies}
    try:
        while not all(reply.complete for reply in replies.values()):
            events = link.receive()
            if events is None:
                raise http1.Broken("connection closed")
            for event in events:
                stream = getattr(event, "stream_id", None)
                # What is of no stream ends them all.
                for each in [stream] if stream in replies else replies:
                    _take(event, bodies[each], replies[each])
    finally:
        for stream, reply in replies.items():
            reply.body = bytes(bodies[stream])


def _take(event, body: bytearray, reply: Reply) -> None:
    if isinstance(event, h2.events.InformationalResponseReceived):
        fields = http2.texts(event.headers)
        reply.early.append((int(fields.get(":status")), fields.without(":status")))
    elif isinstance(event, h2.events.ResponseReceived):
        fields = http2.texts(event.headers)
        reply.status = int(fields.get(":status"))
        reply.headers = fields.without(":status")
    elif isinstance(event, h2.events.DataReceived):
        reply.framing = "data"
        body += event.data
        if event.data:
            reply.arrived.release()
    elif isinstance(event, h2.events.TrailersReceived):
        reply.trailers = http2.texts(event.headers)
    elif isinstance(event, h2.events.StreamReset) and not reply.complete:
        raise http1.Broken(f"stream reset: {event.error_code}")
    elif isinstance(event, h2.events.ConnectionTerminated) and not reply.complete:
        raise http1.Broken(f"connection terminated: {event.error_code}")
    elif isinstance(event, h2.events.StreamEnded):
        reply.complete = True
