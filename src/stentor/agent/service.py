"""Services in the agent: what is watched, what follows, and the maps and socket programs that it ends in.

Services, EndpointSlices, Node, Pods' host ports ─► frontends ─► lb-entries ─► kernel

A service is looked at only when all EndpointSlices are known: an agent that starts again never writes one without its
backends over what its predecessor left.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from stentor.agent.device import Device
from stentor.agent.errors import StartupError
from stentor.agent.health import HealthPorts, healthz, serve
from stentor.agent.recorded import Recorded
from stentor.api.core import ENDPOINT_SLICES, NODES, SERVICES
from stentor.api.pod import PODS
from stentor.datapath.cgroup import CgroupLinks
from stentor.datapath.config import DatapathConfig
from stentor.datapath.errors import AttachError
from stentor.datapath.loader import Datapath
from stentor.datapath.names import Pins
from stentor.datapath.service_socket import SocketEnder
from stentor.datapath.service_target import ServiceTarget
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.kube.source import table_source
from stentor.runtime.config import Values, bind_address, node_port_range
from stentor.runtime.job import JobGroup
from stentor.services import maglev
from stentor.services.claim import ServiceTables
from stentor.services.frontend import Settings
from stentor.services.parse import parse_host_ports, parse_node, parse_service, parse_slice
from stentor.state import Database, Reconciler, Table
from stentor.sys import cgroup
from stentor.sys.bpf import Map
from stentor.sys.namespace import network_cookie
from stentor.tables import service as tables
from stentor.tables.realized import realized
from stentor.tables.service import Algorithm

log = logging.getLogger(__name__)


def make_tables(database: Database) -> ServiceTables:
    """The tables of services, registered."""
    return ServiceTables(
        services=database.add(tables.services()),
        slices=database.add(tables.endpoint_slices()),
        host_ports=database.add(tables.host_ports()),
        nodes=database.add(tables.local_nodes()),
        frontends=database.add(tables.frontends()),
        entries=database.add(tables.lb_entries()),
        realized=database.add(realized("lb-entries")),
    )


class ServiceSources(msgspec.Struct, frozen=True):
    """Watches; `late` ones begin once the others have delivered what there is, and this node is among it: without its Node
    nothing could be decided, and what is in the kernel would be taken for unwanted."""

    early: tuple[Reflector[Any], ...]
    late: tuple[Reflector[Any], ...]
    nodes: Table[str, tables.LocalNode]

    @property
    def all(self) -> tuple[Reflector[Any], ...]:
        return self.early + self.late

    def start(self, jobs: JobGroup) -> None:
        for source in self.early:
            jobs.keep(f"watch-{source.kind}", source.run)
        for source in self.late:
            jobs.keep(f"watch-{source.kind}", functools.partial(self._run_late, source))

    async def _run_late(self, source: Reflector[Any]) -> None:
        for each in self.early:
            await each.synced.wait()
        await self.nodes.until(lambda: len(self.nodes) > 0)
        await source.run()


class BackendView(msgspec.Struct, frozen=True):
    """A backend as the command line shows it."""

    address: str
    state: str


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """A frontend as the command line shows it; `id` is 0 while another service has its address and port."""

    id: int
    frontend: str
    type: str
    namespace: str
    name: str
    port_name: str
    backends: tuple[BackendView, ...]
    problems: tuple[str, ...] = ()


def service_views(own: ServiceTables, target: ServiceTarget | None) -> list[ServiceView]:
    """Every frontend, by its id."""
    views = []
    for row in own.frontends:
        service = own.services.get(row.service)
        protocol = row.entry.key.protocol.name
        shown = row.entry.external if row.entry.external else row.entry.internal
        view = ServiceView(
            id=target.id(row.entry.key) if target and own.entries.get(row.entry.key) == row.entry else 0,
            frontend=str(row.entry.key),
            type=row.type.value,
            namespace=row.service.namespace,
            name=row.service.name,
            port_name=row.port_name,
            backends=tuple(BackendView(f"{each}/{protocol}", each.state.value) for each in shown),
            problems=service.problems if service else (),
        )
        views.append(view)
    return sorted(views, key=lambda view: (view.id, view.frontend))


def sources(database: Database, own: ServiceTables, client: Client, values: Values, node_name: str) -> ServiceSources:
    """What the agent watches for services."""
    proxy = values.k8s.service_proxy_name
    slices = table_source(client, ENDPOINT_SLICES, database, own.slices, row_of=parse_slice, key_of=lambda key: key)
    node = table_source(
        client,
        NODES,
        database,
        own.nodes,
        row_of=parse_node,
        key_of=lambda key: key.name,
        keep=lambda _: True,  # the machine is still here, and so are its clients
        field_selector=f"metadata.name={node_name}",
    )
    services = table_source(
        client,
        SERVICES,
        database,
        own.services,
        row_of=lambda service: parse_service(service, proxy),
        key_of=lambda key: key,
    )
    pods = table_source(
        client,
        PODS,
        database,
        own.host_ports,
        row_of=parse_host_ports,
        key_of=lambda key: key,
        field_selector=f"spec.nodeName={node_name}",
    )
    return ServiceSources((slices, node), (services, pods), own.nodes)


def settings(values: Values, families: tuple[int, ...]) -> Settings:
    """What the configuration says to the derivations."""
    first, last = node_port_range(values.node_port.range)
    return Settings(
        families=families,
        algorithm=Algorithm(values.load_balancer.algorithm),
        allow_algorithm_annotation=values.bpf.lb_algorithm_annotation,
        topology_hints=values.load_balancer.service_topology,
        external_cluster_ip=values.bpf.lb_external_cluster_ip,
        source_range_all_types=values.bpf.lb_source_range_all_types,
        node_port_min=first,
        node_port_max=last,
    )


def with_services(config: DatapathConfig, values: Values) -> DatapathConfig:
    """The programs' constants completed with those of services. Called in the node's network namespace."""
    first, last = node_port_range(values.node_port.range)
    return msgspec.structs.replace(
        config,
        protect_node_ports=values.node_port.bind_protection,
        host_sockets_only=values.socket_lb.host_namespace_only,
        node_port_min=first,
        node_port_max=last,
        host_netns=network_cookie(),
        maglev_size=values.maglev.table_size,
        reject_no_backend=values.service_no_backend_response == "reject",
    )


def target(maps: Mapping[str, Map], values: Values) -> ServiceTarget:
    """The owner of the load-balancing maps."""
    size, seed = values.maglev.table_size, maglev.parse_seed(values.maglev.hash_seed)
    return ServiceTarget(maps, functools.partial(maglev.table, size=size, seed=seed), size)


async def end_stranded_sockets(
    target: ServiceTarget, ender: SocketEnder, namespaces: Callable[[], Iterable[str]]
) -> None:
    """Ends connected UDP sockets, of the host and in pods' `namespaces`, as soon as their backend is gone."""
    loop = asyncio.get_running_loop()
    while True:
        lost = await target.lost()
        count = await loop.run_in_executor(None, ender.end, lost, tuple(namespaces()))
        if count:
            log.info("Ended UDP sockets of backends that are gone", extra={"sockets": count})


