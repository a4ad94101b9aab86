"""What an optimizer does wrong: its answer, the callout's result, and the reason for which the call is left alone."""

from __future__ import annotations

import gzip

from .message import NEVER, RESET, Answer, Raw, as_json

# Of the module that meets these.
TIMEOUT_MS = 300
OK_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def drip(*head: bytes) -> Raw:
    """Far more than the time-out, in pieces that each come soon."""
    return Raw([*head, *[step for _ in range(40) for step in (b" ", 0.1)]])


FAILURES = {
    "never answers": (NEVER, "timeout", "optimizer_timeout"),
    "answers after the time-out": (
        as_json({"request": {}}, delay=TIMEOUT_MS / 1000 + 1), "timeout", "optimizer_timeout"),
    "stops after its headers": (
        Raw([OK_HEAD + b"content-length: 100\r\n\r\n"], end="hang"), "timeout", "optimizer_timeout"),
    "stops in the middle of its body": (
        Raw([OK_HEAD + b'content-length: 100\r\n\r\n{"requ'], end="hang"),
        "timeout", "optimizer_timeout"),
    "trickles its headers": (drip(b"HTTP/1.1 200 OK\r\nx-long:"), "timeout", "optimizer_timeout"),
    "trickles its body": (
        drip(OK_HEAD + b"content-length: 100\r\n\r\n"), "timeout", "optimizer_timeout"),
    "closes without an answer": (Raw([]), "unreachable", "optimizer_unreachable"),
    "resets without an answer": (RESET, "unreachable", "optimizer_unreachable"),
    "speaks no HTTP": (Raw([b"garbage\r\n\r\n"]), "unreachable", "optimizer_unreachable"),
    "answers with its own 500": (as_json({}, status=500), "status", "optimizer_status"),
    "answers with its own 503": (as_json({}, status=503), "status", "optimizer_status"),
    "answers with its own 504": (as_json({}, status=504), "status", "optimizer_status"),
    "answers 401": (as_json({}, status=401), "status", "optimizer_status"),
    "answers 404 with a page": (Answer(status=404, body=b"<html>"), "status", "optimizer_status"),
    "redirects": (
        Answer(status=302, headers=[("location", "/v1/other")]), "status", "optimizer_status"),
    "closes in the middle of its body": (
        Raw([OK_HEAD + b'content-length: 100\r\n\r\n{"requ']), "reset", "optimizer_reset"),
    "resets in the middle of its body": (
        Raw([OK_HEAD + b'content-length: 100\r\n\r\n{"requ', 0.05], end="reset"),
        "reset", "optimizer_reset"),
    "closes in the middle of a chunk": (
        Raw([OK_HEAD + b'transfer-encoding: chunked\r\n\r\nff\r\n{"requ']),
        "reset", "optimizer_reset"),
    "says nothing with 200": (Answer(), "not_json", "answer_not_json"),
    "says nothing with 204": (Answer(status=204), "not_json", "answer_not_json"),
    "answers with a page": (Answer(body=b"<html>hello"), "not_json", "answer_not_json"),
    "answers with half its JSON": (as_json(b'{"request":{"mod'), "not_json", "answer_not_json"),
    "answers with more than its JSON": (as_json(b'{"request":{}} {}'), "not_json", "answer_not_json"),
    "says a length that cuts its JSON": (
        as_json(b'{"request":{"model":"gpt-x"}}', framing=10), "not_json", "answer_not_json"),
    "answers in Latin-1": (as_json(b'{"request":{"model":"\xe9"}}'), "not_json", "answer_not_json"),
    "answers with gzip": (
        as_json(gzip.compress(b'{"request":{}}'), headers=[("content-encoding", "gzip")]),
        "not_json", "answer_not_json"),
    "nests without end": (
        as_json(b'{"request":{"a":' + b"[" * 100000), "not_json", "answer_not_json"),
    "answers with an array": (as_json([{"request": {}}]), "wrong_shape", "answer_wrong_shape"),
    "answers with null": (as_json(None), "wrong_shape", "answer_wrong_shape"),
    "answers with a string": (as_json("ok"), "wrong_shape", "answer_wrong_shape"),
    "gives no request back": (as_json({"decisions": []}), "wrong_shape", "answer_wrong_shape"),
    "gives null back": (as_json({"request": None}), "wrong_shape", "answer_wrong_shape"),
    "gives a string back": (as_json({"request": "x"}), "wrong_shape", "answer_wrong_shape"),
    "gives an array back": (as_json({"request": []}), "wrong_shape", "answer_wrong_shape"),
}
