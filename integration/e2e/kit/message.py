"""Messages as they were seen on the wire, and answers as a test scripts them."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, Literal, Union

Pairs = list[tuple[str, str]]

# A body in pieces: bytes are sent in one write, a number is a pause in seconds. A semaphore is
# its reader's, and says that what was sent before has arrived: a body that is held on the way
# gets no further.
Pieces = list[Union[bytes, float, threading.Semaphore]]


class Headers(list):
    """Header fields in the order of the wire; names compare without case."""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self if key.lower() == name.lower()]

    def get(self, name: str, default: str | None = None) -> str | None:
        return next(iter(self.all(name)), default)

    def has(self, name: str) -> bool:
        return bool(self.all(name))

    def without(self, *names: str) -> "Headers":
        return Headers((k, v) for k, v in self if k.lower() not in names)


@dataclass
class Seen:
    """A request as a scripted service received it."""

    method: str
    path: str
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=Headers)
    framing: str = "none"
    complete: bool = False
    http: str = "HTTP/1.1"
    arrived: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def everything(self) -> str:
        """All that came, as one text: what a canary must not show up in."""
        fields = [f"{k}: {v}" for k, v in self.headers + self.trailers]
        return "\n".join([self.path, *fields, self.body.decode("latin-1")])


@dataclass
class Answer:
    """A well-formed answer, for HTTP/1.1 and HTTP/2 alike, that may end badly."""

    status: int = 200
    headers: Pairs = field(default_factory=list)
    body: bytes | Pieces = b""
    # An integer is a `content-length` that need not be true.
    framing: Literal["length", "chunked", "close"] | int = "length"
    trailers: Pairs = field(default_factory=list)
    # Seconds before the head is sent.
    delay: float = 0.0
    # After the body: as HTTP says, a TCP reset (RST_STREAM), an early FIN, or silence.
    end: Literal["clean", "reset", "close", "hang"] = "clean"
    # Informational answers before the real one.
    early: list[tuple[int, Pairs]] = field(default_factory=list)

    @property
    def pieces(self) -> Pieces:
        return self.body if isinstance(self.body, list) else [self.body]

    @property
    def length(self) -> int:
        return sum(len(piece) for piece in self.pieces if isinstance(piece, bytes))


@dataclass
class Raw:
    """Bytes put on an HTTP/1.1 connection as they are."""

    pieces: Pieces
    end: Literal["reset", "close", "hang"] = "close"


def as_json(value: Any, status: int = 200, headers: Pairs = (), **more: Any) -> Answer:
    """An answer with a JSON body; bytes are taken as the JSON they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = [("content-type", "application/json"), *headers]
    return Answer(status=status, headers=head, body=body, **more)


NEVER = Raw([], end="hang")
RESET = Raw([], end="reset")
