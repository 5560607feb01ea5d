"""CiliumL2AnnouncementPolicy of cilium.io/v2alpha1: which nodes answer for addresses of services on their links."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stentor.api.cilium import GROUP
from stentor.api.condition import Conditions
from stentor.api.field import Selector, selector
from stentor.api.meta import Kind, Resource, Value

BAD_SERVICE_SELECTOR: Final = "io.cilium/bad-service-selector"
BAD_NODE_SELECTOR: Final = "io.cilium/bad-node-selector"
BAD_INTERFACE_REGEX: Final = "io.cilium/bad-interface-regex"

LOAD_BALANCER_CLASS: Final = "io.cilium/l2-announcer"


class CiliumL2AnnouncementPolicySpec(Value, frozen=True, kw_only=True):
    """CiliumL2AnnouncementPolicySpec says who announces what on which interfaces."""

    node_selector: Annotated[Selector, selector("Nodes that announce; all without it")] = None
    service_selector: Annotated[
        Selector,
        selector(
            "Services whose addresses are announced; all without it. Their loadBalancerClass is unset or "
            f"{LOAD_BALANCER_CLASS}"
        ),
    ] = None
    load_balancer_ips: Annotated[
        bool, Meta(description="Whether addresses of status.loadBalancer.ingress are announced")
    ] = msgspec.field(name="loadBalancerIPs", default=False)
    external_ips: Annotated[bool, Meta(description="Whether spec.externalIPs are announced")] = msgspec.field(
        name="externalIPs", default=False
    )
    interfaces: Annotated[
        tuple[str, ...],
        Meta(description="Regular expressions for names of interfaces to announce on; all interfaces without them"),
    ] = ()


class CiliumL2AnnouncementPolicyStatus(Value, frozen=True, kw_only=True):
    """CiliumL2AnnouncementPolicyStatus says what is wrong with the policy."""

    conditions: Conditions = ()


class CiliumL2AnnouncementPolicy(Resource, frozen=True, kw_only=True):
    """CiliumL2AnnouncementPolicy says which nodes announce which services on their links."""

    spec: Annotated[CiliumL2AnnouncementPolicySpec, Meta(description="The wanted announcements")] = (
        CiliumL2AnnouncementPolicySpec()
    )
    status: Annotated[CiliumL2AnnouncementPolicyStatus, Meta(description="What is wrong with them")] = (
        CiliumL2AnnouncementPolicyStatus()
    )


L2_POLICIES = Kind(
    GROUP,
    "v2alpha1",
    "ciliuml2announcementpolicies",
    "CiliumL2AnnouncementPolicy",
    False,
    CiliumL2AnnouncementPolicy,
)
