"""The LiteLLM proxy as a child, with and without hooks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from kit.child import die_with_parent, stop

from . import machine, variants
from .programs import Backend, load
from .stage import Wrong
from .turns import Turn

HOOK = Path(__file__).parents[1] / "litellm/optimizer_hook.py"
START_SECONDS = 120


@dataclass(frozen=True)
class Hooks:
    """One way of running LiteLLM."""

    name: str
    title: str
    # Which of the hook's objects; None: none.
    callback: str | None
    callouts: tuple[str, ...] = ()


HOOKS = [
    Hooks("litellm", "LiteLLM", None),
    Hooks("litellm_request", "LiteLLM, request hook", "request_hook", variants.BOTH[:1]),
    Hooks("litellm_by_hand", "LiteLLM, request hook with aiohttp by hand", "request_hook_by_hand", variants.BOTH[:1]),
    Hooks("litellm_both", "LiteLLM, request and response hook", "both_hooks", variants.BOTH),
]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class LiteLlm:
    """One LiteLLM with one worker, on the CPU that the hosts run on."""

    def __init__(self, binary: Path, hooks: Hooks, backend: Backend, directory: Path):
        self.hooks, self.backend, self.port = hooks, backend, _free_port()
        self.authorization: str = backend.said["authorization"]
        directory.mkdir()
        shutil.copy(HOOK, directory)
        callbacks = {"callbacks": [f"{HOOK.stem}.{hooks.callback}"]} if hooks.callback else {}
        config = directory / "config.yaml"
        config.write_text(json.dumps({
            "model_list": [{"model_name": "gpt-4.1-mini", "litellm_params": {
                "model": "openai/gpt-4.1-mini",
                "api_base": f"http://127.0.0.1:{backend.provider}/v1",
                "api_key": "sk-provider",
            }}],
            "litellm_settings": {"telemetry": False} | callbacks,
        }))
        environment = os.environ | {
            "BENCH_OPTIMIZER": f"http://127.0.0.1:{backend.optimizer}",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MASTER_KEY": self.authorization.removeprefix("Bearer "),
            "LITELLM_MODE": "PRODUCTION",
        }
        command = [str(binary), "--config", str(config), "--host", "127.0.0.1", "--port", str(self.port),
                   "--num_workers", "1", "--telemetry", "False"]
        self.log = directory / "log"
        with machine.on(machine.HOSTS), self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        try:
            self._wait_until_ready()
            self.answer_bytes = self._first_call()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/liveliness", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError("LiteLLM did not start\n" + self.log.read_text(errors="replace")[-2000:])

    def _first_call(self) -> int:
        """The length of its answers: LiteLLM writes them anew."""
        body = json.dumps({"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "hello"}]})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{variants.CHAT}", body.encode(),
            {"content-type": "application/json", "authorization": self.authorization},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return len(answer.read())

    def run(self, binary: Path, size: int, connections: int, turn: Turn) -> dict[str, float]:
        """One turn; that every call took its callouts is checked."""
        self.backend.counts()
        used = machine.cpu_seconds(self.process.pid)
        seen = load(binary, port=self.port, path=variants.CHAT, size=size, connections=connections,
                    seconds=turn.seconds, warm_up=turn.warm_up, answer_bytes=self.answer_bytes)
        used = machine.cpu_seconds(self.process.pid) - used
        counts, calls = self.backend.counts(), seen["calls"]
        provider = [count for key, count in counts.items() if key.startswith(f"provider {variants.CHAT} ")]
        optimizer = {key: count for key, count in counts.items() if key.startswith("optimizer ")}
        if provider != [calls] or optimizer != {f"optimizer {path}": calls for path in self.hooks.callouts}:
            raise Wrong(f"{self.hooks.name}, {size} bytes: {calls} calls, found {counts}")
        return {
            "per_second": seen["per_second"],
            "p50_us": seen["whole"]["p50"],
            "p99_us": seen["whole"]["p99"],
            "cpu_us": used / calls * 1e6,
        }

    def stop(self) -> None:
        stop(self.process)
