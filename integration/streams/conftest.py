"""The core's assemblers and replays, behind the small program that $STREAMS names.

The streams in recorded/ have the shapes that providers document and send, cut
down to what each is about; recorded/*.sse may hold any line ends.
"""

import json
import os
import subprocess
from pathlib import Path

import httpx2
import openai
import pytest

RECORDED = Path(__file__).parent / "recorded"


class NoResult(Exception):
    """Its text is the name of what is wrong."""


class Streams:
    def __init__(self, program: str):
        self._program = program

    def assemble(self, endpoint: str, stream: bytes, split: int | None = None) -> dict:
        """The plain body of a stream that comes in pieces of `split` bytes."""
        pieces = [] if split is None else ["--split", str(split)]
        return json.loads(self._run(["assemble", endpoint, *pieces], stream))

    def replay(self, endpoint: str, body: dict, usage: bool = False) -> bytes:
        """The stream of a plain body."""
        arguments = ["replay", endpoint, *(["--usage"] if usage else [])]
        return self._run(arguments, json.dumps(body).encode())

    def _run(self, arguments: list[str], stdin: bytes) -> bytes:
        done = subprocess.run([self._program, *arguments], input=stdin, capture_output=True, timeout=60)
        if done.returncode == 3:
            raise NoResult(done.stderr.decode().strip())
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@pytest.fixture(scope="session")
def streams() -> Streams:
    return Streams(os.environ["STREAMS"])


def same_at_any_split(streams: Streams, endpoint: str, name: str) -> None:
    """Whether it comes whole or in pieces, a recorded stream gives the same, or fails the same."""

    def result(split: int | None) -> dict | str:
        try:
            return streams.assemble(endpoint, recorded(name), split)
        except NoResult as error:
            return str(error)

    whole = result(None)
    for split in (1, 2, 3, 7, 64, 1000):
        assert result(split) == whole


def comparable(value):
    """To the SDK, what is absent and what is null are the same."""
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items() if item is not None}
    if isinstance(value, str):
        # Python's JSON leaves a pair of surrogates apart that came in two deltas.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return [comparable(item) for item in value] if isinstance(value, list) else value


def answering(kind: str, content: bytes) -> httpx2.MockTransport:
    """Answers every request with `content`."""
    headers = {"content-type": kind}
    return httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=content))


def openai_client(kind: str, content: bytes) -> openai.OpenAI:
    transport = openai.DefaultHttpxClient(transport=answering(kind, content))
    return openai.OpenAI(api_key="none", base_url="http://provider/v1", http_client=transport)


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()
