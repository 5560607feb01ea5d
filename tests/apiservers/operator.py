"""An operator as a process of its own beside an API server, with no more rights than it has in a cluster."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from apiservers.process import Server
from stentor.apiserver import pki

STENTOR = Path(sys.executable).parent / "stentor"
USER = "system:stentor:operator"


class Operator:
    """Start, stop, kill."""

    def __init__(self, server: Server, *settings: str) -> None:
        self.server = server
        self.settings = ("operator.prometheus.enabled=false", *settings)
        self.kubeconfig = server.directory / "operator.conf"
        self.log = server.directory / "operator.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Operator:
        self._write_kubeconfig()
        options = [word for setting in self.settings for word in ("--set", setting)]
        command = [str(STENTOR), "operator", "--kubeconfig", str(self.kubeconfig), *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and wait; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(30)
        if number == signal.SIGKILL:  # nobody renews its lease any longer; the test does not wait for its end
            self.server.run("delete", "lease", "cilium-operator-resource-lock", namespace="kube-system")
        return status

    def _write_kubeconfig(self) -> None:
        files = pki.Files(self.server.pki)
        files.write_pair("operator", pki.make_client(pki.load_authority(files.read_pair("ca")), USER, ()))
        config = yaml.safe_load((self.server.pki / "admin.kubeconfig").read_text())
        config["users"][0]["user"] = {
            "client-certificate": str(self.server.pki / "operator.crt"),
            "client-key": str(self.server.pki / "operator.key"),
        }
        self.kubeconfig.write_text(json.dumps(config))
