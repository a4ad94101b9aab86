"""Writes the fault matrix down as one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kit.proxy import HTTP1, HTTP2, ON

HEAD = """# The fault matrix{title}

Written by `make {target}`: every fault at every hook, plain and streamed, over {on}: {plays} cases, all of which have to pass. In each of them the client got
the status, the headers and the bytes that it gets from {beside}, unless
the table says otherwise; the provider got the client's request or its correct transform; neither
the optimizer's token, nor the client's credentials, nor anything of a refused answer reached
anybody else; the reason was counted; and the next call was optimized.

**Hook**: *request* and *response* are waited for, at most {timeout} ms each; *write-back* and
*record* are nobody's time. Of a fault of the provider or the client it names the hook that was on
besides the request hook, which transforms each of these calls. **Became**: what {log} and
the counters say of the call; for the optimizer's faults the callout's result stands behind it.
**Added**: milliseconds beyond the same call on {without}, in this run; of short
calls the fastest of three on either side. What else the machine does shows in them.

{missing}

| the … | hook | became | client got | added, {columns} |
|---|---|---|---|{lines}|
"""


@dataclass(frozen=True)
class Host:
    """What the report of one host says of it."""

    title: str
    target: str
    # Over which protocols, on what.
    on: str
    # What the client's answer, and its time, are compared with.
    beside: str
    without: str
    log: str
    missing: str
    # Streamed or not, over which protocol.
    cells: list[tuple[bool, str]]


HOSTS = {
    "envoy": Host(
        title="", target="fault-matrix", on="HTTP/1.1 and\nHTTP/2, on the real Envoy",
        beside="the same Envoy without the filter", without="the Envoy without the filter", log="the access log",
        missing="Not in the table: a write-back to an optimizer that was never there. It follows an answer.",
        cells=[(False, HTTP1), (False, HTTP2), (True, HTTP1), (True, HTTP2)],
    ),
    "wasi": Host(
        title=" on a wasi:http host", target="fault-matrix-wasi",
        on="HTTP/1.1, on the\ncomponent in wasmtime 48 (`integration/wasi-host`, not optimized), an instance for each\ncall",
        beside="the provider itself", without="the provider itself", log="the log",
        missing="""Not in the table: what is Envoy's own (a cluster without hosts, an unknown one), and an optimizer that says too
small a `content-length`: whether wasmtime sees the surplus before the answer is chance. A client that leaves is
noticed here when something is written to it, not before: in these rows the provider answers, or dies, in the end.
Informational answers and trailers are not compared: wasi:http has no 1xx, and wasmtime passes on trailers only
where a `trailer` header announced them.""",
        cells=[(False, HTTP1), (True, HTTP1)],
    ),
}
CLIENT = {"same": "the same", "rewritten": "the rewritten answer",
          "502": "502, for an answer that breaks off", "broken": "an answer that breaks off",
          "component's": "502", "gone": "(gone)"}


def write(path: str, plays: list, timeout_ms: int) -> None:
    """Writes down every play, one line for each fault and hook."""
    host = HOSTS[ON]
    lines: dict[tuple, dict] = {}
    for play in plays:
        key = (play.fault.party, play.fault.name, play.row.hook.name)
        lines.setdefault(key, {})[play.stream, play.row.http] = play
    columns = " | ".join(f"{'streamed' if stream else 'plain'}, {http}" for stream, http in host.cells)
    text = HEAD.format(**vars(host), plays=f"{len(plays):,}", timeout=timeout_ms, columns=columns,
                       lines="|".join(["--:"] * len(host.cells))) + "".join(
        f"| {party} {name} | {hook} | {told(cells, became)} | {told(cells, client)} |"
        f"{''.join(f' {added(cells.get(cell))} |' for cell in host.cells)}\n"
        for (party, name, hook), cells in lines.items())
    Path(path).write_text(text)


def told(cells: dict, what) -> str:
    """What all plays of a line have in common, or what plain and streamed ones have."""
    plain, streamed = (next((what(cells[cell]) for cell in HOSTS[ON].cells if cell[0] == stream
                             and cell in cells), "–") for stream in (False, True))
    return plain if plain == streamed else f"{plain}; streamed: {streamed}"


def became(play) -> str:
    """The verdict on the hook of the line."""
    hook, expected = play.row.hook, play.expected
    verdict = {"request": expected.exchange, "response": expected.response,
               "write-back": expected.write_back, "record": expected.record}[hook.name]
    if verdict is None:
        verdict = expected.exchange
    verdict = verdict.replace(":", " `") + "`" * (":" in verdict)
    result = expected.callouts.get(hook.kind)
    asked = play.fault.party == "optimizer" and result
    return f"{verdict}, callout `{result}`" if asked else verdict


def client(play) -> str:
    return CLIENT[play.expected.client]


def added(play) -> str:
    return "–" if play is None or play.added is None else f"{round(play.added)}"
