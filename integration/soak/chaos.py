"""What happens to the optimizer and the provider meanwhile, and when it did."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Callable

from services import Program


@dataclass
class Disturbance:
    who: str
    what: str
    began: float
    ended: float


class Chaos:
    """Disturbs one or both services for a while, then leaves them alone for a while."""

    def __init__(self, optimizer: Program, provider: Program, chance: random.Random):
        self.optimizer, self.provider, self.chance = optimizer, provider, chance
        self.log: list[Disturbance] = []
        self.ways: dict[tuple[str, str], tuple[Callable, Callable, float]] = {}
        for who, program in (("optimizer", optimizer), ("provider", provider)):
            self.ways[who, "killed"] = (program.kill, program.start, 1.0)
            self.ways[who, "paused"] = (program.pause, program.resume, 2.0)
            self.ways[who, "slowed"] = (self._mood(program, "slow", 1), self._mood(program, "slow", 0), 3.0)
        self.ways["optimizer", "confused"] = (
            self._mood(optimizer, "sick", 1), self._mood(optimizer, "sick", 0), 1.5)

    @staticmethod
    def _mood(program: Program, name: str, on: int) -> Callable[[], None]:
        return lambda: setattr(program.mood, name, on)

    def run(self, until: float) -> None:
        """Each way comes up before any comes up again."""
        waiting: list[tuple[str, str]] = []
        while True:
            if not waiting:
                waiting = list(self.ways)
                self.chance.shuffle(waiting)
            way = waiting.pop()
            begin, end, longest = self.ways[way]
            quiet, length = self.chance.uniform(0.5, 2.5), self.chance.uniform(0.2, longest)
            # The last moments are quiet, so that what was disturbed can settle.
            if time.monotonic() + quiet + length > until - 1.5:
                return
            time.sleep(quiet)
            disturbance = Disturbance(*way, time.monotonic(), float("inf"))
            self.log.append(disturbance)
            begin()
            time.sleep(length)
            end()
            disturbance.ended = time.monotonic()

    def was_provider_dead(self, began: float, ended: float) -> bool:
        """Whether a call within that time may have failed through the provider's fault."""
        return any(
            (d.who, d.what) == ("provider", "killed") and d.began - 0.1 < ended and began < d.ended + 0.5
            for d in self.log)
