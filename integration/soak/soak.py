"""Mixed traffic through a real Envoy while its optimizer and its provider are killed, stopped,
slowed and confused. Whatever happens, no client gets a wrong byte.

    python integration/soak/soak.py --minutes 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from kit.dialects import ALL
from kit.envoy import Envoy
from kit.envoy_config import Setup, bootstrap
from kit.proxy import WASM

from chaos import Chaos
from clients import LONGEST, Client, Tally, connections
from questions import Question
from services import TOKEN, Optimizer, Program, Provider, Wrong

CLIENTS = 12
CALLS_PER_SECOND = 150
WORKERS = 2
MODULE = {
    "optimizer": {"upstream": "optimizer", "timeout_ms": 400, "token": TOKEN.removeprefix("Bearer ")},
    "hooks": {"record": True},
    "record": {"content": True},
    # Short, so that many calls meet a breaker of each state.
    "breaker": {"failures": 5, "open_ms": 500},
    "decisions_header": "always",
}
ENDS = ["applied", "unchanged", "hit", "bypassed", "left", "cut off", "failed", "wrong"]
# Signs of a module that broke, whatever the clients got.
BROKEN = ("panicked", "RuntimeError", "already borrowed", "wasm trap", "Function: proxy_on", "[critical]")


class Memory(threading.Thread):
    """What Envoy holds, second by second."""

    def __init__(self, envoy: Envoy):
        super().__init__(daemon=True)
        self.file, self.mib, self.over = Path(f"/proc/{envoy.process.pid}/status"), [], threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.25):
            with contextlib.suppress(OSError, StopIteration):
                lines = self.file.read_text().splitlines()
                self.mib.append(int(next(l for l in lines if l.startswith("VmRSS")).split()[1]) / 1024)

    def quarters(self) -> list[float]:
        """The median of each quarter of the time."""
        return self._medians(self.mib, 4)

    def grows(self) -> str:
        """How it grows in the second half; empty where it does not.

        A VM keeps what its fullest moment took, and that moment may come late: a single step is
        no leak. A leak is a step each time.
        """
        windows = self._medians(self.mib[len(self.mib) // 2:], 10)
        step = statistics.median(after - before for before, after in zip(windows, windows[1:]))
        return f"by {step:.2f} MiB each time: {windows}" if step > 0.5 or windows[-1] > 1.5 * windows[0] else ""

    @staticmethod
    def _medians(values: list[float], count: int) -> list[float]:
        size = len(values) // count
        return [statistics.median(values[at * size:(at + 1) * size]) for at in range(count)]


def gauges(envoy: Envoy) -> dict[str, int]:
    """What Envoy counts, by name, without histograms."""
    pairs = (line.rpartition(": ")[::2] for line in envoy.ask("/stats").splitlines())
    return {name: int(value) for name, value in pairs if value.isdigit()}


def machines(envoy: Envoy) -> tuple[int, int]:
    """The VMs that were ever made, and those that live."""
    found = gauges(envoy)
    return found["wasm.envoy.wasm.runtime.v8.created"], found["wasm.envoy.wasm.runtime.v8.active"]


def waiting(envoy: Envoy) -> dict[str, int]:
    """What has not come to its end."""
    found = gauges(envoy)
    names = ["http.llm.downstream_rq_active",
             *(f"cluster.{name}.upstream_rq_{what}" for name in ("optimizer", "provider", "provider_h2")
               for what in ("active", "pending_active"))]
    open_ = {name: found[name] for name in names if found[name]}
    sent = left = 0
    for (name, labels), value in envoy.samples().items():
        told = dict(labels)
        if name in ("optimizer_records", "optimizer_write_backs"):
            # What was dropped from the queue was queued before.
            left += int(value) * {"queued": 1}.get(told["outcome"], -(told["reason"] == "queue_full"))
        elif name == "optimizer_callouts" and told["kind"] in ("record", "cache"):
            sent += int(value)
    return open_ | ({"queued": left - sent} if left != sent else {})


def eventually(found, seconds: float = 15.0):
    """What is found when there is nothing left to find, or when the time is up."""
    deadline = time.monotonic() + seconds
    while (last := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return last


def percent(values: list[float], which: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * which))] * 1000


def report(seconds: float, seed: int, tally: Tally, chaos: Chaos, memory: list[float], wrong: list[str]) -> None:
    print(f"\nsoak: {seconds / 60:.1f} min, seed {seed}, {WORKERS} workers, {CLIENTS} clients over HTTP/1.1 and HTTP/2\n")
    print(f"{'calls':<30}{'all':>8}" + "".join(f"{end:>11}" for end in ENDS))
    for kind, ends in [*sorted(tally.ends.items()), ("all", tally.total)]:
        print(f"{kind:<30}{ends.total():>8}" + "".join(f"{ends[end]:>11}" for end in ENDS))
    print("\ndisturbances: " + ", ".join(
        f"{who} {what} {sum((d.who, d.what) == (who, what) for d in chaos.log)} times" for who, what in chaos.ways))
    print("bypassed: " + ", ".join(f"{reason} {count}" for reason, count in tally.reasons.most_common()))
    print("time of a call: " + ", ".join(
        f"p{which * 100:g} {percent(tally.seconds, which):.0f} ms" for which in (0.5, 0.9, 0.99, 1)))
    print("Envoy's memory by quarters: " + ", ".join(f"{mib:.0f} MiB" for mib in memory))
    print("wrong: " + (f"{len(wrong)}" if wrong else "nothing"))
    for line in wrong[:20]:
        print(f"  {line}")


def soak(seconds: float, seed: int, directory: Path) -> bool:
    wrong = Wrong(directory / "wrong.txt")
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        programs = []
        for script in (Optimizer, Provider):
            programs.append(Program(script, wrong))
            stack.callback(programs[-1].stop)
        optimizer, provider = programs
        setup = Setup(MODULE, concurrency=WORKERS)
        config = bootstrap(setup, str(WASM.resolve()), optimizer.port, provider.port,
                           str(directory / "access.log"))
        envoy = Envoy(setup, config, directory)
        stack.callback(envoy.stop)
        made, living = machines(envoy)

        memory = Memory(envoy)
        memory.start()
        tally, chaos = Tally(), Chaos(optimizer, provider, chance)
        until = time.monotonic() + seconds
        url = f"http://127.0.0.1:{envoy.port}"

        async def traffic() -> None:
            async with connections(http2=False) as one, connections(True) as two, connections(True) as three:
                clients = [Client(number, url, [one, two, one, three][number % 4], number % 2 == 1,
                                  chaos, tally, wrong, seed) for number in range(CLIENTS)]
                await asyncio.gather(*(each.run(until, CLIENTS / CALLS_PER_SECOND) for each in clients))

        async def sunshine() -> None:
            last = Client(CLIENTS, url, connections(False), False, chaos, tally, wrong, seed)
            for number in range(40):
                # A new connection each time, so that every worker gets some.
                async with connections(http2=False) as last.http:
                    await last.ask(Question(ALL[number % 5], last.caller, 1000 + number, False))

        # Beside this thread, which the services must have for their parent.
        callers = threading.Thread(target=lambda: asyncio.run(traffic()), daemon=True)
        callers.start()
        chaos.run(until)
        callers.join(until - time.monotonic() + LONGEST + 15)
        if callers.is_alive():
            wrong("some clients never came to an end")
        memory.over.set()

        if left := eventually(lambda: waiting(envoy)):
            wrong(f"never came to an end: {left}")
        # The module of every worker still does its work, and nothing of the past is in its way.
        time.sleep(2 * MODULE["breaker"]["open_ms"] / 1000)
        before = tally.total
        asyncio.run(sunshine())
        after = tally.total
        if after["bypassed"] - before["bypassed"] > 12:
            wrong(f"after the storm: {after - before}")
        if (found := machines(envoy)) != (made, living):
            wrong(f"VMs made and living: {made}, {living} at the beginning, {found} at the end")
        if envoy.process.poll() is not None:
            wrong("Envoy is gone")
        for line in envoy.log.read_text(errors="replace").splitlines():
            if any(sign in line for sign in BROKEN):
                wrong(f"Envoy's log: {line}")
        if growth := memory.grows():
            wrong(f"Envoy's memory grows {growth}")
        for kind in ENDS[:4]:
            if not tally.total[kind]:
                wrong(f"no call was {kind}: this proves nothing")
    report(seconds, seed, tally, chaos, memory.quarters(), wrong.all())
    return not wrong.all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        good = soak(options.minutes * 60, options.seed, Path(directory))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
