"""Small rules of the other built-in kinds: configuration, networking, nodes, namespaces."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Any

from stentor.apiserver.errors import Cause, forbidden, invalid, required, unsupported
from stentor.apiserver.meta import validate_labels
from stentor.apiserver.pod import PROTOCOLS

Object = dict[str, Any]

_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MAX_DATA_BYTES = 1024 * 1024
_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def _validate_data(obj: Object, fields: tuple[str, ...]) -> list[Cause]:
    causes = []
    size = 0
    for field in fields:
        for key, value in (obj.get(field) or {}).items():
            size += len(value)
            if not _DATA_KEY.fullmatch(key):
                detail = (
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or"
                    " 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                )
                causes.append(invalid(f"{field}[{key}]", key, detail))
    if size > _MAX_DATA_BYTES:
        causes.append(Cause("FieldValueTooLong", "", f"Too long: may not be more than {_MAX_DATA_BYTES} bytes"))
    return causes


def validate_config_map(obj: Object) -> list[Cause]:
    causes = _validate_data(obj, ("data", "binaryData"))
    both = set(obj.get("data") or ()) & set(obj.get("binaryData") or ())
    return causes + [invalid(f"data[{k}]", k, "duplicate of key present in binaryData") for k in sorted(both)]


def set_secret_defaults(obj: Object) -> None:
    """stringData is written only: it lands in data."""
    texts = obj.pop("stringData", None)
    if texts:
        data = obj.setdefault("data", {})
        data.update({k: base64.b64encode(v.encode()).decode() for k, v in texts.items()})


def validate_secret(obj: Object) -> list[Cause]:
    causes = _validate_data(obj, ("data",))
    data = obj.get("data") or {}
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            causes.append(invalid(f"data[{key}]", "<redacted>", "must be base64"))
    causes += [required(f"data[{k}]") for k in _SECRET_KEYS.get(obj.get("type", ""), ()) if k not in data]
    return causes


def validate_immutable_data(new: Object, old: Object) -> list[Cause]:
    """ConfigMaps and Secrets that declare themselves immutable."""
    causes = []
    if old.get("immutable"):
        if not new.get("immutable"):
            causes.append(forbidden("immutable", "field is immutable when `immutable` is set"))
        causes += [
            forbidden(field, "field is immutable when `immutable` is set")
            for field in ("data", "binaryData")
            if (new.get(field) or {}) != (old.get(field) or {})
        ]
    if new.get("type") != old.get("type"):
        causes.append(invalid("type", new.get("type"), "field is immutable"))
    return causes


def prepare_namespace(obj: Object) -> None:
    obj.setdefault("spec", {})["finalizers"] = ["kubernetes"]
    obj["status"] = {"phase": "Active"}
    set_namespace_defaults(obj)


def set_namespace_defaults(obj: Object) -> None:
    name = obj["metadata"].get("name")
    if name:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name


def keep_namespace_finalizers(new: Object, old: Object) -> None:
    """Only the finalize subresource changes them."""
    if "finalizers" in old.get("spec", {}):
        new.setdefault("spec", {})["finalizers"] = old["spec"]["finalizers"]


def validate_node(obj: Object) -> list[Cause]:
    causes = []
    for index, cidr in enumerate((obj.get("spec") or {}).get("podCIDRs") or ()):
        try:
            ipaddress.ip_network(cidr)
        except ValueError:
            causes.append(invalid(f"spec.podCIDRs[{index}]", cidr, "must be a valid CIDR value"))
    for index, taint in enumerate((obj.get("spec") or {}).get("taints") or ()):
        if not taint.get("key"):
            causes.append(required(f"spec.taints[{index}].key"))
        if taint.get("effect") not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            known = ("NoSchedule", "PreferNoSchedule", "NoExecute")
            causes.append(unsupported(f"spec.taints[{index}].effect", taint.get("effect"), known))
    return causes


def set_node_defaults(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    elif spec.get("podCIDRs"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    status = obj.setdefault("status", {})
    if status.get("capacity"):
        status.setdefault("allocatable", status["capacity"])


def validate_node_update(new: Object, old: Object) -> list[Cause]:
    before, after = old["spec"].get("podCIDRs") or [], new["spec"].get("podCIDRs") or []
    if before and before != after:
        return [forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')]
    return []


def validate_endpoint_slice(obj: Object) -> list[Cause]:
    kind = obj.get("addressType")
    if kind not in ("FQDN", "IPv4", "IPv6"):
        return [unsupported("addressType", kind or "", ("FQDN", "IPv4", "IPv6"))]
    causes = []
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        where = f"endpoints[{index}].addresses"
        addresses = endpoint.get("addresses") or []
        if not addresses:
            causes.append(required(where, "must contain at least 1 address"))
        causes += [
            invalid(f"{where}[{i}]", address, f"must be a valid {kind} address")
            for i, address in enumerate(addresses)
            if kind != "FQDN" and not _is_of(address, kind)
        ]
    for index, port in enumerate(obj.get("ports") or ()):
        if port.get("protocol") not in PROTOCOLS:
            causes.append(unsupported(f"ports[{index}].protocol", port.get("protocol"), PROTOCOLS))
    return causes


def _is_of(address: str, family: str) -> bool:
    try:
        return f"IPv{ipaddress.ip_address(address).version}" == family
    except ValueError:
        return False


def validate_address_type_update(new: Object, old: Object) -> list[Cause]:
    if new.get("addressType") == old.get("addressType"):
        return []
    return [invalid("addressType", new.get("addressType"), "field is immutable")]


def set_network_policy_defaults(obj: Object) -> None:
    spec = obj["spec"]
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    spec.setdefault("podSelector", {})


def validate_network_policy(obj: Object) -> list[Cause]:
    causes = []
    spec = obj["spec"]
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            for at, peer in enumerate(rule.get(peers) or ()):
                causes += _validate_peer(peer, f"spec.{direction}[{index}].{peers}[{at}]")
            for at, port in enumerate(rule.get("ports") or ()):
                if port.get("protocol") not in PROTOCOLS:
                    path = f"spec.{direction}[{index}].ports[{at}].protocol"
                    causes.append(unsupported(path, port.get("protocol"), PROTOCOLS))
    for index, kind in enumerate(spec.get("policyTypes") or ()):
        if kind not in ("Egress", "Ingress"):
            causes.append(unsupported(f"spec.policyTypes[{index}]", kind, ("Egress", "Ingress")))
    return causes


def _validate_peer(peer: Object, path: str) -> list[Cause]:
    if not peer:
        return [required(path, "must specify a peer")]
    block = peer.get("ipBlock")
    if block is None:
        return []
    if len(peer) > 1:
        return [forbidden(path, "may not specify both ipBlock and another peer")]
    causes = []
    try:
        outer = ipaddress.ip_network(block.get("cidr", ""))
    except ValueError:
        return [invalid(f"{path}.ipBlock.cidr", block.get("cidr", ""), "must be a valid CIDR value")]
    for index, text in enumerate(block.get("except") or ()):
        where = f"{path}.ipBlock.except[{index}]"
        try:
            inner = ipaddress.ip_network(text)
        except ValueError:
            causes.append(invalid(where, text, "must be a valid CIDR value"))
            continue
        if inner.version != outer.version or not inner.subnet_of(outer) or inner == outer:  # type: ignore[arg-type]
            causes.append(invalid(where, text, "must be a strict subset of `cidr`"))
    return causes


def validate_ingress(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = []
    if not spec.get("rules") and not spec.get("defaultBackend"):
        causes.append(invalid("spec", spec, "either `defaultBackend` or `rules` must be specified"))
    for index, rule in enumerate(spec.get("rules") or ()):
        for at, path in enumerate((rule.get("http") or {}).get("paths") or ()):
            where = f"spec.rules[{index}].http.paths[{at}]"
            kind = path.get("pathType")
            if not kind:
                causes.append(required(f"{where}.pathType", "pathType must be specified"))
            elif kind not in ("Exact", "ImplementationSpecific", "Prefix"):
                causes.append(unsupported(f"{where}.pathType", kind, ("Exact", "ImplementationSpecific", "Prefix")))
            elif kind != "ImplementationSpecific" and not path.get("path", "").startswith("/"):
                causes.append(invalid(f"{where}.path", path.get("path", ""), "must be an absolute path"))
    return causes


def validate_disruption_budget(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        return [invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")]
    selector = spec.get("selector") or {}
    return validate_labels(selector.get("matchLabels") or {}, "spec.selector.matchLabels")


def validate_lease(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = []
    if spec.get("leaseDurationSeconds", 1) <= 0:
        causes.append(invalid("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0"))
    if spec.get("leaseTransitions", 0) < 0:
        causes.append(invalid("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0"))
    return causes


def validate_role_binding_update(new: Object, old: Object) -> list[Cause]:
    if new.get("roleRef") == old.get("roleRef"):
        return []
    return [invalid("roleRef", new.get("roleRef"), "cannot change roleRef")]


def validate_event(obj: Object) -> list[Cause]:
    involved = obj.get("involvedObject") or obj.get("regarding") or {}
    namespace = obj["metadata"].get("namespace", "")
    if involved.get("namespace") and involved["namespace"] != namespace:
        return [invalid("involvedObject.namespace", involved["namespace"], "does not match event.namespace")]
    if not involved.get("namespace") and namespace not in ("default", "kube-system", ""):
        return [invalid("involvedObject.namespace", "", "does not match event.namespace")]
    return []
