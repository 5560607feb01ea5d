"""BGP in the agent: what is watched, and who keeps the speaker at what follows from it.

Nothing is told to the speaker before every source has delivered what there is and the load balancer has been compared with the
kernel: a speaker that ran on while the agent was away keeps its sessions and routes until then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import msgspec

from stentor.agent import bgp_machine
from stentor.agent.bgp_status import Observer
from stentor.agent.service import ServiceSources
from stentor.agent.state import Tables
from stentor.api.bgp import ADVERTISEMENTS, NODE_CONFIGS, PEER_CONFIGS
from stentor.api.core import NODES, SECRETS
from stentor.api.lbipam import LB_IP_POOLS, CiliumLoadBalancerIPPool
from stentor.api.meta import Kind
from stentor.api.peering import PEERING_POLICIES, CiliumBGPPeeringPolicy
from stentor.api.stentor import INSTANCE_OPTIONS, PEER_OPTIONS
from stentor.bgp.resource.link import Link
from stentor.bgp.resource.node import Machine, node_row
from stentor.bgp.resource.pool import Pool
from stentor.bgp.resource.secret import password_row
from stentor.bgp.resource.table import BGPTables, ServiceView, derive, make_tables, uses_secrets
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.kube.source import table_source
from stentor.net.address import Addr
from stentor.runtime.config import Values
from stentor.runtime.job import JobGroup
from stentor.state import Database, Graph, Reconciler, Table
from stentor.tables.bgp import PeeringPolicy, configured

SOCKET: Final = "bgp.sock"
_MISSING_S: Final = 1.0
_POLL_S: Final = 0.05

log = logging.getLogger(__name__)


class BGPControl:
    """The control plane of one agent; None of it exists where bgpControlPlane is off."""

    def __init__(
        self, tables: Tables, client: Client, values: Values, node_name: str, run_dir: Path, *, launches: bool
    ) -> None:
        services, database = tables.services, tables.database
        self.tables = make_tables(database)
        self.services = ServiceView(
            services=services.services,
            frontends=services.frontends,
            entries=services.entries,
            realized=services.realized,
        )
        self.node_name = node_name
        self.secrets_namespace = values.bgp_control_plane.secrets_namespace.name
        self.sources = sources(self.tables, database, client, node_name, self.secrets_namespace)
        reports = values.bgp_control_plane.status_report.enabled
        self.observer = Observer(self, client, reports=reports)
        self.link = Link(str(run_dir / SOCKET), self.tables, self._missing if launches else lambda _: None)
        self._database = database
        self._cluster_nodes = tables.nodes
        self._run_dir = run_dir
        self._has_begun = False
        self.launched: subprocess.Popen[bytes] | None = None  # the speaker, if we had to start it
        self.tables.machines.expect("machine")

    def start(
        self,
        jobs: JobGroup,
        graph: Graph,
        balancer: Reconciler[Any, Any],
        service_sources: ServiceSources,
        link_thread: Executor,
    ) -> None:
        """Watch at once; derive and talk to the speaker as soon as everything is known."""
        for source in self.sources:
            jobs.keep(f"watch-{source.kind}", source.run)
        loop = asyncio.get_running_loop()
        read = functools.partial(loop.run_in_executor, link_thread, bgp_machine.read)
        jobs.keep("bgp-machine", lambda: bgp_machine.follow(read, self._put_machine))
        jobs.once("bgp", self._begin(jobs, graph, balancer, service_sources))

    def _put_machine(self, machine: Machine) -> None:
        self._database.put(self.tables.machines, machine)
        self.tables.machines.synced("machine")

    async def _begin(
        self, jobs: JobGroup, graph: Graph, balancer: Reconciler[Any, Any], service_sources: ServiceSources
    ) -> None:
        for source in service_sources.all:
            await source.synced.wait()
        while not (balancer.is_compared and all(table.is_synced for table in self._needed())):
            await asyncio.sleep(_POLL_S)
        derive(
            graph,
            self.tables,
            self.services,
            self._cluster_nodes,
            node_name=self.node_name,
            secrets_namespace=self.secrets_namespace,
        )
        graph.settle()
        self._has_begun = True
        log.info("BGP begins", extra={"source": self.tables.plan.source or "none"})
        jobs.keep("bgp-speaker", self.link.run)
        jobs.keep("bgp-observe", self.observer.run)
        jobs.keep("bgp-listen", self.observer.listen)

    @property
    def problems(self) -> list[str]:
        """What is wrong with the configuration or the speaker."""
        wrong = [str(problem) for problem in self.tables.plan.problems if not problem.is_waiting]
        wrong += [
            f"{source.kind} are not watched: {source.fault}"
            for source in self.sources
            if source.fault and (source.kind is not SECRETS or uses_secrets(self.tables))
        ]
        return wrong + ([self.link.fault] if self.link.fault and self._has_begun else [])

    def _needed(self) -> list[Table[str, Any]]:
        """Tables to wait for. Who uses no secret need not be allowed to read any."""
        tables = self.tables
        return [table for table in tables.sources if table is not tables.passwords or uses_secrets(tables)]

    def _missing(self, seconds: float) -> None:
        """Start a speaker that outlives this process when nobody else does."""
        if seconds < _MISSING_S or (self.launched is not None and self.launched.poll() is None):
            return
        argv = [sys.executable, "-m", "stentor.bgp.command", "--socket", self.link.path]
        argv += ["--bfd-socket", str(self._run_dir / "bfd.sock"), "--state-dir", str(self._run_dir)]
        self.launched = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        log.info("Started a BGP speaker", extra={"pid": self.launched.pid})


def sources(
    tables: BGPTables, database: Database, client: Client, node_name: str, secrets_namespace: str
) -> tuple[Reflector[Any], ...]:
    """What is watched for BGP."""

    def source(
        kind: Kind[Any],
        table: Table[str, Any],
        row_of: Callable[[Any], Any] = lambda obj: configured(obj.metadata, obj.spec),
        *,
        namespace: str = "",
        field_selector: str = "",
        keep: Callable[[str], bool] = lambda _: False,
    ) -> Reflector[Any]:
        return table_source(
            client,
            kind,
            database,
            table,
            row_of=row_of,
            key_of=lambda key: key.name,
            namespace=namespace,
            field_selector=field_selector,
            keep=keep,
        )

    def keep_leaving(name: str) -> bool:
        """A node whose Node is deleted is still here, with what selects it, until it has told its peers."""
        row = tables.nodes.get(name)
        if row is not None:
            database.put(tables.nodes, msgspec.structs.replace(row, is_leaving=True))
        return row is not None

    own = f"metadata.name={node_name}"
    return (
        source(PEERING_POLICIES, tables.policies, _policy_row),
        source(NODE_CONFIGS, tables.node_configs, field_selector=own),
        source(PEER_CONFIGS, tables.peer_configs),
        source(ADVERTISEMENTS, tables.advertisements),
        source(PEER_OPTIONS, tables.peer_options),
        source(INSTANCE_OPTIONS, tables.instance_options),
        source(LB_IP_POOLS, tables.pools, pool_row),
        source(NODES, tables.nodes, node_row, field_selector=own, keep=keep_leaving),
        *([source(SECRETS, tables.passwords, password_row, namespace=secrets_namespace)] if secrets_namespace else []),
    )


def _policy_row(policy: CiliumBGPPeeringPolicy) -> PeeringPolicy | None:
    """None without a spec, which upstream allows."""
    return configured(policy.metadata, policy.spec) if policy.spec is not None else None


def pool_row(pool: CiliumLoadBalancerIPPool) -> Pool:
    """Of a pool; blocks that are wrong are the operator's to report."""
    blocks = []
    for block in pool.spec.blocks:
        try:
            if block.cidr is not None:
                network = ip_network(block.cidr, strict=False)
                blocks.append((Addr.of(network[0]), Addr.of(network[-1])))
            elif block.start is not None:
                blocks.append((Addr.parse(block.start), Addr.parse(block.stop or block.start)))
        except ValueError:
            continue
    return Pool(name=pool.metadata.name, labels=tuple(sorted(pool.metadata.labels.items())), blocks=tuple(blocks))
