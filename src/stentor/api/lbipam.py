"""CiliumLoadBalancerIPPool of cilium.io/v2: addresses for services of type LoadBalancer."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stentor.api.cilium import GROUP
from stentor.api.condition import Conditions
from stentor.api.field import CIDR, Selector, published, selector
from stentor.api.meta import Kind, Resource, Value
from stentor.net.label import SERVICE_NAME, SERVICE_NAMESPACE

POOL_CONFLICT: Final = "cilium.io/PoolConflict"
IPS_TOTAL: Final = "cilium.io/IPsTotal"
IPS_AVAILABLE: Final = "cilium.io/IPsAvailable"
IPS_USED: Final = "cilium.io/IPsUsed"
REQUEST_SATISFIED: Final = "cilium.io/IPAMRequestSatisfied"
"""Condition of a Service."""


class CiliumLoadBalancerIPPoolBlock(Value, frozen=True, kw_only=True):
    """CiliumLoadBalancerIPPoolIPBlock is a prefix, or a range by its ends."""

    cidr: Annotated[CIDR | None, Meta(description="A prefix; excludes start and stop")] = None
    start: Annotated[str | None, Meta(description="First address of a range")] = None
    stop: Annotated[str | None, Meta(description="Last address of the range; the first one without it")] = None


class CiliumLoadBalancerIPPoolSpec(Value, frozen=True, kw_only=True):
    """CiliumLoadBalancerIPPoolSpec says which addresses which services may get."""

    service_selector: Annotated[
        Selector,
        selector(
            "Services that may get addresses of this pool; all without it. Beside their labels services have "
            f"{SERVICE_NAMESPACE} and {SERVICE_NAME}"
        ),
    ] = None
    allow_first_last_ips: Annotated[
        str | None,
        published(
            "No reserves the first and last address of each cidr; those of up to two addresses have none to reserve",
            enum=["Yes", "No"],
        ),
    ] = msgspec.field(name="allowFirstLastIPs", default=None)
    blocks: Annotated[
        tuple[CiliumLoadBalancerIPPoolBlock, ...], Meta(description="Addresses of this pool, of both families")
    ] = ()
    disabled: Annotated[
        bool, published("Whether no new addresses are given out; services keep those that they have", default=False)
    ] = False


class CiliumLoadBalancerIPPoolStatus(Value, frozen=True, kw_only=True):
    """CiliumLoadBalancerIPPoolStatus says whether the pool is usable and how full it is."""

    conditions: Conditions = ()


class CiliumLoadBalancerIPPool(Resource, frozen=True, kw_only=True):
    """CiliumLoadBalancerIPPool is a pool of addresses that services of type LoadBalancer get from the operator."""

    spec: Annotated[CiliumLoadBalancerIPPoolSpec, Meta(description="The wanted pool")]
    status: Annotated[
        CiliumLoadBalancerIPPoolStatus,
        Meta(description="Pools that overlap are not refused: the later one is marked here and gives out nothing"),
    ] = CiliumLoadBalancerIPPoolStatus()


LB_IP_POOLS = Kind(
    GROUP, "v2", "ciliumloadbalancerippools", "CiliumLoadBalancerIPPool", False, CiliumLoadBalancerIPPool
)
