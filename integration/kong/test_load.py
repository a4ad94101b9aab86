"""At least 50,000 mixed calls over kept connections: every body checked, no worker lost, memory flat."""

import asyncio
import collections
import os

import pytest

from load import Load, serve
from gateway import Gateway, Setup

CALLS = int(os.environ.get("KONG_LOAD", "50000"))
MIB = 1 << 20


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("workers", [2])
def test_under_load_every_body_is_right_and_memory_is_flat(gateways, module, workers):
    load = Load(CALLS)
    resident: list[int] = []

    async def run() -> Gateway:
        optimizer = await serve(load.optimize, load)
        provider = await serve(load.provide, load)
        optimizer_port, provider_port = (s.sockets[0].getsockname()[1] for s in (optimizer, provider))
        configured = module(optimizer={"upstream": f"127.0.0.1:{optimizer_port}"}, decisions_header="never")
        setup = Setup(configured, workers=workers, log_level="warn")
        gateway = await asyncio.to_thread(gateways.start, setup, provider_port)
        clients = [asyncio.create_task(load.http1(gateway.port)) for _ in range(8)]
        clients += [asyncio.create_task(load.http2(gateway.port)) for _ in range(3)]
        finished = asyncio.gather(*clients)
        while not finished.done():
            resident.append(gateway.server.resident_bytes())
            await asyncio.wait([finished], timeout=1)
        await finished
        return gateway

    gateway = asyncio.run(run())
    broken = gateway.broken()
    gateway.server.stop()
    print(dict(load.done), "MiB:", [size >> 20 for size in resident[::max(1, len(resident) // 20)]])
    assert broken == []
    assert load.wrong == []
    counted = collections.Counter(load.done)
    transformed = counted.pop("transformed")
    assert sum(counted.values()) == CALLS
    assert transformed > CALLS // 3
    # The workers warm up in the first third; after it only what the runtime keeps of timer callouts may grow.
    warm = max(resident[:len(resident) // 3 + 1])
    assert max(resident) < warm * 1.2 + 24 * MIB
