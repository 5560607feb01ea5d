"""`stentor controllers`: the workload controllers of a lab's cluster, one process a cluster."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from stentor.kube import config
from stentor.kube.client import Client
from stentor.kube.errors import BadConfig
from stentor.lab.controllers.backend import EndpointSliceController
from stentor.lab.controllers.cluster import Cluster
from stentor.lab.controllers.daemonset import DaemonSetController
from stentor.lab.controllers.nodeipam import NodeIpam
from stentor.lab.controllers.nodelifecycle import GRACE_S, NodeLifecycle
from stentor.lab.controllers.replicaset import ReplicaSetController
from stentor.lab.controllers.rollout import DeploymentController
from stentor.lab.controllers.scheduler import Scheduler
from stentor.operator.node import pools_of
from stentor.runtime import log as logs
from stentor.runtime.config import ConfigError, Values, load
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup

_GC_THRESHOLDS: Final = (50_000, 20, 100)


def main(argv: Sequence[str]) -> int:
    """Runs until SIGTERM. Status 2 for bad flags."""
    parser = argparse.ArgumentParser(prog="stentor controllers", description="The lab's workload controllers.")
    parser.add_argument("--kubeconfig", required=True, metavar="FILE")
    parser.add_argument(
        "--node-grace-s", type=float, default=GRACE_S, metavar="S", help="heartbeats missing for this long: unreachable"
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="Helm-style values: with ipam.mode kubernetes nodes get pod CIDRs out of ipam.operator's pools",
    )
    parser.add_argument("--debug", action="store_true")
    arguments = parser.parse_args(argv)
    logs.set_up(debug=arguments.debug)
    try:
        values = load(arguments.config)
        connection = config.load(Path(arguments.kubeconfig))
    except (ConfigError, BadConfig) as e:
        print(f"controllers: {e}", file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(connection, arguments.node_grace_s, values))
    return 0


async def _serve(connection: config.Connection, grace_s: float, values: Values) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with Client(connection, user_agent="stentor-controllers") as client, JobGroup(Health()) as jobs:
        cluster = Cluster(client)
        controllers = (
            Scheduler(cluster),
            DeploymentController(cluster),
            ReplicaSetController(cluster),
            DaemonSetController(cluster),
            EndpointSliceController(cluster),
            NodeLifecycle(cluster, grace_s),
            *((NodeIpam(cluster, pools_of(values)),) if values.ipam.mode == "kubernetes" else ()),
        )
        cluster.start(jobs)

        async def start_all() -> None:
            # Nobody decides before everything is known: a missing list would look like missing pods.
            await cluster.synced()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            for controller in controllers:
                jobs.keep(controller.queue.name, controller.queue.run)

        jobs.once("start", start_all())
        await ended.wait()
