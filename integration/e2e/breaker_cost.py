"""What an optimizer that accepts and never answers costs a call, on average: writes a table.

50 calls a second for a minute through an Envoy with the module's defaults.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit import client
from kit.dialects import CHAT
from kit.envoy_config import Setup
from kit.message import NEVER
from kit.optimizer import OPTIMIZE, Optimizer
from kit.provider import Provider
from kit.proxy import HTTP1, Proxies

CALLS_A_SECOND = 50


def send(port: int, count: int) -> None:
    """Calls at an even pace, whatever becomes of them."""
    with ThreadPoolExecutor(64) as pool:
        began, calls = time.monotonic(), []
        for number in range(count):
            time.sleep(max(0.0, began + number / CALLS_A_SECOND - time.monotonic()))
            calls.append(pool.submit(client.send, port, CHAT.call(), HTTP1))
        assert all(call.result().status == 200 for call in calls)


def waited(workers: int) -> tuple[int, int, float]:
    """How many calls there were, how many of them asked the optimizer, and for how many seconds in all."""
    optimizer, provider = Optimizer(), Provider()
    optimizer.on(OPTIMIZE, NEVER)
    proxies = Proxies(optimizer, provider, Path(tempfile.mkdtemp()))
    try:
        module = {"optimizer": {"upstream": "optimizer"}}
        proxy, calls = proxies.get(Setup(module, concurrency=workers)), 60 * CALLS_A_SECOND
        send(proxy.port, calls)
        # Envoy adds histograms up once a second.
        time.sleep(3)
        samples = proxy.host.samples().items()
        part = {name.removeprefix("optimizer_callout_duration_us_"): value for (name, _), value in samples}
        return calls, int(part["count"]), part["sum"] / 1e6
    finally:
        proxies.stop()
        optimizer.stop()
        provider.stop()


def main(results: Path) -> None:
    rows = [f"| {workers} | {calls} | {asked} | {seconds / calls * 1000:.1f} |"
            for workers in (1, 2) for calls, asked, seconds in [waited(workers)]]
    results.write_text(f"""# Results of `make breaker-cost`

An optimizer that accepts calls and never answers, Envoy with the module's defaults, {CALLS_A_SECOND} calls a second for a minute:
the time that calls waited for it, by the module's own metric.

| Envoy's workers | calls | of them asked the optimizer | ms that a call waited, on average |
| --: | --: | --: | --: |
{chr(10).join(rows)}
""")
    print(results.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
