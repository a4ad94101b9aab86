"""The scripted provider: by default it answers each dialect's plain call."""

from __future__ import annotations

import threading

from . import dialects
from .message import Answer, Pieces, Seen, as_json
from .service import Service

LIMITS = ("x-ratelimit-remaining-tokens", "4711")


def plainly(seen: Seen) -> Answer:
    dialect = dialects.of_path(seen.path)
    if seen.method == "POST" and dialect:
        return as_json(dialect.answer, headers=[LIMITS])
    return Answer(headers=[("content-type", "text/plain")], body=b"a page\n")


class Provider(Service):
    """Answers LLM calls as scripted."""

    def __init__(self) -> None:
        super().__init__(plainly)


def sse(*events: bytes | float, gap: float | threading.Semaphore = 0.0, **more) -> Answer:
    """A stream of server-sent events, one write each, with pauses among them where a test wants,
    or each once the one before has arrived (see `Pieces`)."""
    pieces: Pieces = []
    for event in events:
        pieces += [event, gap] if gap else [event]
    head = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]
    return Answer(headers=head, body=pieces, framing="chunked", **more)
