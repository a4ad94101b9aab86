"""Writes the fault matrix down as one table."""

from __future__ import annotations

from pathlib import Path

from kit.proxy import HTTP1, HTTP2

HEAD = """# The fault matrix

Written by `make fault-matrix`: every fault at every hook, plain and streamed, over HTTP/1.1 and
HTTP/2, on the real Envoy: {plays} cases, all of which have to pass. In each of them the client got
the status, the headers and the bytes that it gets from the same Envoy without the filter, unless
the table says otherwise; the provider got the client's request or its correct transform; neither
the optimizer's token, nor the client's credentials, nor anything of a refused answer reached
anybody else; the reason was counted; and the next call was optimized.

**Hook**: *request* and *response* are waited for, at most {timeout} ms each; *write-back* and
*record* are nobody's time. Of a fault of the provider or the client it names the hook that was on
besides the request hook, which transforms each of these calls. **Became**: what the access log and
the counters say of the call; for the optimizer's faults the callout's result stands behind it.
**Added**: milliseconds beyond the same call on the Envoy without the filter, in this run; of short
calls the fastest of three on either side. What else the machine does shows in them.

Not in the table: a write-back to an optimizer that was never there. It follows an answer.

| the … | hook | became | client got | added, plain, HTTP/1.1 | plain, HTTP/2 | streamed, HTTP/1.1 | streamed, HTTP/2 |
|---|---|---|---|--:|--:|--:|--:|
"""
CLIENT = {"same": "the same", "rewritten": "the rewritten answer",
          "502": "502, for an answer that breaks off", "gone": "(gone)"}


def write(path: str, plays: list, timeout_ms: int) -> None:
    """Writes down every play, one line for each fault and hook."""
    lines: dict[tuple, dict] = {}
    for play in plays:
        key = (play.fault.party, play.fault.name, play.row.hook.name)
        lines.setdefault(key, {})[play.stream, play.row.http] = play
    text = HEAD.format(plays=f"{len(plays):,}", timeout=timeout_ms) + "".join(
        f"| {party} {name} | {hook} | {told(cells, became)} | {told(cells, client)} |"
        f"{''.join(f' {added(cells.get(cell))} |' for cell in CELLS)}\n"
        for (party, name, hook), cells in lines.items())
    Path(path).write_text(text)


CELLS = [(False, HTTP1), (False, HTTP2), (True, HTTP1), (True, HTTP2)]


def told(cells: dict, what) -> str:
    """What all plays of a line have in common, or what plain and streamed ones have."""
    plain, streamed = (next((what(cells[cell]) for cell in CELLS if cell[0] == stream
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
