"""Mixed calls over connections that are kept, over HTTP/1.1 and HTTP/2, and services that check every body."""

from __future__ import annotations

import asyncio
import collections
import json
from typing import Awaitable, Callable

import h2.config
import h2.connection
import h2.events
import h2.settings

from kit.dialects import CHAT

# What becomes of a call, by its number; faults are the optimizer's.
KINDS = ("transform", "hit", "unchanged", "transform", "error", "transform", "stream", "garbage", "transform", "reset")
SIZES = (40, 300, 2000, 9000, 30000)
KEY = "Bearer sk-of-the-load"


def kind(number: int) -> str:
    return KINDS[number % len(KINDS)]


def request(number: int, shorter: bool = False) -> bytes:
    """The body of a call, as it is sent, or as it is after its transform."""
    body = CHAT.body(user=str(number), padding="é" * SIZES[number // 7 % len(SIZES)])
    if kind(number) == "stream":
        body["stream"] = True
    return json.dumps(CHAT.shorten(body) if shorter else body, ensure_ascii=number % 2 == 0).encode()


def answer(number: int, source: str) -> bytes:
    text = json.dumps({"choices": [], "id": f"{source} {number}", "padding": "z" * (number % 5000)})
    return f"data: {text}\n\ndata: [DONE]\n\n".encode() if kind(number) == "stream" else text.encode()


class Load:
    """So many calls, and what was wrong with them."""

    def __init__(self, count: int):
        self.count = count
        self.numbers = iter(range(count))
        self.done: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def right(self, number: int, status: int, body: bytes) -> None:
        """Judges an answer as the client got it."""
        sources = ["provider"] + ["cache"] * (kind(number) == "hit")
        if status == 200 and any(body.rstrip(b"\n") == answer(number, source).rstrip(b"\n") for source in sources):
            self.done[kind(number)] += 1
        else:
            self.wrong.append(f"client {number} {kind(number)}: {status} {body[:80]!r}")

    # The services

    async def optimize(self, path: bytes, head: bytes, body: bytes) -> bytes | None:
        if not path.endswith(b"/optimize"):
            return reply(b"{}")
        told = json.loads(body)
        number = int(told["request"]["user"])
        if request(number) not in body or b"sk-of" in body + head:
            self.wrong.append(f"optimizer {number}: not what was sent: {body[:80]!r}")
        wanted = kind(number)
        if wanted == "error":
            return b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}"
        if wanted == "garbage":
            return reply(b'{"request": [}')
        if wanted == "reset":
            return None
        given = {"request": told["request"], "decisions": []}
        if wanted == "transform":
            given["request"] = CHAT.shorten(told["request"])
        elif wanted == "hit":
            given |= {"cacheHit": True, "cachedResponse": json.loads(answer(number, "cache"))}
        if number % 50 == 0:
            given |= {"cacheEligible": True, "cacheKey": f"load {number}"}
        return reply(json.dumps(given).encode())

    async def provide(self, path: bytes, head: bytes, body: bytes) -> bytes | None:
        number = int(json.loads(body)["user"])
        expected = [request(number)]
        if kind(number) == "transform":
            # The first calls of a worker may come before its breaker knows anything: both are right bytes.
            expected = [request(number, shorter=True), request(number)]
        if body not in expected and json.loads(body) not in map(json.loads, expected[:1]):
            self.wrong.append(f"provider {number} {kind(number)}: {len(body)} bytes: {body[:80]!r}")
        self.done["transformed"] += json.loads(body)["messages"] == CHAT.shorter_prompt
        streamed = b"text/event-stream" if kind(number) == "stream" else b"application/json"
        return reply(answer(number, "provider"), streamed)

    # The clients

    async def http1(self, port: int) -> None:
        """One connection that is used for call after call, and opened anew where nginx closed it."""
        reader = writer = None
        for number in self.numbers:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = request(number)
            head = (b"POST /v1/chat/completions HTTP/1.1\r\nhost: llm\r\ncontent-type: application/json\r\n"
                    b"authorization: " + KEY.encode() + b"\r\n")
            try:
                if number % 3:
                    writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
                else:
                    cut = len(body) // 3
                    writer.write(head + b"transfer-encoding: chunked\r\n\r\n" + b"".join(
                        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:cut], body[cut:]) if piece
                    ) + b"0\r\n\r\n")
                status, fields, got = await message(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.wrong.append(f"client {number} {kind(number)}: {error!r}")
                writer = None
                continue
            self.right(number, int(status.split()[1]), got)
            if b"connection: close" in fields.lower():
                writer.close()
                writer = None
        if writer:
            writer.close()

    async def http2(self, port: int, together: int = 12, streams: int = 90) -> None:
        """One connection after the other, each with some calls at a time."""
        going = True
        while going:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            link = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
            link.initiate_connection()
            link.increment_flow_control_window(1 << 28)
            link.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
            calls: dict[int, list] = {}
            unsent: dict[int, bytes] = {}
            begun = 0
            while True:
                while begun < streams and len(calls) < together:
                    number = next(self.numbers, None)
                    if number is None:
                        going = False
                        break
                    stream, begun = link.get_next_available_stream_id(), begun + 1
                    link.send_headers(stream, [
                        (":method", "POST"), (":path", "/v1/chat/completions"), (":scheme", "http"),
                        (":authority", "llm"), ("content-type", "application/json"), ("authorization", KEY),
                    ])
                    calls[stream], unsent[stream] = [number, 0, bytearray()], request(number)
                for stream, body in list(unsent.items()):
                    room = min(link.local_flow_control_window(stream), link.max_outbound_frame_size)
                    while body and room > 0:
                        link.send_data(stream, body[:room])
                        body = body[room:]
                        room = min(link.local_flow_control_window(stream), link.max_outbound_frame_size)
                    unsent[stream] = body
                    if not body:
                        link.end_stream(stream)
                        del unsent[stream]
                writer.write(link.data_to_send())
                if not calls:
                    break
                data = await reader.read(1 << 18)
                if not data:
                    self.wrong.extend(f"client {call[0]} {kind(call[0])}: connection lost" for call in calls.values())
                    break
                for event in link.receive_data(data):
                    call = calls.get(getattr(event, "stream_id", None))
                    if isinstance(event, h2.events.ResponseReceived):
                        call[1] = int(dict(event.headers)[":status"])
                    elif isinstance(event, h2.events.DataReceived):
                        call[2] += event.data
                        link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        del calls[event.stream_id]
                        self.right(call[0], call[1], bytes(call[2]))
                    elif isinstance(event, h2.events.StreamReset):
                        del calls[event.stream_id]
                        self.wrong.append(f"client {call[0]} {kind(call[0])}: reset")
            writer.close()


def reply(body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(body)) + body


async def message(reader: asyncio.StreamReader) -> tuple[bytes, bytes, bytes]:
    """A request or an answer: its first line, its other fields, its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, _, fields = head.partition(b"\r\n")
    lower = fields.lower()
    if b"content-length:" in lower:
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        return first, fields, await reader.readexactly(length)
    body = bytearray()
    if b"transfer-encoding: chunked" in lower:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    return first, fields, bytes(body)


Serve = Callable[[bytes, bytes, bytes], Awaitable["bytes | None"]]


async def serve(answer: Serve, load: Load) -> asyncio.Server:
    """A service on a free port; None for an answer resets the connection."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, fields, body = await message(reader)
                given = await answer(first.split(b" ")[1], fields, body)
                if given is None:
                    writer.transport.abort()
                    return
                writer.write(given)
                await writer.drain()
                if b"connection: close" in fields.lower():
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # nginx closed a connection that it kept, or the load is over.
        except Exception as error:  # A service that stops answering would prove nothing any more.
            load.wrong.append(f"service: {error!r}")
        finally:
            writer.close()

    return await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 24)
