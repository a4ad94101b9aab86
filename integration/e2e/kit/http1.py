"""HTTP/1.1 as bytes: reading what the other side sent, writing what a test scripted."""

from __future__ import annotations

import socket
import struct
import threading
import time

from .message import Answer, Headers, Pieces, Raw, Seen


class Broken(Exception):
    """The other side sent what is no HTTP/1.1, or stopped in the middle."""


class Reader:
    """A socket with a memory, so that messages can be cut out of it."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.buffer = b""
        # Released with each piece of a body that comes.
        self.arrived = threading.Semaphore()

    def fill(self) -> bool:
        data = self.sock.recv(1 << 18)
        self.buffer += data
        return bool(data)

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self.fill():
                raise Broken(f"ended in a line: {self.buffer[:200]!r}")
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def exactly(self, count: int, into: bytearray) -> None:
        """Appends `count` bytes; what came before an early end is kept there too."""
        while count:
            if not self.buffer and not self.fill():
                raise Broken("ended in a body")
            piece, self.buffer = self.buffer[:count], self.buffer[count:]
            into += piece
            count -= len(piece)
            self.arrived.release()

    def until_close(self, into: bytearray) -> None:
        while self.buffer or self.fill():
            into += self.buffer
            self.arrived.release()
            self.buffer = b""

    def fields(self) -> Headers:
        found = Headers()
        while line := self.line():
            name, colon, value = line.partition(b":")
            if not colon:
                raise Broken(f"no header field: {line[:200]!r}")
            found.append((name.decode("latin-1"), value.strip().decode("latin-1")))
        return found

    def chunks(self, into: bytearray) -> Headers:
        """A chunked body; returns its trailers."""
        while size := int(self.line().split(b";")[0], 16):
            self.exactly(size, into)
            if self.line():
                raise Broken("a chunk is longer than it says")
        return self.fields()


def read_request(reader: Reader, seen: Seen) -> None:
    """Fills `seen`, so that a request that breaks off is on record as far as it came."""
    parts = reader.line().decode("latin-1").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise Broken(f"no request line: {parts!r}")
    seen.method, seen.path, seen.arrived = parts[0], parts[1], time.monotonic()
    seen.headers = reader.fields()
    body = bytearray()
    try:
        if (seen.headers.get("transfer-encoding") or "").lower() == "chunked":
            seen.framing = "chunked"
            seen.trailers = reader.chunks(body)
        elif length := int(seen.headers.get("content-length") or 0):
            seen.framing = "length"
            reader.exactly(length, body)
    finally:
        seen.body = bytes(body)
    seen.complete = True


def wait(piece: float | threading.Semaphore) -> None:
    """Takes a pause between two pieces of a body."""
    if isinstance(piece, float):
        time.sleep(piece)
    elif not piece.acquire(timeout=10):
        raise ConnectionError("what was sent has not arrived")


def write_pieces(sock: socket.socket, pieces: Pieces, chunked: bool = False) -> None:
    for piece in pieces:
        if not isinstance(piece, bytes):
            wait(piece)
        elif not chunked:
            sock.sendall(piece)
        elif piece:
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))


def head(start: str, fields: list[tuple[str, str]]) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def write_answer(sock: socket.socket, answer: Answer | Raw, method: str, last: bool) -> bool:
    """Sends a scripted answer, the `last` one where it was asked for as that; false where the
    connection is over after it."""
    if isinstance(answer, Raw):
        write_pieces(sock, answer.pieces)
        finish(sock, answer.end)
        return False
    time.sleep(answer.delay)
    for status, fields in answer.early:
        sock.sendall(head(f"HTTP/1.1 {status} Early", fields))
    fields = list(answer.headers)
    bodyless = method == "HEAD" or answer.status in (204, 304)
    chunked = answer.framing == "chunked" and not bodyless
    if chunked:
        fields.append(("transfer-encoding", "chunked"))
    elif answer.framing == "length" and answer.status not in (204, 304):
        fields.append(("content-length", str(answer.length)))
    elif isinstance(answer.framing, int):
        fields.append(("content-length", str(answer.framing)))
    if last or answer.framing == "close":
        fields.append(("connection", "close"))
    sock.sendall(head(f"HTTP/1.1 {answer.status} Scripted", fields))
    if not bodyless:
        write_pieces(sock, answer.pieces, chunked)
        if chunked and answer.end == "clean":
            sock.sendall(b"0\r\n" + head("", answer.trailers)[2:])
    if answer.end != "clean":
        finish(sock, answer.end)
    return answer.end == "clean" and answer.framing != "close" and not last


def finish(sock: socket.socket, end: str) -> None:
    if end == "hang":
        sock.settimeout(30)
        while sock.recv(1 << 16):
            pass
    elif end == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    else:
        sock.shutdown(socket.SHUT_RDWR)
