"""What the rounds came to: medians, and ratios within each round."""

from __future__ import annotations

from statistics import median
from typing import Any, Iterator

# By row, size and connections: one entry for each round.
Measured = dict[tuple[str, int, int], list[dict[str, float]]]
BESIDE_BARE = ["per_second", "p50_us", "p99_us", "cpu_us"]


def beside(rounds: list[dict[str, float]], others: list[dict[str, float]], what: str) -> float:
    """The median of the rounds' ratios."""
    return median(one[what] / other[what] for one, other in zip(rounds, others, strict=True))


def cells(measured: Measured) -> list[dict[str, Any]]:
    found = []
    for (row, size, connections), rounds in measured.items():
        bare = measured["bare", size, connections]
        found.append({
            "row": row, "bytes": size, "connections": connections,
            "beside_bare": {
                what: round(beside(rounds, bare, what), 4) for what in BESIDE_BARE if what in rounds[0]
            },
            "median": {what: round(median(r[what] for r in rounds), 3) for what in rounds[0]},
            "rounds": [{what: round(value, 3) for what, value in r.items()} for r in rounds],
        })
    return found


def lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """The ratios, for the terminal."""
    group = None
    for cell in sorted(found, key=lambda cell: (cell["bytes"], cell["connections"])):
        if group != (group := (cell["bytes"], cell["connections"])):
            yield f"\n{cell['bytes'] >> 10} KiB, {cell['connections']} connection(s), beside bare Envoy"
            yield f"  {'':18}{'throughput':>11}{'p50':>9}{'p99':>9}{'cpu':>9}"
        values = [cell["beside_bare"].get(what) for what in BESIDE_BARE]
        shown = "".join(f"{v:>9.2f}" if v is not None else " " * 9 for v in values)
        yield f"  {cell['row']:18}  {shown}"
