"""The agent's start, step by step, and what it keeps doing.

    devices → maps and programs → attach → addresses and prefixes → restored endpoints → tables into the kernel → serve

Nothing is removed from the kernel before its table is complete, and pods are served last: whatever a predecessor left works
on from the first moment to the last.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from stentor.agent import device, service, wiring
from stentor.agent.bgp import BGPControl
from stentor.agent.conflist import write_conflist
from stentor.agent.device import OwnDevices, Underlay
from stentor.agent.endpoint import Endpoints, LinkSettings
from stentor.agent.l2 import Announcements
from stentor.agent.node import LocalNode
from stentor.agent.publish import report_network_ready
from stentor.agent.resolver import Resolver
from stentor.agent.server import Acceptor, CniServer
from stentor.agent.state import Tables
from stentor.agent.store import StateDirectory
from stentor.datapath import connection, service_flow
from stentor.datapath.config import DatapathConfig
from stentor.datapath.loader import Datapath
from stentor.datapath.names import Pins
from stentor.datapath.service_socket import SocketEnder
from stentor.datapath.service_target import ServiceTarget
from stentor.ipam.address import NodePools
from stentor.kube.client import Client
from stentor.kube.errors import ApiError
from stentor.kube.reflector import Reflector
from stentor.net.address import Addr, Prefix
from stentor.net.identity import cluster_shift
from stentor.policy.compile import write_base_classes
from stentor.runtime.config import Values
from stentor.runtime.duration import parse_duration_s
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup
from stentor.runtime.memory import give_back
from stentor.services.claim import derive as derive_services
from stentor.state import Graph, Reconciler
from stentor.tables.endpoint import Endpoint
from stentor.tables.masquerade import Uplink
from stentor.tables.node import Node

_ROUTER: Final = "router"
_GC_INTERVAL_S: Final = 30.0
_DELETIONS_INTERVAL_S: Final = 10.0

log = logging.getLogger(__name__)


class Paths(msgspec.Struct, frozen=True):
    """Where the agent finds and leaves things on its machine."""

    state: Path = Path("/var/lib/stentor")
    run: Path = Path("/run/stentor")
    bpffs: Path = Path("/sys/fs/bpf")
    cni_conf: Path = Path("/etc/cni/net.d")
    launches_bgp: bool = True


class Agent:
    """All of an agent's parts. `start` returns when pods can be served; jobs go on until the group ends."""

    def __init__(self, values: Values, client: Client, node_name: str, paths: Paths) -> None:
        self.values = values
        self.client = client
        self.paths = paths
        self.started_at = time.time()
        self.bootstrap_s = 0.0
        self.health = Health()
        self.tables = Tables()
        self.routers: tuple[Addr, ...] = ()
        self.families = tuple(f for f, on in ((4, values.ipv4.enabled), (6, values.ipv6.enabled)) if on)
        self.pools = NodePools()
        self.store = StateDirectory(paths.state)
        self.link_thread = ThreadPoolExecutor(1, "link")
        self.node = LocalNode(client, node_name, self.store, cluster=values.cluster.name, families=self.families)
        self.sources: tuple[Reflector[Any], ...] = wiring.sources(
            self.tables, client, values, node_name, own_row=self._own_row, own_gone=self._note_deletion
        )
        self.service_sources = service.sources(self.tables.database, self.tables.services, client, values, node_name)
        self.bgp: BGPControl | None = None
        if values.bgp_control_plane.enabled:
            launches = paths.launches_bgp
            self.bgp = BGPControl(self.tables, client, values, node_name, paths.run, launches=launches)
        self.l2: Announcements | None = None
        if values.l2announcements.enabled:
            self.l2 = Announcements(client, self.tables.database, self.tables.l2, values, node_name, self.health)
            self.sources += self.l2.sources
        self.endpoints = Endpoints(
            self.tables.database, self.tables.endpoints, self.pools, self.store, self.families, self.link_thread
        )
        self.resolver = Resolver(
            self.endpoints,
            self.tables.pods,
            self.tables.pod_labels,
            self.tables.identities,
            self.tables.realized_entries,
            grace_s=parse_duration_s(values.identity_change_grace_period),
        )
        self.cni = CniServer(self.endpoints, self.store, in_force=self._put_in_force, obstacle=lambda: self.obstacle)
        self.obstacle = "the agent is starting"
        self._is_unannounced = False
        self._node_changed = asyncio.Event()
        self.underlay: Underlay | None = None
        self.devices: OwnDevices | None = None
        self.datapath: Datapath | None = None
        self.service_target: ServiceTarget | None = None
        self.graph: Graph | None = None
        self.reconcilers: tuple[Reconciler[Any, Any], ...] = ()
        self._policy_writers: tuple[Reconciler[Any, Any], ...] = ()
        self.collected: connection.Collected | None = None

    @property
    def watches(self) -> tuple[Reflector[Any], ...]:
        """All that it watches, whatever for; BGP says by itself what it lacks."""
        return self.sources + self.service_sources.all

    async def start(self, jobs: JobGroup) -> Acceptor:
        """Bring everything up; returns the CNI socket's server."""
        for source in self.sources:
            jobs.keep(f"watch-{source.kind}", source.run)
        self.service_sources.start(jobs)
        facts = await self.node.discover(needs_prefixes=self.values.ipam.mode == "kubernetes")
        addresses = tuple(addr for _, addr in facts.addresses)
        await self._load_datapath(addresses)
        assert self.underlay is not None
        prefixes = await self._find_prefixes()
        await self._set_up_addresses(prefixes)
        restored = await self.endpoints.restore()
        node = next((addr for _, addr in facts.addresses if addr.family == self.underlay.families[0]), addresses[0])
        await self._fill_kernel(jobs, node)
        self._serve_pods(jobs)
        service.serve_health(self.tables.services, self.values, jobs)
        server = await self.cni.serve(self.paths.run / "cni.sock")
        jobs.every("stored-deletions", _DELETIONS_INTERVAL_S, self.cni.work_off_deletions)
        jobs.once("announce", self._announce())
        self.obstacle = ""
        self.bootstrap_s = time.time() - self.started_at
        log.info("Ready", extra={"restored": restored, "seconds": f"{self.bootstrap_s:.3f}"})
        give_back()
        return server

    async def gone_devices(self) -> list[str]:
        """Own devices that are there no more. Programs know them by their indexes: only the next start can mend that."""
        return await self._on_link_thread(device.gone_devices, self.devices) if self.devices is not None else []

    async def _load_datapath(self, addresses: tuple[Addr, ...]) -> None:
        values = self.values
        self.underlay = await self._on_link_thread(device.find_underlay, addresses, values.devices, values.mtu)
        await self._on_link_thread(device.set_forwarding, self.families)
        self.devices = await self._on_link_thread(device.make_devices, self.underlay.mtu, values.tunnel_port)
        config = DatapathConfig(
            overlay_ifindex=self.devices.overlay,
            dual_stack=self.families == (4, 6),
            cluster_id_shift=cluster_shift(values.clustermesh.max_connected_clusters),
            tunnel_port=values.tunnel_port,
            overlay_source=None if values.bpf.host_legacy_routing else self.underlay.tunnel_source(addresses),
            masquerade_ipv4=values.enable_ipv4_masquerade and 4 in self.families,
            masquerade_ipv6=values.enable_ipv6_masquerade and 6 in self.families,
            l2_announcements=values.l2announcements.enabled,
        )
        self.datapath = await self._on_link_thread(self._load_programs, service.with_services(config, values))
        self._write_uplinks(addresses)
        log.info("Loaded the datapath", extra={"seconds": f"{time.time() - self.started_at:.3f}"})

    def _load_programs(self, config: DatapathConfig) -> Datapath:
        bpf = msgspec.to_builtins(self.values.bpf)
        limits = {name: value for name, value in bpf.items() if name.endswith("Max")}
        datapath = Datapath.load(
            Pins(self.paths.bpffs),
            config,
            limits=limits,
            enable_tcx=self.values.bpf.enable_tcx,
            accelerate=self.values.load_balancer.acceleration != "disabled",
        )
        assert self.devices is not None
        assert self.underlay is not None
        datapath.attach_overlay(self.devices.overlay)
        datapath.attach_host(self.devices.host)
        for each in self.underlay.devices:
            datapath.attach_uplink(each.index)
            service.accelerate(datapath, each, self.values)
        service.attach(datapath, Pins(self.paths.bpffs), self.values)
        return datapath

    def _write_uplinks(self, own: tuple[Addr, ...]) -> None:
        assert self.underlay is not None
        for each in self.underlay.devices:
            # The node's own address is better known than a further one of the same device.
            ordered = sorted(each.addresses, key=lambda addr: addr not in own)
            ipv4 = next((addr for addr in ordered if addr.family == 4), None)
            ipv6 = next((addr for addr in ordered if addr.family == 6), None)
            row = Uplink(
                ifindex=each.index,
                ipv4=ipv4 if self.values.enable_ipv4_masquerade else None,
                ipv6=ipv6 if self.values.enable_ipv6_masquerade else None,
            )
            self.tables.database.put(self.tables.uplinks, row)

    async def _find_prefixes(self) -> tuple[Prefix, ...]:
        """Pod CIDRs: remembered ones, or as soon as there are some."""
        prefixes = self.node.learn_prefixes(self.tables.nodes)
        if self.node.has_all(prefixes):
            return prefixes
        self.obstacle = "no pod CIDR has been allocated to this node yet"
        await self.node.announce((), own_cidrs=self.values.ipam.mode == "kubernetes")
        await self.tables.nodes.until(lambda: self.node.has_all(self.node.learn_prefixes(self.tables.nodes)))
        return self.node.learn_prefixes(self.tables.nodes)

    async def _set_up_addresses(self, prefixes: tuple[Prefix, ...]) -> None:
        """Router addresses: the predecessor's when they fit, else the first of each prefix."""
        self.pools.set_prefixes(prefixes)
        present = await self._on_link_thread(device.router_addresses)
        routers = []
        for family in self.families:
            pool = self.pools.pool(family)
            kept = next((addr for addr in present if pool.prefix.covers(addr)), None)
            if kept is not None:
                pool.reserve(kept, _ROUTER)
            routers.append(kept if kept is not None else pool.allocate(_ROUTER))
        self.routers = tuple(routers)
        words = ",".join(map(str, prefixes))
        log.info("Got pod CIDRs", extra={"podCIDRs": words, "seconds": f"{time.time() - self.started_at:.3f}"})
        await self._on_link_thread(device.start_devices, self.routers)
        key = (self.values.cluster.name, self.node.name)
        row = self.tables.nodes.get(key) or Node(name=key[1], cluster=key[0], pod_cidrs=prefixes, is_local=True)
        self.tables.database.put(self.tables.nodes, self._own_row(row))

    def _own_row(self, row: Node) -> Node:
        """This node's row: its addresses are known here first, its prefixes by the API."""
        facts = self.node.facts
        if facts is None:
            return row
        routers = (("CiliumInternalIP", router) for router in self.routers)
        return msgspec.structs.replace(row, addresses=(*facts.addresses, *routers), source="local")

    async def _fill_kernel(self, jobs: JobGroup, node: Addr) -> None:
        """Derive, and write once in order: rules, sets, endpoints, then the rest. Then keep it so."""
        assert self.underlay is not None
        assert self.datapath is not None
        loop = asyncio.get_running_loop()
        write_base_classes(self.tables.database, self.tables.policy_rules)
        self.graph = wiring.derive(
            self.tables,
            self.values,
            loop.call_soon,
            node=node,
            underlay=self.underlay.families,
            route_mtu=self.underlay.route_mtu,
        )
        derive_services(self.graph, self.tables.services, service.settings(self.values, self.families))
        self.service_target = service.target(self.datapath.maps, self.values)
        if self.l2 is not None:
            self.l2.derive(self.graph)
        self.reconcilers = (
            *wiring.reconcile(self.tables, self.datapath.maps, self.client, self.link_thread, node=node),
            balancer := service.reconciler(self.tables.database, self.tables.services, self.service_target),
            *((self.l2.reconciler(self.datapath),) if self.l2 is not None else ()),
        )
        self._policy_writers = tuple(each for each in self.reconcilers if each.name in wiring.POLICY_WRITERS)
        for reconciler in self.reconcilers:
            self.graph.settle()
            if reconciler.name != "cilium-endpoints":  # the API may be away; the kernel is not
                await reconciler.step()
        for reconciler in self.reconcilers:
            jobs.keep(f"reconcile-{reconciler.name}", reconciler.run)
        if self.values.socket_lb.enabled:
            ender = SocketEnder(self.datapath.maps["lb_origins"])
            work = functools.partial(service.end_stranded_sockets, self.service_target, ender, self._socket_namespaces)
            jobs.keep("end-stranded-sockets", work)
        if self.bgp is not None:
            self.bgp.start(jobs, self.graph, balancer, self.service_sources, self.link_thread)
        if self.l2 is not None:
            self.l2.start(jobs, self.link_thread, [each.name for each in self.underlay.devices])

    def _socket_namespaces(self) -> list[str]:
        """Network namespaces of the pods whose sockets are translated, and that the configuration lets us end."""
        sockets = self.values.socket_lb
        if sockets.host_namespace_only or not sockets.terminate_pod_connections:
            return []
        return [row.netns for row in self.tables.endpoints]

    async def _put_in_force(self, endpoint: Endpoint) -> None:
        """The end of an ADD: write what a pod with an identity must have now, not when the jobs have their turns."""
        assert self.graph is not None
        if self.resolver.has_identity(endpoint):
            for reconciler in self._policy_writers:
                self.graph.settle_for(reconciler.table)
                await reconciler.flush()
            await self.resolver.in_force(endpoint)

    def _serve_pods(self, jobs: JobGroup) -> None:
        assert self.underlay is not None
        assert self.datapath is not None
        self.endpoints.settings = LinkSettings(
            mtu=self.underlay.mtu,
            route_mtu=self.underlay.route_mtu,
            sources=self.routers,
            attach=self.datapath.endpoint_messages,
        )
        jobs.keep("resolve-identities", self.resolver.run)
        jobs.keep("delete-devices", self.endpoints.bury)
        jobs.every("collect-connections", _GC_INTERVAL_S, self._collect)
        jobs.keep("follow-prefixes", self._follow_prefixes)

    async def _collect(self) -> None:
        assert self.datapath is not None
        maps, loop = self.datapath.maps, asyncio.get_running_loop()
        self.collected = await loop.run_in_executor(None, connection.collect, maps)
        await loop.run_in_executor(None, service_flow.collect, maps)

    async def _follow_prefixes(self) -> None:
        """A node whose prefixes change uses the new ones for new pods."""
        changed = self._node_changed
        tracker = self.tables.nodes.track(wake=changed.set)
        try:
            while True:
                changed.clear()
                tracker.drain()
                self.pools.set_prefixes(self.node.learn_prefixes(self.tables.nodes))
                if self._is_unannounced:
                    self._is_unannounced = False
                    await self.node.announce(self.routers, own_cidrs=self.values.ipam.mode == "kubernetes")
                await changed.wait()
        finally:
            tracker.close()

    def _note_deletion(self) -> None:
        """Somebody deleted our CiliumNode: without it no other node reaches our pods."""
        self._is_unannounced = True
        self._node_changed.set()

    async def _announce(self) -> None:
        """Tell the cluster: the full CiliumNode, the runtime's configuration, the node's condition."""
        write_conflist(self.paths.cni_conf, exclusive=self.values.cni.exclusive)
        await self.node.announce(self.routers, own_cidrs=self.values.ipam.mode == "kubernetes")
        while True:
            try:
                await report_network_ready(self.client, self.node.name)
                return
            except ApiError as e:
                log.info("Node condition is not written yet", extra={"error": e.message})
                await asyncio.sleep(1)

    async def _on_link_thread(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.link_thread, call, *arguments)

    def close(self) -> None:
        """Let go of the kernel; what is pinned stays and works on."""
        self.link_thread.shutdown(wait=True)
        if self.l2 is not None:
            self.l2.close()
        if self.datapath is not None:
            self.datapath.close()
