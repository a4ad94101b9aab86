"""A scripted HTTP service: takes HTTP/1.1 and HTTP/2, keeps every call, answers as told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Callable, Iterator

import h2.exceptions

from . import http1, http2
from .message import Answer, Raw, Seen

Script = Callable[[Seen], "Answer | Raw"]


class Service:
    """Listens on 127.0.0.1, at a free port unless told otherwise, until it is stopped."""

    def __init__(self, default: Script, port: int = 0, remembers: bool = True):
        self.default = default
        self.remembers = remembers
        self.script: Script = default
        self.calls: list[Seen] = []
        # What came and was no HTTP: surplus bytes of a wrong content-length show up here.
        self.malformed: list[str] = []
        self.changed = threading.Condition()
        self.connections: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.accept_from(self.listener)

    # What a test does with it

    def answers(self, script: "Script | Answer | Raw") -> None:
        """Scripts every answer from now on."""
        self.script = script if callable(script) else lambda seen: script

    def reset(self) -> None:
        with self.changed:
            self.calls, self.malformed, self.script = [], [], self.default

    def of(self, case: str) -> list[Seen]:
        """The calls made for one request of a client (see `Proxy.send`)."""
        with self.changed:
            return [seen for seen in self.calls if seen.headers.get("x-case") == case]

    def to(self, suffix: str) -> list[Seen]:
        """The calls whose path ends so."""
        with self.changed:
            return [seen for seen in self.calls if seen.path.endswith(suffix)]

    def wait_for(self, found: Callable[[Seen], bool], seconds: float = 5.0) -> Seen:
        """The first complete call that `found` accepts; fails when none comes."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                for seen in self.calls:
                    if seen.complete and found(seen):
                        return seen
                if not self.changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no such call among {[c.path for c in self.calls]}")

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Refuses connections meanwhile. The port stays bound, so that nobody else gets it."""
        self._close()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        try:
            yield
        finally:
            self.listener.listen(256)
            self.accept_from(self.listener)

    @contextlib.contextmanager
    def over_tls(self, context: ssl.SSLContext) -> Iterator[int]:
        """Takes HTTP/1.1 over TLS too, at a port of its own."""
        plain = socket.create_server(("127.0.0.1", 0), backlog=256)
        # The handshake is left to the connection's thread.
        with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as listener:
            self.accept_from(listener)
            yield listener.getsockname()[1]
            listener.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._close()

    # The serving side

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # Wakes the accepting thread.
        self.listener.close()
        for sock in list(self.connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def accept_from(self, listener: socket.socket) -> None:
        def accept() -> None:
            with contextlib.suppress(OSError):  # Closed: the service is away or stopped.
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=self._connection, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _connection(self, sock: socket.socket) -> None:
        self.connections.add(sock)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if not isinstance(sock, ssl.SSLSocket) and self._is_http2(sock):
                http2.serve(sock, self._begin, self._script)
            else:
                self._http1(sock)
        except (OSError, h2.exceptions.ProtocolError):
            pass  # The proxy closed or reset the connection, as it may.
        finally:
            self.connections.discard(sock)
            sock.close()

    def _is_http2(self, sock: socket.socket) -> bool:
        return sock.recv(len(http2.PREFACE), socket.MSG_PEEK | socket.MSG_WAITALL) == http2.PREFACE

    def _http1(self, sock: socket.socket) -> None:
        reader = http1.Reader(sock)
        going = True
        while going and (reader.buffer or reader.fill()):
            seen = Seen("", "", http1.Headers())
            try:
                self._begin(seen)
                http1.read_request(reader, seen)
            except (http1.Broken, ValueError) as broken:
                if not seen.headers:
                    self.malformed.append(str(broken))
                return
            with self.changed:
                self.changed.notify_all()
            last = (seen.headers.get("connection") or "").lower() == "close"
            going = http1.write_answer(sock, self._script(seen), seen.method, last)

    def _begin(self, seen: Seen) -> None:
        if not self.remembers:
            return
        with self.changed:
            self.calls.append(seen)
            self.changed.notify_all()

    def _script(self, seen: Seen) -> "Answer | Raw":
        with self.changed:
            self.changed.notify_all()
        return self.script(seen)
