"""BGP in the operator: CiliumBGPClusterConfigs → CiliumBGPNodeConfigs, and conditions of everything that users write.

cluster configurations, overrides, Nodes ─► assignment ─► bgp-node-configs-wanted ─► CiliumBGPNodeConfigs
all of them, peer configurations, policies, options, Secrets ─► judgement ─► conditions-wanted, events
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from stentor.api.bgp import (
    ADVERTISEMENTS,
    CLUSTER_CONFIGS,
    NODE_CONFIG_OVERRIDES,
    NODE_CONFIGS,
    PEER_CONFIGS,
    CiliumBGPNodeConfig,
    CiliumBGPNodeSpec,
)
from stentor.api.core import NAMESPACES, SECRETS, Namespace, ObjectReference
from stentor.api.meta import Kind, ObjectMeta, OwnerReference, Resource
from stentor.api.peering import PEERING_POLICIES
from stentor.api.stentor import INSTANCE_OPTIONS, PEER_OPTIONS, SECRETS_LABEL
from stentor.bgp.resource.cluster import Assignment, assign, node_spec
from stentor.bgp.resource.routerid import InstanceKey, allocate
from stentor.bgp.resource.secret import password_row, passwords
from stentor.bgp.resource.verdict import Cluster, judge
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import ApiError, NotFound
from stentor.kube.event import EventRecorder
from stentor.kube.reflector import Reflector
from stentor.kube.source import table_source
from stentor.kube.target import ObjectTarget
from stentor.net.address import Addr, Prefix
from stentor.operator.condition import resource_source
from stentor.runtime.config import BGPControlPlane
from stentor.runtime.duration import Durations
from stentor.state import Database, Reconciler, Table
from stentor.tables import bgp as rows
from stentor.tables.condition import Judged, Observed, ResourceKey
from stentor.tables.owner import KnownNode

_LINGER_S: Final = 0.01
OWNER_KIND: Final = CLUSTER_CONFIGS.kind
_TOLD_ABOUT: Final[tuple[Kind[Any], ...]] = (PEERING_POLICIES, ADVERTISEMENTS)

R = TypeVar("R", bound=Resource)

log = logging.getLogger(__name__)


class NodeConfigRow(msgspec.Struct, frozen=True):
    """A CiliumBGPNodeConfig, wanted or there, and the cluster configuration to which it belongs; none when it is not ours."""

    name: str
    spec: CiliumBGPNodeSpec
    owner: str = ""
    owner_uid: str = ""


def node_config_row(config: CiliumBGPNodeConfig) -> NodeConfigRow:
    """The row of an object."""
    owner = next((each for each in config.metadata.owner_references if each.kind == OWNER_KIND), None)
    return NodeConfigRow(config.metadata.name, config.spec, owner.name if owner else "", owner.uid if owner else "")


class ClusterBGP:
    """The part of the operator that is about BGP: its tables, sources and reconciler. `errors` are failed writes, by
    cluster configuration, `runs` how long decisions took."""

    def __init__(
        self,
        values: BGPControlPlane,
        client: Client,
        database: Database,
        nodes: Table[str, KnownNode],
        conditions: Table[ResourceKey, Observed],
        judged: Table[ResourceKey, Judged],
    ) -> None:
        self.values = values
        self._client = client
        self._database = database
        self._nodes = nodes
        self._conditions = conditions
        self._judged = judged
        add = database.add
        self.configs = add(rows.cluster_configs())
        self.peer_configs = add(rows.peer_configs())
        self.advertisements = add(rows.advertisements())
        self.overrides = add(rows.node_config_overrides())
        self.policies = add(rows.peering_policies())
        self.peer_options = add(rows.peer_options())
        self.instance_options = add(rows.instance_options())
        self.passwords = add(passwords())
        self.present: Table[str, NodeConfigRow] = add(Table("bgp-node-configs", lambda row: row.name))
        self.wanted: Table[str, NodeConfigRow] = add(Table("bgp-node-configs-wanted", lambda row: row.name))
        self.wanted.expect("assignment")
        self.sources = self._sources()
        self.errors: Counter[str] = Counter()
        self.runs = Durations()
        target = NodeConfigTarget(client, database, self.present, self.errors)
        self.reconciler: Reconciler[Any, Any] = Reconciler("bgp-node-configs", self.wanted, target)
        self._events = EventRecorder(client, "cilium-operator")
        self._told: dict[tuple[str, str], tuple[str, ...]] = {}
        self._untold: asyncio.Queue[tuple[ObjectReference, str]] = asyncio.Queue()

    @property
    def inputs(self) -> tuple[Table[str, Any], ...]:
        """All that the decisions depend on."""
        return (
            *(self._nodes, self.configs, self.peer_configs, self.advertisements, self.overrides, self.policies),
            *(self.peer_options, self.instance_options, self.passwords, self.present),
        )

    def _sources(self) -> tuple[Reflector[Any], ...]:
        def source(kind: Kind[Any], table: Table[str, Any], spec_of: Callable[[Any], Any] = _spec) -> Reflector[Any]:
            return resource_source(self._client, kind, self._database, table, self._conditions, spec_of)

        found = [
            source(CLUSTER_CONFIGS, self.configs),
            source(PEER_CONFIGS, self.peer_configs),
            source(ADVERTISEMENTS, self.advertisements),
            source(NODE_CONFIG_OVERRIDES, self.overrides),
            source(PEERING_POLICIES, self.policies),
            source(PEER_OPTIONS, self.peer_options),
            source(INSTANCE_OPTIONS, self.instance_options),
            self._rows(NODE_CONFIGS, self.present, node_config_row),
        ]
        if self.values.secrets_namespace.name:
            namespace = self.values.secrets_namespace.name
            found.append(self._rows(SECRETS, self.passwords, password_row, namespace))
        return tuple(found)

    def _rows(
        self, kind: Kind[R], table: Table[str, Any], row_of: Callable[[R], Any], namespace: str = ""
    ) -> Reflector[R]:
        return table_source(
            self._client,
            kind,
            self._database,
            table,
            row_of=row_of,
            key_of=lambda key: key.name,
            namespace=namespace,
        )

    # ---- decisions

    def settle(self) -> None:
        """Decide anew. Nothing is decided before everything is known: a configuration could be one unseen's."""
        if not all(table.is_synced for table in self.inputs):
            return
        began = time.monotonic()
        cluster = self.cluster()
        present = {row.name: row.owner for row in self.present}
        assignment = assign(cluster.configs, cluster.nodes, present)
        wanted = {node: self._node_config(node, config) for node, config in assignment.runs.items()}
        faults = self._identify(wanted)
        with self._database.write() as txn:
            for name in [row.name for row in self.wanted if row.name not in wanted]:
                txn.delete(self.wanted, name)
            for row in wanted.values():
                txn.put(self.wanted, row)
        if any(self.present.get(row.name) != row for row in wanted.values()):
            self.reconciler.compare_soon()  # somebody else may have changed or deleted one
        self._judge(msgspec.structs.replace(cluster, faults=faults), assignment)
        self.wanted.synced("assignment")
        self.runs.add(time.monotonic() - began)

    def cluster(self) -> Cluster:
        """Everything as the decisions take it."""
        return Cluster(
            nodes={row.name: row.labels for row in self._nodes},
            configs=dict(self.configs.items()),
            peer_configs=dict(self.peer_configs.items()),
            advertisements=tuple(self.advertisements),
            overrides=dict(self.overrides.items()),
            policies=dict(self.policies.items()),
            peer_options=dict(self.peer_options.items()),
            instance_options=dict(self.instance_options.items()),
            passwords=dict(self.passwords.items()),
            secrets_namespace=self.values.secrets_namespace.name,
        )

    def _node_config(self, node: str, config: str) -> NodeConfigRow:
        row = self.configs[config]
        return NodeConfigRow(node, node_spec(row.spec, self.overrides.get(node)), row.name, row.uid)

    def _identify(self, wanted: dict[str, NodeConfigRow]) -> dict[str, tuple[str, ...]]:
        """Give instances without an identifier one of the pool, if there is a pool; what is wrong, by cluster configuration."""
        if self.values.router_id_allocation.mode != "ip-pool":
            return {}
        pool = Prefix.parse(self.values.router_id_allocation.ip_pool)
        fixed = {(row.name, each.name): each.router_id for row in wanted.values() for each in row.spec.bgp_instances}
        given = allocate(
            pool,
            [key for key, router_id in fixed.items() if router_id is None],
            dict(_identifiers(self.present)),
            {Addr.parse(router_id) for router_id in fixed.values() if router_id is not None},
        )
        faults: dict[str, tuple[str, ...]] = {}
        for row in list(wanted.values()):
            instances = tuple(
                each
                if each.router_id is not None or (row.name, each.name) not in given
                else msgspec.structs.replace(each, router_id=str(given[row.name, each.name]))
                for each in row.spec.bgp_instances
            )
            wanted[row.name] = msgspec.structs.replace(row, spec=CiliumBGPNodeSpec(bgp_instances=instances))
            if any(each.router_id is None for each in instances):
                faults[row.owner] = (f"bgpControlPlane.routerIDAllocation.ipPool: {pool} has too few addresses",)
        return faults

    def _judge(self, cluster: Cluster, assignment: Assignment) -> None:
        judgement = judge(cluster, assignment)
        verdicts = {row.key: row for row in judgement.conditions}
        if not self.values.status_report.enabled:
            verdicts = {key: msgspec.structs.replace(row, verdicts=()) for key, row in verdicts.items()}
        plurals = {kind.plural for kind in (CLUSTER_CONFIGS, PEER_CONFIGS, PEER_OPTIONS, INSTANCE_OPTIONS)}
        with self._database.write() as txn:
            for key in [row.key for row in self._judged if row.key.plural in plurals and row.key not in verdicts]:
                txn.delete(self._judged, key)
            for row in verdicts.values():
                txn.put(self._judged, row)
        told = dict(judgement.told)
        for (kind, name), texts in told.items():
            for text in texts:
                if text not in self._told.get((kind, name), ()):
                    self._untold.put_nowait((self._reference(kind, name), text))
        self._told = told

    def _reference(self, kind: str, name: str) -> ObjectReference:
        found = next(each for each in _TOLD_ABOUT if each.kind == kind)
        observed = self._conditions.get(ResourceKey(found.plural, name))
        uid = observed.uid if observed is not None else ""
        return ObjectReference(kind=kind, api_version=found.api_version, name=name, uid=uid)

    # ---- jobs

    async def run(self) -> None:
        """Decide after changes until cancelled; those that come together cost one decision."""
        changed = asyncio.Event()
        changed.set()
        trackers = [table.track(replay=False, wake=changed.set) for table in self.inputs]
        while True:
            await changed.wait()
            await asyncio.sleep(_LINGER_S)
            changed.clear()
            for tracker in trackers:
                tracker.drain()
            self.settle()

    async def tell(self) -> None:
        """Events about objects that have no status, until cancelled."""
        while True:
            about, text = await self._untold.get()
            await self._events.record(about, "InvalidConfiguration", text, warning=True)

    async def mark_namespace(self) -> None:
        """Let agents read the Secrets of the configured namespace, and of no other; make it if the values say so."""
        name = self.values.secrets_namespace.name
        marked = await self._client.list(NAMESPACES, label_selector=f"{SECRETS_LABEL}=true")
        for other in marked.items:
            if other.metadata.name != name:
                change = patch.merge({"metadata": {"labels": {SECRETS_LABEL: None}}})
                await self._client.patch(NAMESPACES, other.metadata.name, change)
        if not name or any(each.metadata.name == name for each in marked.items):
            return
        try:
            change = patch.merge({"metadata": {"labels": {SECRETS_LABEL: "true"}}})
            await self._client.patch(NAMESPACES, name, change)
        except NotFound:
            if self.values.secrets_namespace.create:
                made = Namespace(metadata=ObjectMeta(name=name, labels={SECRETS_LABEL: "true"}))
                await self._client.create(NAMESPACES, made)

    async def keep_namespace(self, pause_s: float = 10.0) -> None:
        """As `mark_namespace`, again and again until cancelled."""
        while True:
            try:
                await self.mark_namespace()
            except ApiError as e:
                log.info("The namespace of BGP's secrets is not marked yet", extra={"error": e.message})
                await asyncio.sleep(1.0)
                continue
            await asyncio.sleep(pause_s)


