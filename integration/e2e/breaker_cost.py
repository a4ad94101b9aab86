"""What an optimizer that accepts and never answers costs a call, on average: prints one line.

50 calls a second for a minute through an Envoy with the module's defaults, beside an Envoy without it.
"""

import statistics
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


def milliseconds(port: int, seconds: int) -> list[float]:
    """How long each call took, sent at an even pace whatever the others do."""
    with ThreadPoolExecutor(64) as pool:
        began, calls = time.monotonic(), []
        for number in range(CALLS_A_SECOND * seconds):
            time.sleep(max(0.0, began + number / CALLS_A_SECOND - time.monotonic()))
            calls.append(pool.submit(client.send, port, CHAT.call(), HTTP1))
        replies = [call.result() for call in calls]
    assert all(reply.status == 200 for reply in replies)
    return [reply.elapsed * 1000 for reply in replies]


def main(workers: int) -> None:
    optimizer, provider = Optimizer(), Provider()
    optimizer.on(OPTIMIZE, NEVER)
    proxies = Proxies(optimizer, provider, Path(tempfile.mkdtemp()))
    try:
        module = {"optimizer": {"upstream": "optimizer"}}
        without = milliseconds(proxies.get(Setup(None, concurrency=workers)).port, 10)
        with_it = milliseconds(proxies.get(Setup(module, concurrency=workers)).port, 60)
        added = statistics.mean(with_it) - statistics.mean(without)
        print(f"{workers} worker(s): {added:.1f} ms added per call, {len(with_it)} calls, "
              f"{len(optimizer.calls)} of them asked the optimizer")
    finally:
        proxies.stop()
        optimizer.stop()
        provider.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
