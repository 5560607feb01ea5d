"""`stentor runner`: the node runner of the lab, one process a node, inside the node's namespaces."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import uvloop

import stentor
from stentor.kube import config
from stentor.kube.client import Client
from stentor.kube.errors import BadConfig
from stentor.lab.images.catalogue import Catalogue, load_images
from stentor.lab.images.errors import BadImageFile
from stentor.lab.images.warm import WarmParent
from stentor.lab.runner.cni import Invoker
from stentor.lab.runner.errors import BadFlag
from stentor.lab.runner.kubelet import Kubelet, Settings
from stentor.lab.runner.machine import MASKED, Machine
from stentor.runtime import log as logs
from stentor.sys import cgroup

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Runs until SIGTERM; pods go on without it. Status 2 for bad flags."""
    arguments = _parser().parse_args(argv)
    logs.set_up(debug=arguments.debug)
    try:
        machine = _machine(arguments)
        connection = config.load(Path(arguments.kubeconfig))
        catalogue = Catalogue(load_images(arguments.image_file) if arguments.image_file else None)
    except (BadConfig, BadFlag, BadImageFile) as e:
        print(f"runner: {e}", file=sys.stderr)
        return 2
    machine.run_dir.mkdir(parents=True, exist_ok=True)
    machine.cgroup.mkdir(parents=True, exist_ok=True)
    warm = WarmParent(machine.podrun_library)
    warm.fork("dns")
    settings = Settings(
        machine=machine,
        catalogue=catalogue,
        invoker=Invoker([Path(part) for part in arguments.cni_bin_dir.split(":")]),
        cni_conf_dir=Path(arguments.cni_conf_dir),
        manifest_dir=Path(arguments.manifest_dir) if arguments.manifest_dir else None,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        client_ca=arguments.client_ca,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, connection, warm))
    return 0


async def _serve(settings: Settings, connection: config.Connection, warm: WarmParent) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    connector = aiohttp.TCPConnector(ssl=False, force_close=True, limit=0)
    async with (
        Client(connection, user_agent="stentor-runner") as client,
        aiohttp.ClientSession(connector=connector) as probes,
    ):
        kubelet = Kubelet(settings, client, probes, warm)
        await kubelet.run_until(ended)


def _machine(arguments: argparse.Namespace) -> Machine:
    groups = cgroup.root() / arguments.cgroup.lstrip("/")
    masked = (*MASKED, *arguments.mask)
    return Machine(
        node_name=arguments.node_name,
        addresses=_words(arguments.node_ip),
        run_dir=Path(arguments.run_dir),
        state_dir=Path(arguments.state_dir),
        cgroup=groups,
        bin_dir=Path(arguments.bin_dir),
        cluster_dns=_words(arguments.cluster_dns),
        masked=masked,
        labels=_labels(arguments.node_labels),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _labels(text: str) -> dict[str, str]:
    labels = {}
    for word in _words(text):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadFlag(f"--node-labels: {word!r} is not KEY=VALUE")
        labels[key] = value
    return labels


def _parser() -> argparse.ArgumentParser:
    binaries = str(Path(stentor.__file__).parent / "bin")
    parser = argparse.ArgumentParser(prog="stentor runner", description="The lab's node runner: a small kubelet.")
    parser.add_argument("--kubeconfig", required=True, metavar="FILE")
    parser.add_argument("--node-name", required=True, metavar="NAME")
    parser.add_argument("--node-ip", required=True, metavar="A[,B]", help="the node's addresses, primary family first")
    parser.add_argument("--node-labels", default="", metavar="K=V,…", help="labels beside those every kubelet sets")
    parser.add_argument("--run-dir", default="/run/stentor-lab", metavar="DIR", help="state that dies with the machine")
    parser.add_argument("--state-dir", default="/var/lib/stentor-lab", metavar="DIR", help="pods' logs")
    parser.add_argument(
        "--cgroup", default="/pods", metavar="PATH", help="parent of pods' cgroups, below cgroup2's root"
    )
    parser.add_argument("--bin-dir", default=binaries, metavar="DIR", help="where podrun is")
    parser.add_argument("--image-file", type=Path, metavar="FILE", help="JSON: further images of the catalogue")
    parser.add_argument("--manifest-dir", metavar="DIR", help="components to show as mirror pods, a Pod a JSON file")
    parser.add_argument("--cni-bin-dir", default=f"/opt/cni/bin:{binaries}", metavar="DIR[:DIR…]")
    parser.add_argument("--cni-conf-dir", default="/etc/cni/net.d", metavar="DIR")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="serving certificate; without it no kubelet API")
    parser.add_argument("--tls-key", default="", metavar="FILE")
    parser.add_argument("--client-ca", default="", metavar="FILE", help="whose certificates clients must show")
    parser.add_argument("--cluster-dns", default="", metavar="A[,B]")
    parser.add_argument(
        "--mask", action="append", default=[], metavar="PATH", help="hide a path from pods (repeatable)"
    )
    parser.add_argument("--debug", action="store_true")
    return parser
