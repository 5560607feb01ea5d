"""This node: what the API says of it, and what is remembered while the API is silent."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from stentor.agent.publish import publish_node
from stentor.agent.store import NodeFacts, StateDirectory
from stentor.api.core import NODES, Node
from stentor.kube.client import Client
from stentor.kube.errors import ApiError, Forbidden
from stentor.net.address import Addr, Prefix
from stentor.state import Table
from stentor.tables.node import Node as NodeRow

_POLL_S = 0.05
_SLOW_POLL_S = 1.0
_KINDS = ("InternalIP", "ExternalIP")

log = logging.getLogger(__name__)


class LocalNode:
    """Facts about this node, kept on disk. `facts` is None before the node was ever seen."""

    def __init__(
        self, client: Client, name: str, store: StateDirectory, *, cluster: str, families: tuple[int, ...]
    ) -> None:
        self.name = name
        self.facts: NodeFacts | None = store.load_node()
        self._client = client
        self._store = store
        self._cluster = cluster
        self._families = families

    async def discover(self, *, needs_prefixes: bool) -> NodeFacts:
        """Wait for the Node object with an InternalIP, and with a pod CIDR of every family when `needs_prefixes`; facts of
        an earlier life do when the API does not answer."""
        pause_s = _POLL_S
        while True:
            try:
                node = await self._client.get(NODES, self.name)
                found = self._facts_of(node)
                missing = self._missing(found, needs_prefixes)
                if not missing:
                    self._remember(found)
                    return found
                log.info(f"Node has no {missing} yet", extra={"node": self.name})
            except ApiError as e:
                if self.facts is not None and not isinstance(e, Forbidden):
                    log.warning("Using what is remembered of this node", extra={"error": e.message})
                    return self.facts
                log.info("Waiting for the Node object", extra={"node": self.name, "error": e.message})
            await asyncio.sleep(pause_s)
            pause_s = min(_SLOW_POLL_S, pause_s * 1.5)

    def _missing(self, facts: NodeFacts, needs_prefixes: bool) -> str:
        if not any(kind == "InternalIP" for kind, _ in facts.addresses):
            return "InternalIP"
        prefixes = tuple(map(Prefix.parse, facts.node_pod_cidrs))
        return "podCIDR of every family" if needs_prefixes and not self.has_all(prefixes) else ""

    def _facts_of(self, node: Node) -> NodeFacts:
        addresses = []
        for address in node.status.addresses:
            if address.type in _KINDS:
                try:
                    addresses.append((address.type, Addr.parse(address.address)))
                except ValueError:
                    log.warning("Ignored an address of the node", extra={"address": address.address})
        before = self.facts or NodeFacts()
        cidrs = node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
        return NodeFacts(
            uid=node.metadata.uid,
            addresses=tuple(addresses),
            pod_cidrs=before.pod_cidrs,
            node_pod_cidrs=cidrs,
            labels=node.metadata.labels,
        )

    def _remember(self, facts: NodeFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            self._store.save_node(facts)

    async def announce(self, routers: tuple[Addr, ...], *, own_cidrs: bool) -> None:
        """Write the CiliumNode; tries until the API takes it (its CRD may still be on the way)."""
        facts = self.facts
        assert facts is not None
        pause_s = _POLL_S
        while True:
            try:
                await publish_node(
                    self._client,
                    self.name,
                    uid=facts.uid,
                    labels=facts.labels,
                    addresses=(*facts.addresses, *(("CiliumInternalIP", router) for router in routers)),
                    pod_cidrs=self._announced_prefixes(own_cidrs),
                )
                return
            except ApiError as e:
                log.info("CiliumNode is not written yet", extra={"error": e.message})
            await asyncio.sleep(pause_s)
            pause_s = min(_SLOW_POLL_S, pause_s * 1.5)

    def _announced_prefixes(self, own_cidrs: bool) -> tuple[str, ...] | None:
        """The Node's in mode kubernetes, else those in use: a CiliumNode made anew must not get others. None before there
        are any."""
        assert self.facts is not None
        return self.facts.node_pod_cidrs if own_cidrs else self.facts.pod_cidrs or None

    def learn_prefixes(self, nodes: Table[tuple[str, str], NodeRow]) -> tuple[Prefix, ...]:
        """The pod CIDRs that this node has now: what its CiliumNode says, or what is remembered."""
        row = nodes.get((self._cluster, self.name))
        if row is not None and row.pod_cidrs and self.facts is not None:
            self._remember(msgspec.structs.replace(self.facts, pod_cidrs=tuple(map(str, row.pod_cidrs))))
        texts = self.facts.pod_cidrs if self.facts is not None else ()
        return tuple(prefix for prefix in map(Prefix.parse, texts) if prefix.family in self._families)

    def has_all(self, prefixes: tuple[Prefix, ...]) -> bool:
        """Whether every family has a prefix."""
        return {prefix.family for prefix in prefixes} >= set(self._families)
