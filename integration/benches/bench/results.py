"""What the rounds came to: medians, and ratios within each round."""

from __future__ import annotations

from statistics import median
from typing import Any

# By row, size and connections: one entry for each round.
Measured = dict[tuple[str, int, int], list[dict[str, float]]]


def beside(rounds: list[dict[str, float]], others: list[dict[str, float]], what: str) -> float:
    """The median of the rounds' ratios."""
    return median(one[what] / other[what] for one, other in zip(rounds, others, strict=True))


def cells(measured: Measured, base: str = "bare") -> list[dict[str, Any]]:
    """Each row beside `base` of the same size and number of connections."""
    found = []
    for (row, size, connections), rounds in measured.items():
        others = measured[base, size, connections]
        common = [what for what in rounds[0] if what in others[0] and what != "busy"]
        found.append({
            "row": row, "bytes": size, "connections": connections,
            "beside": {what: round(beside(rounds, others, what), 4) for what in common},
            "median": {what: round(median(r[what] for r in rounds), 3) for what in rounds[0]},
            "rounds": [{what: round(value, 3) for what, value in r.items()} for r in rounds],
        })
    return found
