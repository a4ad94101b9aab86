"""The same stage with the component in a wasi:http host in Envoy's place."""

import json
import re

from .stage import ROOT, Stage, free


class WasiStage(Stage):
    """`programs` holds the paths wasi_host and component, beside optimizer and provider."""

    speaks_http2 = False

    def start_host(self):
        config = json.loads((ROOT / "examples/wasi-http/optimizer.json").read_text())
        provider = self.provider
        config["optimizer"]["upstream"] = self.optimizer_address
        config["provider"] = f"{'https' if provider.tls else 'http'}://{provider.host}:{provider.port}"
        address = f"127.0.0.1:{10000 if free(10000) else 0}"
        variables = {"OPTIMIZER_CONFIG": json.dumps(config), "OPTIMIZER_LOG": "trace", **self.token}
        command = [self.programs.wasi_host, self.programs.component, address]
        command += [f"{name}={value}" for name, value in variables.items()]
        self.host = self.start("wasi-host", command)
        listening = re.compile(r"^Serving HTTP on (http://\S+)/$", re.MULTILINE)
        found = self.host.wait_for(lambda: listening.search(self.host.log.read_text()))
        self.url = f"{found[1]}{provider.prefix}"

    def counted(self, name):
        """The log has what other hosts have metrics for."""
        lines = re.findall(rf"optimizer: \S+ Counter {re.escape(name)} (\d+)$", self.host.log.read_text(), re.MULTILINE)
        return sum(map(int, lines))

    def provider_requests(self):
        # Whatever was closed and was no hit went to the provider.
        text = self.host.log.read_text()
        return text.count(" Closed\n") - text.count(" Note optimizer_outcome hit\n")

    def where_to_look(self):
        return f"Log: {self.host.log}"

    def further_calls(self, skip):
        return None
