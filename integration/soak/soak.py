"""Mixed traffic through a real host while its optimizer and its provider are killed, stopped,
slowed and confused. Whatever happens, no client gets a wrong byte.

    python integration/soak/soak.py --host envoy --minutes 5
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

from chaos import Chaos
from clients import LONGEST, Client, Tally, connections
from hosts import HOSTS, OnEnvoy, OnWasi
from questions import Question
from services import TOKEN, Optimizer, Program, Provider, Wrong

CLIENTS = 12
CALLS_PER_SECOND = 150
MODULE = {
    "optimizer": {"upstream": "optimizer", "timeout_ms": 400, "token": TOKEN.removeprefix("Bearer ")},
    "hooks": {"record": True},
    "record": {"content": True},
    # Short, so that many calls meet a breaker of each state.
    "breaker": {"failures": 5, "open_ms": 500},
    "decisions_header": "always",
}
ENDS = ["applied", "unchanged", "hit", "bypassed", "left", "cut off", "failed", "wrong"]


class Memory(threading.Thread):
    """What the host holds, second by second."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.file, self.mib, self.over = Path(f"/proc/{pid}/status"), [], threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.25):
            with contextlib.suppress(OSError, StopIteration):
                lines = self.file.read_text().splitlines()
                self.mib.append(int(next(l for l in lines if l.startswith("VmRSS")).split()[1]) / 1024)

    def quarters(self) -> list[float]:
        """The median of each quarter of the time."""
        return self._medians(self.mib, 4)

    def grows(self, falls: bool) -> str:
        """How it grows in the second half; empty where it does not.

        A VM keeps what its fullest moment took, and that moment may come late: a single step is
        no leak. A leak is a step each time; where it `falls` with each VM that goes, one that is never undone.
        """
        windows = self._medians(self.mib[len(self.mib) // 2:], 10)
        if falls:
            windows = [min(windows[at:]) for at in range(len(windows))][:-3]
        step = statistics.median(after - before for before, after in zip(windows, windows[1:]))
        return f"by {step:.2f} MiB each time: {windows}" if step > 0.5 or windows[-1] > 1.5 * windows[0] else ""

    @staticmethod
    def _medians(values: list[float], count: int) -> list[float]:
        size = len(values) // count
        return [statistics.median(values[at * size:(at + 1) * size]) for at in range(count)]


def eventually(found, seconds: float = 15.0):
    """What is found when there is nothing left to find, or when the time is up."""
    deadline = time.monotonic() + seconds
    while (last := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return last


def percent(values: list[float], which: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * which))] * 1000


def report(host: OnEnvoy | OnWasi, seconds: float, seed: int, tally: Tally, chaos: Chaos, memory: list[float],
           wrong: list[str]) -> None:
    over = "HTTP/1.1 and HTTP/2" if host.http2 else "HTTP/1.1"
    print(f"\nsoak: {host.name}, {seconds / 60:.1f} min, seed {seed}, {CLIENTS} clients over {over}\n")
    print(f"{'calls':<30}{'all':>8}" + "".join(f"{end:>11}" for end in ENDS))
    for kind, ends in [*sorted(tally.ends.items()), ("all", tally.total)]:
        print(f"{kind:<30}{ends.total():>8}" + "".join(f"{ends[end]:>11}" for end in ENDS))
    print("\ndisturbances: " + ", ".join(
        f"{who} {what} {sum((d.who, d.what) == (who, what) for d in chaos.log)} times" for who, what in chaos.ways))
    print("bypassed: " + ", ".join(f"{reason} {count}" for reason, count in tally.reasons.most_common()))
    print("time of a call: " + ", ".join(
        f"p{which * 100:g} {percent(tally.seconds, which):.0f} ms" for which in (0.5, 0.9, 0.99, 1)))
    print("the host's memory by quarters: " + ", ".join(f"{mib:.0f} MiB" for mib in memory))
    print("wrong: " + (f"{len(wrong)}" if wrong else "nothing"))
    for line in wrong[:20]:
        print(f"  {line}")


def soak(kind: type[OnEnvoy | OnWasi], seconds: float, seed: int, directory: Path) -> bool:
    wrong = Wrong(directory / "wrong.txt")
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        programs = []
        for script in (Optimizer, Provider):
            programs.append(Program(script, wrong))
            stack.callback(programs[-1].stop)
        optimizer, provider = programs
        host = kind(MODULE, optimizer.port, provider.port, directory)
        stack.callback(host.host.stop)
        machines = host.machines()

        memory = Memory(host.host.process.pid)
        memory.start()
        tally, chaos = Tally(), Chaos(optimizer, provider, chance)
        until = time.monotonic() + seconds
        url = f"http://127.0.0.1:{host.host.port}"

        async def traffic() -> None:
            http2 = host.http2
            async with connections(http2=False) as one, connections(http2) as two, connections(http2) as three:
                clients = [Client(number, url, [one, two, one, three][number % 4], http2 and number % 2 == 1,
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

        if left := eventually(host.waiting):
            wrong(f"never came to an end: {left}")
        # The module of every worker still does its work, and nothing of the past is in its way.
        time.sleep(2 * MODULE["breaker"]["open_ms"] / 1000)
        before = tally.total
        asyncio.run(sunshine())
        after = tally.total
        if after["bypassed"] - before["bypassed"] > 12:
            wrong(f"after the storm: {after - before}")
        if (found := host.machines()) != machines:
            wrong(f"VMs made and living: {machines} at the beginning, {found} at the end")
        if host.host.process.poll() is not None:
            wrong("the host is gone")
        for line in host.host.log.read_text(errors="replace").splitlines():
            if any(sign in line for sign in host.broken):
                wrong(f"the host's log: {line}")
        if growth := memory.grows(host.falls):
            wrong(f"the host's memory grows {growth}")
        for end in ENDS[:4]:
            if not tally.total[end]:
                wrong(f"no call was {end}: this proves nothing")
    report(host, seconds, seed, tally, chaos, memory.quarters(), wrong.all())
    return not wrong.all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", choices=HOSTS, default="envoy")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        good = soak(HOSTS[options.host], options.minutes * 60, options.seed, Path(directory))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
