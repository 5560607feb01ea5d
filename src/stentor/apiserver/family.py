"""A Service's IP families and the fields of its cluster addresses (pkg/registry/core/service/storage/alloc.go)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Final

from stentor.apiserver.errors import Cause, duplicate, invalid, unsupported
from stentor.apiserver.exposure import HEADLESS, is_address, is_headless

Object = dict[str, Any]

FAMILIES: Final = ("IPv4", "IPv6")
_POLICIES: Final = ("PreferDualStack", "RequireDualStack", "SingleStack")
_POLICY: Final = "spec.ipFamilyPolicy"
_ADDRESSES: Final = "spec.clusterIPs"


def settle_families(spec: Object, old: Object | None, configured: Sequence[str]) -> list[Cause]:
    """Complete the policy and the families; `configured` are the cluster's, the primary one first.

    A service that prefers two stacks and is left alone does not change with the cluster.
    """
    old = old or {}
    if _is_left_alone(spec, old):
        return []
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    selectorless = is_headless(spec) and not spec.get("selector")
    policy = spec.get("ipFamilyPolicy") or old.get("ipFamilyPolicy")
    policy = policy or ("RequireDualStack" if selectorless else "SingleStack")
    spec["ipFamilyPolicy"] = policy
    causes = _validate_addresses(spec) or (_narrow(spec, old) + _check_kept(spec, old) if old.get("clusterIPs") else [])
    causes = causes or _check_count(spec) or _infer(spec, configured)
    if causes:
        return causes
    families = spec.setdefault("ipFamilies", [])
    if not selectorless:
        causes = _check_configured(families, policy, configured)
    if not families:
        families.append(configured[0])
    if policy != "SingleStack" and len(families) == 1 and (selectorless or len(configured) == 2):
        families.append(next(family for family in FAMILIES if family != families[0]))
    return causes


def _is_left_alone(spec: Object, old: Object) -> bool:
    same = ("type", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
    return spec.get("ipFamilyPolicy") == "PreferDualStack" and all(spec.get(f) == old.get(f) for f in same)


def _validate_addresses(spec: Object) -> list[Cause]:
    """Each field by itself, then together (ValidateServiceClusterIPsRelatedFields)."""
    first, addresses, families = spec.get("clusterIP"), spec.get("clusterIPs") or [], spec.get("ipFamilies") or []
    causes: list[Cause] = []
    if first and addresses and addresses[0] != first:
        causes.append(invalid(_ADDRESSES, addresses, "first value must match `clusterIP`"))
    elif addresses and not first:
        causes.append(invalid(_ADDRESSES, addresses, "must be empty when `clusterIP` is not specified"))
    for index, family in enumerate(families):
        where = f"spec.ipFamilies[{index}]"
        causes += [] if family in FAMILIES else [unsupported(where, family, FAMILIES)]
        causes += [duplicate(where, family)] if family in families[:index] else []
    if spec["ipFamilyPolicy"] not in _POLICIES:
        causes.append(unsupported(_POLICY, spec["ipFamilyPolicy"], _POLICIES))
    bad = _validate_each_address(addresses)
    causes += bad
    if len(addresses) > 2:
        causes.append(invalid(_ADDRESSES, addresses, "may only hold up to 2 values"))
    if bad or is_headless(spec):
        return causes
    if len(addresses) > 1 and len({_family_of(address) for address in addresses}) == 1:
        causes.append(invalid(_ADDRESSES, addresses, "may specify no more than one IP for each IP family"))
    for index, (address, family) in enumerate(zip(addresses, families, strict=False)):
        if _family_of(address) != family and family in FAMILIES:
            detail = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            causes.append(invalid(f"{_ADDRESSES}[{index}]", address, detail))
    return causes


def _validate_each_address(addresses: list[str]) -> list[Cause]:
    causes = []
    for index, address in enumerate(addresses):
        if index == 0 and address == HEADLESS:
            if len(addresses) > 1:
                causes.append(invalid(_ADDRESSES, addresses, "'None' must be the first and only value"))
        elif not is_address(address):
            detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            causes.append(invalid(f"{_ADDRESSES}[{index}]", address, detail))
    return causes


def _narrow(spec: Object, old: Object) -> list[Cause]:
    """From two families to one: the policy must say so, and then it is enough."""
    causes = []
    for field, words in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        before, after = old.get(field) or [], spec.get(field) or []
        if spec["ipFamilyPolicy"] == "SingleStack":
            if after == before and len(after) > 1:
                spec[field] = after[:1]
        elif after and len(after) < len(before):
            detail = f"must be 'SingleStack' to release the secondary {words}"
            causes.append(invalid(_POLICY, spec["ipFamilyPolicy"], detail))
    return causes


def _check_kept(spec: Object, old: Object) -> list[Cause]:
    """Addresses, and with them families, are only ever added or taken away behind the first."""
    before, after = old["clusterIPs"], spec.get("clusterIPs") or []
    return [
        invalid(f"{_ADDRESSES}[{index}]", after, "may not change once set")
        for index, (stale, fresh) in enumerate(zip(before, after, strict=False))
        if stale != fresh
    ]


def _check_count(spec: Object) -> list[Cause]:
    if spec["ipFamilyPolicy"] != "SingleStack":
        return []
    return [
        invalid(
            _POLICY,
            "SingleStack",
            f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {words} are specified",
        )
        for field, words in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families"))
        if len(spec.get(field) or ()) == 2
    ]


def _infer(spec: Object, configured: Sequence[str]) -> list[Cause]:
    """Families that only the addresses tell."""
    addresses, families = spec.get("clusterIPs") or [], spec.get("ipFamilies") or []
    told = [] if is_headless(spec) else [_family_of(address) for address in addresses[len(families) :]]
    for index, family in enumerate(told, len(families)):
        if family not in configured:
            return [invalid(f"{_ADDRESSES}[{index}]", addresses, f"{family} is not configured on this cluster")]
    spec["ipFamilies"] = [*families, *told]
    return []


def _check_configured(families: Sequence[str], policy: str, configured: Sequence[str]) -> list[Cause]:
    causes = []
    if policy == "RequireDualStack" and len(configured) < 2:
        causes.append(invalid(_POLICY, policy, "this cluster is not configured for dual-stack services"))
    return causes + [
        invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
        for index, family in enumerate(families)
        if family not in configured
    ]


def _family_of(address: str) -> str:
    return f"IPv{ipaddress.ip_address(address).version}"
