"""``stentor operator``: flags, lifecycle, leader election."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Sequence

from stentor.api.definition import needed
from stentor.kube.client import Client
from stentor.kube.config import Connection, find
from stentor.kube.errors import BadConfig
from stentor.kube.lease import Election
from stentor.operator.definition import ensure_definitions
from stentor.operator.metric import sample
from stentor.operator.wiring import Operator
from stentor.runtime import log as logs
from stentor.runtime.config import ConfigError, Values, load
from stentor.runtime.job import JobGroup
from stentor.runtime.metric import serve_metrics
from stentor.runtime.sample import registry

LEASE = "cilium-operator-resource-lock"

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM (0) or until the lease is lost (1): the next start competes anew."""
    parser = argparse.ArgumentParser(
        prog="stentor operator", description="Cluster-wide control: CRDs, identities, pod CIDRs."
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="Helm-style values (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one value, over those of the files"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, then the pod's service account")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    arguments = parser.parse_args(argv)
    try:
        values = load(arguments.config, arguments.set)
        connection = find(arguments.kubeconfig, arguments.context)
    except (ConfigError, BadConfig) as e:
        print(f"stentor operator: {e}", file=sys.stderr)
        return 2
    logs.set_up(debug=values.debug.enabled)
    gc.freeze()
    return asyncio.run(run(values, connection))


async def run(values: Values, connection: Connection) -> int:
    """The operator's life, in one event loop."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with Client(connection, user_agent="stentor-operator") as client:
        operator = Operator(values, client, loop.call_soon)
        election = Election(client, LEASE, f"{socket.gethostname()}-{secrets.token_hex(5)}")
        async with JobGroup(operator.health) as jobs:
            prometheus = values.operator.prometheus
            metrics = registry(lambda: sample(operator))
            exporter = await serve_metrics(metrics, "", prometheus.port) if prometheus.enabled else None
            leading = jobs.once("lead", _lead(operator, election, jobs))
            leading.add_done_callback(lambda _: ended.set())  # nobody works on without renewing the lease
            await ended.wait()
            has_lost = leading.done()
            if exporter is not None:
                await exporter.cleanup()
        if operator.is_leading:
            await election.release()
    return 1 if has_lost else 0


async def _lead(operator: Operator, election: Election, jobs: JobGroup) -> None:
    await ensure_definitions(operator.client, needed(operator.values))
    await election.acquire()
    operator.start(jobs)
    await election.renew()
    operator.is_leading = False
