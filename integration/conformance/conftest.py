"""Which optimizer the suite talks to.

OPTIMIZER=http://… [OPTIMIZER_TOKEN=…]   one that runs already
REFERENCE_OPTIMIZER=path                 the reference optimizer's binary, started here
"""

import json
import os
import subprocess

import httpx
import pytest

TOKEN = "conformance-token"


class Reference:
    """The reference optimizer as a process."""

    def __init__(self, directory, config=None, token=None):
        arguments = [os.environ["REFERENCE_OPTIMIZER"], "--listen", "127.0.0.1:0"]
        environment = dict(os.environ)
        if config is not None:
            path = directory / "optimizer.json"
            path.write_text(json.dumps(config))
            arguments += ["--config", str(path)]
        if token is not None:
            environment["REFERENCE_TOKEN"] = token
            arguments += ["--token-env", "REFERENCE_TOKEN"]
        self.log_path = directory / "log"
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.process.wait(5)
            raise RuntimeError(f"the reference optimizer did not start: {self.log()}")
        self.url = line.removeprefix("listening on ").strip()
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=10, trust_env=False)

    def log(self):
        return self.log_path.read_text()

    def optimize(self, endpoint, request, **envelope):
        """Asks for a request to be transformed; gives the answer's body."""
        call = {"endpoint": endpoint, "request": request, **envelope}
        answer = self.client.post("/v1/optimize", json=call)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stop(self):
        self.client.close()
        self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@pytest.fixture(scope="session")
def optimizer(tmp_path_factory):
    """A client of the optimizer under test, with the token in place."""
    url = os.environ.get("OPTIMIZER")
    if url:
        token = os.environ.get("OPTIMIZER_TOKEN")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=False) as client:
            yield client
        return
    if not os.environ.get("REFERENCE_OPTIMIZER"):
        pytest.exit("set OPTIMIZER to a URL, or REFERENCE_OPTIMIZER to the binary", 4)
    reference = Reference(tmp_path_factory.mktemp("reference"), token=TOKEN)
    yield reference.client
    assert reference.stop() == 0


@pytest.fixture
def start_reference(tmp_path):
    """Starts reference optimizers with configurations of their own."""
    if not os.environ.get("REFERENCE_OPTIMIZER"):
        pytest.skip("REFERENCE_OPTIMIZER does not name the reference optimizer's binary")
    started = []

    def start(config=None, token=None):
        directory = tmp_path / str(len(started))
        directory.mkdir()
        started.append(Reference(directory, config, token))
        return started[-1]

    yield start
    for reference in started:
        if reference.process.poll() is None:
            reference.stop()
