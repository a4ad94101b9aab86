"""`make demo`: provider, optimizer and Envoy (or, with HOST=wasi, a wasi:http host) on this machine, and a short tour through them.

After the tour everything stays up for your own client, until Ctrl-C.

  DEMO_ONCE=1       exit after the tour; non-zero if a step did not show what it must
  PROVIDER=URL      a real provider, http(s)://host[:port][/prefix], instead of the demo's own
  DEMO_MODEL=NAME   the model to ask for (needed with PROVIDER)
  OPENAI_API_KEY / ANTHROPIC_API_KEY   the key for PROVIDER, where it wants one

The tour speaks Anthropic's API to a PROVIDER whose host names Anthropic, else OpenAI's:

  vLLM       PROVIDER=http://127.0.0.1:8000 DEMO_MODEL=<the served model>
  llama.cpp  PROVIDER=http://127.0.0.1:8080 DEMO_MODEL=any
  LiteLLM    PROVIDER=http://127.0.0.1:4000 DEMO_MODEL=<an alias> OPENAI_API_KEY=sk-…
  OpenAI     PROVIDER=https://api.openai.com DEMO_MODEL=<a model> OPENAI_API_KEY=sk-…
  Anthropic  PROVIDER=https://api.anthropic.com DEMO_MODEL=<a model> ANTHROPIC_API_KEY=sk-ant-…

Such a provider does not show what it received, so the tour cannot show the changed bodies.
Certificates are checked against SSL_CERT_FILE where that is set.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tour.calls import QUESTION, STREAMED, Anthropic, OpenAI, call
from tour.printing import BOLD, RED, paint, print_call, print_head, print_step
from tour.stage import ROOT, Failure, Stage
from tour.wasi import WasiStage

STAGES = {"envoy": Stage, "wasi": WasiStage}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Tour:
    """The calls one after the other; `good` while each showed what it must."""

    def __init__(self, stage):
        self.stage = stage
        self.own = stage.provider.own
        self.model = os.environ.get("DEMO_MODEL", "demo-1")
        self.sent = 0
        self.good = True
        self.seen = {}  # by bodies sent and received, the first call that had them

    def key(self, api):
        if self.own:
            return f"sk-demo-{api.name.lower()}"
        return os.environ.get(f"{api.name.upper()}_API_KEY")

    def step(self, title, must, *args, **options):
        try:
            shown = call(self.stage, *args, **options)
        except httpx.HTTPError as error:
            self.stage.check()
            raise Failure(f"{title}: {error}", self.stage.host) from error
        self.sent += 1
        wrong = [message for message, holds in must(shown).items() if not holds]
        self.good = self.good and not wrong
        way = (shown.sent, shown.received)
        print_step(self.sent, title, shown, wrong, self.seen.get(way))
        if shown.received:
            self.seen.setdefault(way, self.sent)
        return shown

    def run(self):
        if self.own:
            api, streaming = OpenAI, Anthropic
        else:
            api = streaming = Anthropic if "anthropic" in self.stage.provider.host else OpenAI
        body, key = api.body(self.model, QUESTION), self.key(api)
        calls_before, _ = self.stage.provider_calls()
        print_head()
        first = self.step(f"{api.name}: a call", self.transformed, api, body, key)
        self.wait_for_write_backs(1)

        def repeated(shown):
            same = {"the answer is that of call 1": shown.json == first.json}
            return self.from_cache(shown) | same

        self.step("the same again", repeated, api, body, key)
        stream = streaming.body(self.model, STREAMED, stream=True)
        stream_key = self.key(streaming)
        title = f"{streaming.name}: a streamed call"
        live = self.step(title, self.streamed, streaming, stream, stream_key)
        self.wait_for_write_backs(2)

        def replayed(shown):
            return self.from_cache(shown) | {
                "the answer is a complete stream": shown.streamed and shown.complete,
                "its text is that of the live one": shown.text == live.text,
                "it is there before the live one was": shown.ms < live.ms,
            }

        self.step("the same stream again", replayed, streaming, stream, stream_key)
        self.step("call 1 with somebody else's key", self.foreign, api, body, "sk-foreign")
        # Another order of members: the same call for everyone but a comparison of bytes.
        respelled = dict(reversed(body.items()))
        http2 = self.stage.speaks_http2
        title = "call 1 respelled, over HTTP/2" if http2 else "call 1 respelled"
        self.step(title, repeated, api, respelled, key, http2=http2)
        self.stage.optimizer.stop()
        self.step("call 1 with the optimizer stopped", self.left_alone, api, body, key)
        self.stage.restart_optimizer()
        called = self.stage.provider_calls()[0] - calls_before
        saved = self.stage.counted("optimizer_tokens_saved")
        summary = f"provider called {called} of {self.sent} times, {saved:,} tokens saved"
        print(paint(BOLD, summary), flush=True)

    def wait_for_write_backs(self, count):
        """They leave after the client has its answer, so a repeat has to wait for them."""
        deadline = time.monotonic() + 3
        written = "optimizer_callouts.kind.cache.result.ok"
        while self.stage.counted(written) < count and time.monotonic() < deadline:
            time.sleep(0.02)

    # What each step must show. What only the demo's own provider can show is asked of it alone.

    def live(self, shown):
        return {"the client gets 200": shown.status == 200, "the provider is called": shown.called}

    def transformed(self, shown):
        return self.live(shown) | {
            "the module applies a transform": shown.status_word == "applied",
            "the body changes on its way": not self.own or shown.received != shown.sent,
        }

    def from_cache(self, shown):
        return {
            "the client gets 200": shown.status == 200,
            "the module serves a hit": shown.status_word == "hit",
            "the provider is not called": not shown.called,
        }

    def streamed(self, shown):
        return self.live(shown) | {
            "the answer is a complete stream": shown.streamed and shown.complete,
            "the stream is not held back": not self.own or shown.chunks[:1] < [shown.ms / 2],
        }

    def foreign(self, shown):
        return {
            "the module serves no hit": shown.status_word != "hit",
            "the provider is called and judges the key": shown.called,
            "the client gets 200": shown.status == 200 or not self.own,
        }

    def left_alone(self, shown):
        return self.live(shown) | {
            "the module leaves the call alone": shown.status_word == "bypassed",
            "not a byte changes": not self.own or shown.received == shown.sent,
        }


def follow(stage, skip):
    """Says how to join in and prints a line for each call after the first `skip`, for ever."""
    key = "any key that does not begin with “bad”" if stage.provider.own else "your provider's key"
    print(f"\nAll of it stays up until Ctrl-C. Point your client at it, with {key}:\n")
    print(f"  export OPENAI_BASE_URL={stage.url}/v1")
    print(f"  export ANTHROPIC_BASE_URL={stage.url}")
    print(f"\n{stage.where_to_look()}", flush=True)
    while not (further := stage.further_calls(skip)):
        stage.check()
        time.sleep(0.1)
    log, skip = further
    print("Further calls:\n", flush=True)
    with log:
        line = ""
        while True:
            line += log.readline()
            if not line.endswith("\n"):
                stage.check()
                time.sleep(0.1)
                continue
            if skip:
                skip -= 1
            else:
                print_call(json.loads(line))
            line = ""


def programs():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

    def built(name):
        release = target / "release" / name
        return release if release.exists() else target / "debug" / name

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--optimizer", type=Path, default=built("reference-optimizer"))
    option("--provider-bin", type=Path, default=built("demo-provider"), dest="provider")
    option("--wasm", type=Path, default=ROOT / "dist/optimizer.wasm")
    option("--envoy", type=Path, default=Path(sys.executable).parent / "envoy")
    option("--host", choices=STAGES, default="envoy")
    option("--wasi-host", type=Path, default=built("wasi-host"))
    option("--component", type=Path, default=ROOT / "dist/optimizer-component.wasm")
    args = parser.parse_args()
    others = {"envoy": ("wasi_host", "component"), "wasi": ("envoy", "wasm")}[args.host]
    for name, path in vars(args).items():
        if name == "host" or name in others:
            continue
        if not path.exists():
            raise Failure(f"{path} is missing; `make build` builds it")
        setattr(args, name, path.absolute())
    return args


def interrupted(number, _frame):
    raise KeyboardInterrupt(number)


def main():
    sys.stdout.reconfigure(errors="replace")  # no terminal is too plain for the demo
    for number in SIGNALS:
        signal.signal(number, interrupted)
    with tempfile.TemporaryDirectory(prefix="optimizer-demo-") as logs:
        with contextlib.ExitStack() as stack:
            try:
                started = programs()
                stage = STAGES[started.host](started, Path(logs), stack)
                tour = Tour(stage)
                tour.run()
                if os.environ.get("DEMO_ONCE", "") in ("", "0"):
                    follow(stage, skip=tour.sent)
                if not tour.good:
                    message = "the tour did not show what it must"
                    raise Failure(message, stage.host, stage.optimizer)
                return 0
            except KeyboardInterrupt as stop:
                print("\nstopping", flush=True)
                return 0 if stop.args == (signal.SIGINT,) else 128 + stop.args[0]
            except Failure as failure:
                print(paint(RED, f"demo: {failure}"), file=sys.stderr)
                for process in failure.processes:
                    print(f"--- {process.name}, last lines:\n{process.tail()}", file=sys.stderr)
                return 1
            finally:
                # A second Ctrl-C must not keep the processes from being stopped.
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
