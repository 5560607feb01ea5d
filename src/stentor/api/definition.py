"""Which CustomResourceDefinitions there are: names, columns and versions as upstream's, and the values that need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from stentor.api import bgp, l2, lbipam, peering, stentor
from stentor.api.cilium import CILIUM_ENDPOINTS, CILIUM_IDENTITIES, CILIUM_NODES
from stentor.api.meta import JsonObject, Kind
from stentor.runtime.config import Values


class PrinterColumn(NamedTuple):
    """A column of `kubectl get`; priority 1 shows only with `-o wide`."""

    name: str
    type: str
    path: str
    description: str = ""
    priority: int = 0


class Older(NamedTuple):
    """A version that is served but not stored: the stored one's schema, and fields that went out of use since."""

    name: str
    fields: tuple[tuple[str, JsonObject], ...] = ()
    """Where (`spec.peers[].port`) and their schemas. The API server takes them and forgets them."""


class Definition(NamedTuple):
    """What a CRD says beyond the schema. `kind` has the version that is stored."""

    kind: Kind[Any]
    short_names: tuple[str, ...]
    columns: tuple[PrinterColumn, ...] = ()
    has_status: bool = False
    categories: tuple[str, ...] = ("cilium",)
    older: tuple[Older, ...] = ()
    needed: Callable[[Values], bool] = lambda _: True
    """Whether an installation with these values needs it."""

    @property
    def name(self) -> str:
        """Name of the CRD."""
        return str(self.kind)

    @property
    def versions(self) -> tuple[str, ...]:
        """Names of the served versions, the stored one first."""
        return (self.kind.version, *(older.name for older in self.older))


_AGE: Final = PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time duration since creation")

_BASE: Final = (
    Definition(
        CILIUM_NODES,
        ("cn", "ciliumn"),
        (
            PrinterColumn(
                "CiliumInternalIP",
                "string",
                '.spec.addresses[?(@.type=="CiliumInternalIP")].ip',
                "Cilium internal IP for this node",
            ),
            PrinterColumn("InternalIP", "string", '.spec.addresses[?(@.type=="InternalIP")].ip', "IP of the node"),
            PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time duration since creation of Ciliumnode"),
        ),
        has_status=True,
    ),
    Definition(
        CILIUM_ENDPOINTS,
        ("cep", "ciliumep"),
        (
            PrinterColumn("Security Identity", "integer", ".status.identity.id", "Security Identity"),
            PrinterColumn(
                "Ingress Enforcement",
                "string",
                ".status.policy.ingress.state",
                "Ingress enforcement in the endpoint",
                1,
            ),
            PrinterColumn(
                "Egress Enforcement", "string", ".status.policy.egress.state", "Egress enforcement in the endpoint", 1
            ),
            PrinterColumn("Endpoint State", "string", ".status.state", "Endpoint current state"),
            PrinterColumn("IPv4", "string", ".status.networking.addressing[0].ipv4", "Endpoint IPv4 address"),
            PrinterColumn("IPv6", "string", ".status.networking.addressing[0].ipv6", "Endpoint IPv6 address"),
        ),
    ),
    Definition(
        CILIUM_IDENTITIES,
        ("ciliumid",),
        (
            PrinterColumn(
                "Namespace", "string", r".metadata.labels.io\.kubernetes\.pod\.namespace", "The namespace of the entity"
            ),
            _AGE,
        ),
    ),
)

_REFERENCE: Final[tuple[tuple[str, JsonObject], ...]] = (
    (
        "spec.bgpInstances[].peers[].peerConfigRef.group",
        {"type": "string", "description": "Group of the resource", "default": "cilium.io"},
    ),
    (
        "spec.bgpInstances[].peers[].peerConfigRef.kind",
        {"type": "string", "description": "Kind of the resource", "default": "CiliumBGPPeerConfig"},
    ),
)
_LOCAL_PORT: Final[tuple[str, JsonObject]] = (
    "spec.transport.localPort",
    {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535, "description": "Deprecated, of no effect"},
)


def _with_bgp(values: Values) -> bool:
    return values.bgp_control_plane.enabled


def _bgp(kind: Kind[Any], short_name: str, older: Older | None, *, has_status: bool = False) -> Definition:
    """What the BGP kinds have in common."""
    columns, categories = (PrinterColumn("Age", "date", ".metadata.creationTimestamp"),), ("cilium", "ciliumbgp")
    return Definition(kind, (short_name,), columns, has_status, categories, (older,) if older else (), _with_bgp)


def _options(kind: Kind[Any], short_name: str) -> Definition:
    columns = (
        PrinterColumn("Conflict", "string", f'.status.conditions[?(@.type=="{stentor.CONFLICT}")].status'),
        PrinterColumn("Invalid", "string", f'.status.conditions[?(@.type=="{stentor.INVALID}")].status'),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
    )
    return Definition(kind, (short_name,), columns, True, ("stentor", "ciliumbgp"), (), _with_bgp)


_POOL_COLUMNS: Final = (
    PrinterColumn("Disabled", "boolean", ".spec.disabled"),
    PrinterColumn("Conflicting", "string", f'.status.conditions[?(@.type=="{lbipam.POOL_CONFLICT}")].status'),
    PrinterColumn("IPs Available", "string", f'.status.conditions[?(@.type=="{lbipam.IPS_AVAILABLE}")].message'),
    PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
)

DEFINITIONS: Final = (
    *_BASE,
    Definition(
        lbipam.LB_IP_POOLS,
        ("ippools", "ippool", "lbippool", "lbippools"),
        _POOL_COLUMNS,
        has_status=True,
        older=(Older("v2alpha1"),),
    ),
    Definition(
        l2.L2_POLICIES,
        ("l2announcement",),
        (PrinterColumn("Age", "date", ".metadata.creationTimestamp"),),
        has_status=True,
        needed=lambda values: values.l2announcements.enabled,
    ),
    _bgp(bgp.CLUSTER_CONFIGS, "cbgpcluster", Older("v2alpha1", _REFERENCE), has_status=True),
    _bgp(bgp.PEER_CONFIGS, "cbgppeer", Older("v2alpha1", (_LOCAL_PORT,)), has_status=True),
    _bgp(bgp.ADVERTISEMENTS, "cbgpadvert", Older("v2alpha1")),
    _bgp(bgp.NODE_CONFIGS, "cbgpnode", Older("v2alpha1", _REFERENCE), has_status=True),
    _bgp(bgp.NODE_CONFIG_OVERRIDES, "cbgpnodeoverride", Older("v2alpha1")),
    _bgp(peering.PEERING_POLICIES, "bgpp", None),
    _options(stentor.PEER_OPTIONS, "sbgppeer"),
    _options(stentor.INSTANCE_OPTIONS, "sbgpinstance"),
)


def needed(values: Values) -> tuple[Definition, ...]:
    """The definitions that an installation with these values has, in the order in which they should be created."""
    return tuple(definition for definition in DEFINITIONS if definition.needed(values))
