"""The shipped examples/envoy/envoy.yaml, running."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable
from unittest import mock

from tour.stage import Provider as Address
from tour.stage import envoy_config

from .envoy import Envoy
from .envoy_config import Setup
from .proxy import WASM, Proxies, Proxy

TOKEN = "token-of-the-example"


def running(proxies: Proxies, name: str, change: Callable[[str], str] = str,
            log_level: str = "debug") -> Proxy:
    """An Envoy with the example as it stands but for `change`; watched and stopped like all the others."""
    if name not in proxies.running:
        provider = Address("127.0.0.1", proxies.provider.port)
        config = change(envoy_config(provider, proxies.optimizer.port, 0, Path(WASM).resolve()))
        # Histograms show only what was flushed.
        config = "stats_flush_interval: 1s\n" + config
        with mock.patch.dict(os.environ, OPTIMIZER_TOKEN=TOKEN):
            envoy = Envoy(Setup(None, log_level=log_level), config, proxies.directory / name)
        proxies.running[name] = Proxy(envoy)
    return proxies.running[name]
