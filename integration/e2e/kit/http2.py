"""HTTP/2 without TLS, on the `h2` library: the serving side of the scripted services."""

from __future__ import annotations

import socket
import threading
import time
from typing import Callable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from .http1 import finish, wait
from .message import Answer, Headers, Raw, Seen

PREFACE = b"PRI * HTTP/2.0"


def texts(fields) -> Headers:
    return Headers((k.decode("latin-1"), v.decode("latin-1")) for k, v in fields)


def octets(fields) -> list[tuple[bytes, bytes]]:
    return [(k.encode("latin-1"), v.encode("latin-1")) for k, v in fields]


class Link:
    """One HTTP/2 connection: a reading loop, and writers that wait for their window."""

    def __init__(self, sock: socket.socket, client_side: bool):
        config = h2.config.H2Configuration(
            client_side=client_side, header_encoding=None, validate_inbound_headers=False
        )
        self.sock = sock
        self.h2 = h2.connection.H2Connection(config)
        self.changed = threading.Condition()
        self.closed = False

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.sock.sendall(data)

    def receive(self) -> list | None:
        """Takes what came; None at the end of the connection."""
        data = self.sock.recv(1 << 18)
        with self.changed:
            if not data:
                self.closed = True
                self.changed.notify_all()
                return None
            events = self.h2.receive_data(data)
            for event in events:
                if isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
            self.flush()
            self.changed.notify_all()
        return events

    def send_data(self, stream: int, data: bytes) -> None:
        while data:
            with self.changed:
                while not (room := self.h2.local_flow_control_window(stream)):
                    if self.closed or not self.changed.wait(20):
                        raise ConnectionError("no window")
                room = min(room, self.h2.max_outbound_frame_size)
                self.h2.send_data(stream, data[:room])
                self.flush()
            data = data[room:]

    def send_pieces(self, stream: int, pieces) -> None:
        for piece in pieces:
            if isinstance(piece, bytes):
                self.send_data(stream, piece)
            else:
                wait(piece)

    def send_headers(self, stream: int, fields, end: bool = False) -> None:
        with self.changed:
            self.h2.send_headers(stream, octets(fields), end_stream=end)
            self.flush()

    def end(self, stream: int) -> None:
        with self.changed:
            self.h2.end_stream(stream)
            self.flush()

    def reset(self, stream: int) -> None:
        with self.changed:
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            self.flush()


def serve(sock: socket.socket, begin: Callable, answer: Callable) -> None:
    """Serves one connection. `begin` records a request, `answer` scripts its answer."""
    link = Link(sock, client_side=False)
    link.h2.initiate_connection()
    link.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
    link.flush()
    open_streams: dict[int, Seen] = {}

    def respond(stream: int, seen: Seen) -> None:
        try:
            write(link, stream, answer(seen))
        except (OSError, h2.exceptions.ProtocolError):
            pass  # The peer reset the stream or left: nothing to answer any more.

    while (events := link.receive()) is not None:
        for event in events:
            stream = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.RequestReceived):
                fields = texts(event.headers)
                seen = Seen(fields.get(":method"), fields.get(":path"), fields, http="HTTP/2")
                seen.arrived = time.monotonic()
                open_streams[stream] = seen
                begin(seen)
            elif isinstance(event, h2.events.DataReceived):
                open_streams[stream].body += event.data
                open_streams[stream].framing = "data"
            elif isinstance(event, h2.events.TrailersReceived):
                open_streams[stream].trailers = texts(event.headers)
            elif isinstance(event, h2.events.StreamReset):
                open_streams.pop(stream, None)
            elif isinstance(event, h2.events.StreamEnded):
                seen = open_streams.pop(stream)
                seen.complete = True
                threading.Thread(target=respond, args=(stream, seen), daemon=True).start()


def write(link: Link, stream: int, answer: Answer | Raw) -> None:
    if isinstance(answer, Raw):
        finish(link.sock, answer.end)
        return
    time.sleep(answer.delay)
    for status, fields in answer.early:
        link.send_headers(stream, [(":status", str(status)), *fields])
    fields = [(":status", str(answer.status)), *answer.headers]
    if answer.framing == "length" and answer.status not in (204, 304):
        fields.append(("content-length", str(answer.length)))
    elif isinstance(answer.framing, int):
        fields.append(("content-length", str(answer.framing)))
    link.send_headers(stream, fields)
    link.send_pieces(stream, answer.pieces)
    if answer.end == "reset":
        link.reset(stream)
    elif answer.end == "close":
        link.sock.shutdown(socket.SHUT_RDWR)
    elif answer.end == "clean" and answer.trailers:
        link.send_headers(stream, answer.trailers, end=True)
    elif answer.end == "clean":
        link.end(stream)
