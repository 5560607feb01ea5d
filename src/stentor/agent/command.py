"""``stentor agent``: flags and lifecycle."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stentor.agent.api import Api
from stentor.agent.errors import DevicesGone, StartupError
from stentor.agent.life import Agent, Paths
from stentor.agent.metric import sample
from stentor.agent.server import Acceptor
from stentor.datapath.errors import DatapathError, StaleObject
from stentor.datapath.object import read_objects
from stentor.kube.client import Client
from stentor.kube.config import Connection, find
from stentor.kube.errors import BadConfig
from stentor.runtime import log as logs
from stentor.runtime.config import ConfigError, Values, load
from stentor.runtime.job import JobGroup
from stentor.runtime.metric import serve_metrics
from stentor.runtime.sample import registry

_DEVICES_INTERVAL_S: Final = 5.0

log = logging.getLogger(__name__)


def warm_up() -> None:
    """What a parent that forks agents may do once for all of them."""
    with contextlib.suppress(StaleObject):  # the agent tells it
        for found in read_objects().values():
            found.prepare()


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM (0). 2: wrong flags, configuration or machine; the datapath goes on in every case."""
    arguments = _parser().parse_args(argv)
    try:
        values = load(arguments.config, arguments.set)
        connection = find(arguments.kubeconfig, arguments.context)
    except (ConfigError, BadConfig) as e:
        print(f"stentor agent: {e}", file=sys.stderr)
        return 2
    logs.set_up(debug=values.debug.enabled)
    paths = Paths(
        arguments.state_dir,
        arguments.run_dir,
        arguments.bpffs,
        arguments.cni_conf_dir,
        launches_bgp=not arguments.no_bgp_launch,
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        return asyncio.run(run(values, connection, arguments.node_name, paths))
    except (StartupError, DatapathError) as e:
        log.error("Cannot start", extra={"error": str(e)})
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stentor agent", description="Networking of one node: pods, datapath, policy."
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="Helm-style values (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one value, over those of the files"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, then the pod's service account")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    parser.add_argument("--node-name", default=socket.gethostname(), metavar="NAME", help="this node's name (hostname)")
    parser.add_argument(
        "--state-dir", type=Path, default=Paths().state, metavar="DIR", help="endpoints, stored deletions"
    )
    parser.add_argument("--run-dir", type=Path, default=Paths().run, metavar="DIR", help="sockets")
    parser.add_argument("--bpffs", type=Path, default=Paths().bpffs, metavar="DIR", help="where a bpffs is mounted")
    parser.add_argument("--no-bgp-launch", action="store_true", help="somebody else keeps the BGP speaker running")
    parser.add_argument("--cni-conf-dir", type=Path, default=Paths().cni_conf, metavar="DIR", help="for the conflist")
    return parser


async def run(values: Values, connection: Connection, node_name: str, paths: Paths) -> int:
    """The agent's life, in one event loop."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    failure: list[BaseException] = []

    async def start(agent: Agent, jobs: JobGroup) -> None:
        try:
            servers.append(await agent.start(jobs))
        except Exception as e:
            failure.append(e)
            ended.set()
            raise

    async def end_without_devices(agent: Agent) -> None:
        """Whoever keeps the agent running starts the next one, which makes them anew; programs and maps stay."""
        if gone := await agent.gone_devices():
            log.error("Devices are gone: the next agent makes them", extra={"devices": ",".join(gone)})
            failure.append(DevicesGone(", ".join(gone)))
            ended.set()

    servers: list[Acceptor] = []
    async with Client(connection, user_agent="stentor-agent") as client:
        agent = Agent(values, client, node_name, paths)
        metrics = registry(lambda: sample(agent))
        api = Api(agent, metrics)
        async with JobGroup(agent.health) as jobs:
            await api.serve()
            exporter = await serve_metrics(metrics, "", values.prometheus.port) if values.prometheus.enabled else None
            jobs.once("start", start(agent, jobs))
            jobs.every("own-devices", _DEVICES_INTERVAL_S, lambda: end_without_devices(agent))
            await ended.wait()
            for server in servers:
                server.close()
            await api.close()
            if exporter is not None:
                await exporter.cleanup()
        agent.close()
    for error in failure:
        if isinstance(error, (StartupError, DatapathError)):
            raise error
    return 1 if failure else 0
