"""When what is measured: many short turns.

A machine's moods, above all a virtual one's, last from tens of milliseconds to minutes. So what is
compared is measured side by side, for as short a time as its calls allow, over and over.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence, TypeVar

Row = TypeVar("Row")

WARM_UP = 0.04
# Of what has not run for some time.
FIRST_WARM_UP = 0.2


class Turn(NamedTuple):
    """Times in seconds, of each row."""

    number: int
    seconds: float
    warm_up: float


def turns(visit: int, seconds: float, shortest: float) -> Iterator[Turn]:
    """The turns of one visit, `seconds` for each row in all; visits are counted from 0."""
    count = max(1, int(seconds / shortest + 1e-6))
    for index in range(count):
        yield Turn(visit * count + index, seconds / count, WARM_UP if index else FIRST_WARM_UP)


def ordered(rows: Sequence[Row], number: int) -> list[Row]:
    """Neighbours stay neighbours; no row always comes first, or always after the same one's load."""
    first = number // 2 % len(rows)
    order = [*rows[first:], *rows[:first]]
    return order[::-1] if number % 2 else order
