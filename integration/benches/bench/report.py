"""The results as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable

KIB = 1024
OTHERS = {
    "stream": "module, streams", "ext_proc_request server": "the ext_proc server, request",
    "ext_proc_both server": "the ext_proc server, request and response",
}
MIB = 1024 * KIB


def size(count: int) -> str:
    return f"{count // MIB} MB" if count >= MIB else f"{count // KIB} KB"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


class Cells:
    """Cells by row, size and connections."""

    def __init__(self, cells: list[dict[str, Any]]):
        self.all = cells
        self.by = {(cell["row"], cell["bytes"], cell["connections"]): cell for cell in cells}

    def keys(self, name: str) -> list[Any]:
        return sorted({cell[name] for cell in self.all})

    def beside(self, row: str, of: int, connections: int, what: str) -> float | None:
        return self.by.get((row, of, connections), {"beside": {}})["beside"].get(what)


def proxies(cells: Cells, titles: dict[str, str]) -> str:
    """One table for each size."""
    measures = {"per_second": "throughput", "p50_us": "p50", "p99_us": "p99", "cpu_us": "CPU"}
    connections = cells.keys("connections")
    parts = []
    for of in cells.keys("bytes"):
        columns = [(count, what) for what in measures for count in connections]
        head = [f"requests of {size(of)}", *(f"{measures[what]}, {count}" for count, what in columns)]
        rows = [
            [title, *(ratio(cells.beside(row, of, count, what)) for count, what in columns)]
            for row, title in titles.items() if (row, of, connections[0]) in cells.by
        ]
        parts.append(table(head, rows))
    return "\n".join(parts)


def with_servers(cells: Cells, titles: dict[str, str]) -> str:
    """What a call costs where there is no CPU to spare for an ext_proc server."""
    columns = [(of, count) for of in cells.keys("bytes") for count in cells.keys("connections")]
    rows = [
        [titles[row], *(ratio(cells.beside(row, *column, "all_cpu_us")) for column in columns)]
        for row in ("request", "ext_proc_request", "both", "ext_proc_both")
    ]
    return table(["CPU for each call, the server's too", *(f"{size(of)}, {count}" for of, count in columns)], rows)


def streams(cells: Cells, titles: dict[str, str]) -> str:
    measures = {
        "first_event_p50_us": "first event, from the provider's sending",
        "later_events_p50_us": "later events, likewise",
        "first_p50_us": "first byte, from the client's request",
        "cpu_us": "CPU",
    }
    rows = [
        [title, *(ratio(cells.beside(row, 2 * KIB, 1, what)) for what in measures)]
        for row, title in titles.items()
    ]
    return table(["streams, 1 connection", *measures.values()], rows)


def resident(found: dict[str, int], titles: dict[str, str]) -> str:
    bare = found["bare"]
    return table(["resident memory", "beside bare Envoy"],
                 [[titles.get(name, name), ratio(count / bare)] for name, count in found.items()])


def targets(found: list[dict[str, Any]]) -> str:
    words = {True: "reached", False: "missed", None: "not measured"}
    head = ["target", "wanted", "measured", ""]
    rows = [[t["what"], t["target"], ratio(t["value"]), words[t["reached"]]] for t in found]
    more = {"with_1_connection": "with 1 connection", "callouts_alone": "bare Wasm"}
    for name, title in more.items():
        values = [ratio(t[name]) for t in found]
        if any(values):
            head.append(title)
            rows = [[*row, value] for row, value in zip(rows, values, strict=True)]
    return table(head, rows)


def machine(found: dict[str, Any]) -> str:
    return (
        f"{found['cpu']}, {found['cpus']} CPUs, Linux {found['kernel']}; Envoy {found['envoy']}; "
        f"{found['rustc']}; Python {found['python']}."
    )


def markdown(found: dict[str, Any], titles: dict[str, str], stream_titles: dict[str, str]) -> str:
    cells = Cells(found["cells"])
    busiest = max(cells.keys("connections"))
    busy = [
        (cell["row"].startswith("ext_proc"), cell["median"]["busy"]) for cell in found["cells"]
        if cell["connections"] == busiest and "busy" in cell["median"]
    ]
    saturated = min(share for waits, share in busy if not waits)
    waiting = min(share for waits, share in busy if waits)
    ready = {name: f"{value:.2f}" for name, value in found["ready_beside_noop"].items()}
    return f"""# Results of `make bench`

{machine(found["machine"])}
{found["rounds"]} rounds, in each {found["seconds"]:g} s for each row, more where a target compares, in turns of a fraction of a second. All numbers are ratios to bare Envoy within a turn,
the median of the turns; "throughput, 16" is with 16 connections, "CPU" is Envoy's, or that of wasmtime in its place, for each call. Envoy ran with one worker on one CPU, wasmtime likewise, all else on another.
With {busiest} connections the host kept its CPU busy for {saturated:.2f} of the time and more, so that the host is what is measured; with ext_proc for {waiting:.2f} and more,
as Envoy waits for the server on the other CPU there.
{len(found["taken_again"])} turns were taken again, as calls in them had gone on without the optimizer.

## Targets

Throughput is judged with 16 connections. "Bare Wasm" is what a Wasm filter of the callouts alone reaches in the module's place.

{targets(found["targets"])}
## Calls

The last two rows are the load generator on the services themselves, without Envoy: what is measured is not them.

{proxies(cells, titles)}
The ext_proc server's own CPU is not in these. With it:

{with_servers(cells, titles)}
## Streams

{streams(Cells(found["streams"]), stream_titles)}
## Memory and start

After the whole run.

{resident(found["resident_bytes"], titles | OTHERS)}
Envoy's time to ready, beside an Envoy with the no-op filter: {ready["bare"]} without any filter, {ready["both"]} with the module.
`dist/optimizer.wasm`: {found["module_bytes"] / 1000:.0f} KB.
"""


def summary(cells: Cells, titles: dict[str, str]) -> str:
    """The few numbers that the README shows."""
    columns = [(2 * KIB, 16), (100 * KIB, 16), (MIB, 16)]
    return table(
        ["throughput beside bare Envoy", *(size(of) for of, _ in columns)],
        [[title, *(ratio(cells.beside(row, *column, "per_second")) for column in columns)]
         for row, title in titles.items() if row not in ("bare", "provider", "optimizer")],
    )


def write_between_marks(path: Path, name: str, text: str) -> None:
    """Replaces what stands between two comments."""
    begin, end = f"<!-- {name} writes this -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} lacks the marks of {name}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