def _identifiers(rows: Iterable[NodeConfigRow]) -> Iterator[tuple[InstanceKey, Addr]]:
    for row in rows:
        for each in row.spec.bgp_instances:
            with contextlib.suppress(ValueError):
                if each.router_id is not None:
                    yield (row.name, each.name), Addr.parse(each.router_id)


def _spec(obj: Any) -> Any:
    return obj.spec


class NodeConfigTarget(ObjectTarget[str, NodeConfigRow]):
    """Writes CiliumBGPNodeConfigs. What is there is what the table of present ones says. `errors` is counted up by owner."""

    def __init__(
        self, client: Client, database: Database, present: Table[str, NodeConfigRow], errors: Counter[str]
    ) -> None:
        super().__init__()
        self._errors = errors
        self._client = client
        self._database = database
        self._present = present

    async def apply(
        self, upserts: Sequence[tuple[str, NodeConfigRow]], deletes: Sequence[str]
    ) -> Mapping[str, Exception]:
        owners = {row.name: row.owner for row in self._present} | {name: row.owner for name, row in upserts}
        failed = await super().apply(upserts, deletes)
        self._errors.update(owners.get(name, "") for name in failed)
        return failed

    async def write(self, row: NodeConfigRow) -> None:
        """Create it or change what differs. One that is not ours is left alone."""
        there = self._present.get(row.name)
        if there == row or (there is not None and not there.owner):
            return
        owner = OwnerReference(
            api_version=CLUSTER_CONFIGS.api_version, kind=OWNER_KIND, name=row.owner, uid=row.owner_uid, controller=True
        )
        if there is None:
            metadata = ObjectMeta(name=row.name, owner_references=(owner,))
            made = await self._client.create(NODE_CONFIGS, CiliumBGPNodeConfig(metadata=metadata, spec=row.spec))
        else:
            change = patch.merge({"metadata": {"ownerReferences": [owner]}, "spec": row.spec})
            made = await self._client.patch(NODE_CONFIGS, row.name, change)
        self._database.put(self._present, node_config_row(made))

    async def remove(self, key: str) -> None:
        """Delete it if it is ours."""
        there = self._present.get(key)
        if there is not None and there.owner:
            with contextlib.suppress(NotFound):
                await self._client.delete(NODE_CONFIGS, key)

    async def dump(self) -> Mapping[str, NodeConfigRow]:
        """From the table, which mirrors the API; others' are no business of ours."""
        return {row.name: row for row in self._present if row.owner}