def reconciler(database: Database, own: ServiceTables, target: ServiceTarget) -> Reconciler[Any, Any]:
    """Keeps the maps at what `lb-entries` says."""
    return Reconciler("services", own.entries, Recorded(target, own.entries, database, own.realized))


def serve_health(own: ServiceTables, values: Values, jobs: JobGroup) -> None:
    """Answer load balancers: kube-proxy's health endpoint and services' own ports."""
    if values.node_port.enable_health_check:
        jobs.keep("health-check-node-ports", HealthPorts(own).run)
    bind = values.kube_proxy_replacement_healthz_bind_addr
    if bind:
        jobs.keep("healthz", functools.partial(_serve_healthz, own, *bind_address(bind)))


async def _serve_healthz(own: ServiceTables, host: str, port: int) -> None:
    runner = await serve(healthz(own), host, port)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def accelerate(datapath: Datapath, device: Device, values: Values) -> None:
    """Put XDP in front of an uplink as `loadBalancer.acceleration` says; StartupError where it has to be and cannot."""
    wanted = values.load_balancer.acceleration
    if wanted == "disabled":
        return
    try:
        datapath.accelerate_uplink(device.index)
    except AttachError as e:
        if wanted == "native":
            raise StartupError(f"loadBalancer.acceleration: native: {device.name}: {e}") from e
        log.warning("An uplink has no native XDP", extra={"device": device.name, "error": str(e)})


def attach(datapath: Datapath, pins: Pins, values: Values) -> None:
    """Put the socket programs on every process of the machine, or take them away when they are off."""
    links = CgroupLinks(datapath.programs, pins, cgroup.root())
    if values.socket_lb.enabled:
        links.attach()
    else:
        links.detach()
