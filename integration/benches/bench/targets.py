"""What the module is meant to reach. Reported, never enforced: machines differ."""

from __future__ import annotations

from typing import Any, NamedTuple

from .results import Measured, beside

KIB = 1024
# Sizes and connections that targets compare.
CELLS = {(2 * KIB, 16), (100 * KIB, 16)}
LUA = "Lua without JSON"
# What stands in for a row where neither JSON nor anything else than the callouts has a cost.
FLOOR = {"request": "callout_request", "both": "callout_both"}
BESIDE = {"lua_request": LUA, "lua_both": LUA, "ext_proc_request": "ext_proc", "noop": "a no-op filter"}


class Target(NamedTuple):
    """One figure and its bound."""

    what: str
    sign: str
    bound: float
    value: float | None
    # The same with one connection, where calls do not wait for each other.
    alone: float | None = None
    # What a Wasm filter of the callouts alone reaches in its place.
    floor: float | None = None

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.sign == "≥" else self.value <= self.bound

    def to_json(self) -> dict[str, Any]:
        def rounded(value: float | None) -> float | None:
            return None if value is None else round(value, 3)

        return {"what": self.what, "target": f"{self.sign} {self.bound:.3g}",
                "value": rounded(self.value), "with_1_connection": rounded(self.alone),
                "callouts_alone": rounded(self.floor), "reached": self.reached}

    def line(self) -> str:
        word = {True: "reached", False: "missed", None: "not measured"}[self.reached]
        value = "" if self.value is None else f"{self.value:.2f}"
        return f"{word:12} {value:>6} ({self.sign} {self.bound:.3g})  {self.what}"


def of_run(measured: Measured, streams: Measured, ready: dict[str, list[float]],
           module_bytes: int) -> list[Target]:
    """The targets that one run of the benchmark can judge."""

    def ratio(one: str, other: str, size: int, what: str = "per_second", of: Measured = measured,
              connections: int = 16) -> float | None:
        turns, others = of.get((one, size, connections)), of.get((other, size, connections))
        return beside(turns, others, what) if turns and others else None

    def throughput(what: str, bound: float, one: str, other: str, size: int) -> Target:
        return Target(f"{what}, {size // KIB} KB, throughput beside {BESIDE[other]}", "≥", bound,
                      ratio(one, other, size), ratio(one, other, size, connections=1),
                      ratio(FLOOR.get(one, ""), other, size))

    small, middle = 2 * KIB, 100 * KIB
    found = [
        throughput("request hook", 0.95, "request", "lua_request", small),
        throughput("request hook", 1.1, "request", "ext_proc_request", small),
        throughput("request hook", 0.65, "request", "lua_request", middle),
        throughput("request hook", 1.1, "request", "ext_proc_request", middle),
        throughput("request and response hook", 0.95, "both", "lua_both", small),
        throughput("a path left alone", 0.98, "left_alone", "noop", small),
        Target("stream, from the provider's first event to the client's, beside a no-op filter", "≤", 1.05,
               ratio("request", "noop", small, "first_event_p50_us", streams, 1)),
        Target("dist/optimizer.wasm in KB", "≤", 400, module_bytes / 1000),
    ]
    if ready:
        found.append(Target("Envoy's time to ready, beside a no-op filter", "≤", 1.5, beside(
            *([{"seconds": s} for s in ready[name]] for name in ("both", "noop")), "seconds")))
    return found
