"""What the turns came to: medians, and ratios within each turn."""

from __future__ import annotations

import json
import re
from statistics import median
from typing import Any

# By row, size and connections: one entry for each turn.
Measured = dict[tuple[str, int, int], list[dict[str, float]]]


def beside(turns: list[dict[str, float]], others: list[dict[str, float]], what: str) -> float:
    """The median of the turns' ratios."""
    return median(one[what] / other[what] for one, other in zip(turns, others, strict=True))


def cells(measured: Measured, base: str = "bare") -> list[dict[str, Any]]:
    """Each row beside `base` of the same size and number of connections."""
    found = []
    for (row, size, connections), turns in measured.items():
        others = measured[base, size, connections]
        common = [what for what in turns[0] if what in others[0] and what != "busy"]
        found.append({
            "row": row, "bytes": size, "connections": connections,
            "beside": {what: round(beside(turns, others, what), 4) for what in common},
            "median": {what: round(median(turn[what] for turn in turns), 3) for what in turns[0]},
            "turns": {what: [round(turn[what], 3) for turn in turns] for what in turns[0]},
        })
    return found


def text(found: dict[str, Any]) -> str:
    """As JSON, numbers of one list in one line."""
    spread = json.dumps(found, indent=1)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda numbers: " ".join(numbers[0].split()), spread) + "\n"
