"""A machine made of namespaces, with an API server and a node runner in it. Its end takes everything along."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nodes import holder
from stentor.apiserver import pki
from stentor.sys import cgroup

ROOT = Path(__file__).parents[2]
BIN = ROOT / "src/stentor/bin"
KUBECTL = Path(sys.prefix) / "bin" / "kubectl"
ADDRESSES = tuple(address.partition("/")[0] for address in holder.ADDRESSES)
DEADLINE_S = 30.0

_numbers = itertools.count()


def wait_for(what: str, check: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true answer of `check`; AssertionError with `what` and the last answer when none comes in time."""
    end = time.monotonic() + deadline_s
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s:g} s: {answer!r}")
        time.sleep(0.02)


class Machine:
    """Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"stentor-node-{os.getpid()}-{next(_numbers)}"
        self._group = cgroup.root() / self.name
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.pid = 0

    def __enter__(self) -> Machine:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        os.close(cgroup.create(self._group / "init"))
        enter = "exec unshare -n -m -u -i -p --fork --kill-child"
        script = f"echo 0 > {self._group}/init/cgroup.procs; {enter} {sys.executable} {holder.__file__}"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests"}
        process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._processes["holder"] = process
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the machine did not come up"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.pid = int(children[0])

    def __exit__(self, *_: object) -> None:
        # The holder is PID 1 of the machine: with it ends everything in there.
        for process in self._processes.values():
            process.kill()
            process.wait()
        cgroup.remove(self._group)

    # ---- processes

    def inside(self, *argv: str) -> list[str]:
        """A command line that runs `argv` in the machine's namespaces."""
        enter = f'echo 0 > {self._group}/init/cgroup.procs; exec nsenter -t {self.pid} -n -m -r -u -i -p -C -- "$@"'
        return ["sh", "-c", enter, "sh", *argv]

    def run(self, *argv: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.inside(*argv), check=check, capture_output=True, text=True, timeout=60, **options)

    def start(self, name: str, module: str, *flags: str) -> None:
        """A component of Stentor, its log in `<name>.log`; one of that name must not run."""
        code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
        with open(self.directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                self.inside(sys.executable, "-c", code, *flags), stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Ends a component and returns its status. nsenter forks for the PID namespace: the component is its child."""
        process = self._processes.pop(name)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), number)
        return process.wait(timeout=20)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    # ---- components

    def start_apiserver(self) -> None:
        data = self.directory / "apiserver"
        flags = ["--data", str(data), "--pki", str(data / "pki"), "--service-cidr", "10.96.0.0/16"]
        listen = [f"--listen={ADDRESSES[0]}:6443", f"--listen=[{ADDRESSES[1]}]:6443"]
        self.start("apiserver", "stentor.apiserver.command", *flags, *listen)
        wait_for("API server", lambda: self.kubectl("get", "--raw", "/readyz", check=False) == "ok")

    def start_controllers(self) -> None:
        self.start("controllers", "stentor.lab.controllers.command", "--kubeconfig", str(self.kubeconfig()))

    def start_runner(self, node: str = "node-1", *flags: str, cni_bin_dir: str = "/usr/lib/cni") -> None:
        """A runner with the first of the machine's addresses, certificates and a kubeconfig of its own."""
        files = pki.Files(self.directory / "apiserver" / "pki")
        authority = pki.load_authority(files.read_pair("ca"))
        files.write_pair("kubelet", pki.make_server(authority, f"system:node:{node}", [node, *ADDRESSES]))
        arguments = {
            "--kubeconfig": self.kubeconfig(f"system:node:{node}", "system:nodes"),
            "--node-name": node,
            "--node-ip": ",".join(ADDRESSES),
            "--run-dir": "/run/stentor-lab",
            "--state-dir": self.directory / "state",
            "--cni-conf-dir": self.directory / "net.d",
            "--cni-bin-dir": cni_bin_dir,
            "--manifest-dir": self.directory / "components",
            "--tls-cert": files.path("kubelet.crt"),
            "--tls-key": files.path("kubelet.key"),
            "--client-ca": files.path("ca.crt"),
            "--cluster-dns": "10.96.0.10",
        }
        words = [str(word) for pair in arguments.items() for word in pair]
        self.start("runner", "stentor.lab.runner.command", *words, *flags)

    def write_bridge_network(self) -> None:
        """The reference plugins: bridge + host-local, both families."""
        directory = self.directory / "net.d"
        directory.mkdir(exist_ok=True)
        ranges = [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/112"}]]
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "isDefaultGateway": True,
            "ipam": {"type": "host-local", "dataDir": str(self.directory / "ipam"), "ranges": ranges},
        }
        document = {
            "cniVersion": "1.0.0",
            "name": "bridge",
            "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
        }
        document["plugins"] = [bridge]
        scratch = directory / "10-bridge.tmp"
        scratch.write_text(json.dumps(document))
        scratch.rename(directory / "10-bridge.conflist")

    # ---- the cluster

    def kubeconfig(self, user: str = "kubernetes-admin", group: str = "system:masters") -> Path:
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        if not path.exists():
            files = pki.Files(self.directory / "apiserver" / "pki")
            pair = files.read_pair("ca")
            client = pki.make_client(pki.load_authority(pair), user, (group,))
            path.write_text(pki.make_kubeconfig(f"https://{ADDRESSES[0]}:6443", pair.certificate, client))
        return path

    def kubectl_command(self, *arguments: str) -> list[str]:
        directory = self.directory / "apiserver" / "pki"
        if not (directory / "ca.key").exists():
            return ["false"]
        environment = f"HOME={self.directory}"
        return self.inside("env", environment, str(KUBECTL), "--kubeconfig", str(self.kubeconfig()), *arguments)

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Standard output of kubectl."""
        done = subprocess.run(self.kubectl_command(*arguments), capture_output=True, text=True, input=stdin, timeout=90)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(entry) for entry in objects))

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", "-o", "json", *arguments, check=False) or "null")


@contextlib.contextmanager
def node(directory: Path, *, controllers: bool = False) -> Iterator[Machine]:
    """A machine with an API server and a runner on the reference plugins; the node is Ready."""
    with Machine(directory) as machine:
        machine.start_apiserver()
        machine.write_bridge_network()
        (directory / "components").mkdir()
        machine.start_runner()
        if controllers:
            machine.start_controllers()
        machine.kubectl("wait", "--for=condition=Ready", "node/node-1", "--timeout=20s") if wait_for(
            "node", lambda: machine.get("node", "node-1")
        ) else None
        yield machine


def pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod on node-1; without containers one that sleeps."""
    chosen = list(containers) or [{"name": "main", "image": "busybox", "command": ["sleep", "infinity"]}]
    body = {"nodeName": "node-1", "terminationGracePeriodSeconds": 1, "containers": chosen, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": body}
