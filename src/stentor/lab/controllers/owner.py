"""Who controls what: owner references, and pods made from templates."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stentor.api.meta import JsonObject, Kind, OwnerReference, Resource
from stentor.api.pod import PODS, Pod
from stentor.kube import raw
from stentor.kube.client import Client

TEMPLATE_HASH: Final = "pod-template-hash"
_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no words by accident


def controller_of(obj: Resource) -> OwnerReference | None:
    return next((owner for owner in obj.metadata.owner_references if owner.controller), None)


def is_controlled_by(obj: Resource, uid: str) -> bool:
    owner = controller_of(obj)
    return owner is not None and owner.uid == uid


def reference(kind: Kind[Any], obj: Resource) -> OwnerReference:
    """A controller reference to `obj`."""
    meta = obj.metadata
    return OwnerReference(
        api_version=kind.api_version,
        kind=kind.kind,
        name=meta.name,
        uid=meta.uid,
        controller=True,
        block_owner_deletion=True,
    )


def hash_text(value: object) -> str:
    """FNV-1a of the canonical JSON, in the alphabet of Kubernetes' names."""
    digest = _FNV_OFFSET
    for byte in msgspec.json.encode(value, order="sorted"):
        digest = ((digest ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return "".join(_ALPHABET[int(digit) % len(_ALPHABET)] for digit in str(digest))


def pod_document(
    namespace: str, template: JsonObject, name_prefix: str, owner: OwnerReference, labels: dict[str, str]
) -> JsonObject:
    """A pod of a template, in JSON form; `labels` are added to the template's."""
    meta = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": name_prefix,
            "namespace": namespace,
            "labels": {**(meta.get("labels") or {}), **labels},
            "annotations": meta.get("annotations") or {},
            "finalizers": meta.get("finalizers") or [],
            "ownerReferences": [msgspec.to_builtins(owner)],
        },
        "spec": template.get("spec") or {},
    }


async def create_pod(client: Client, document: JsonObject) -> Pod:
    """Creates the pod of a document; returns it as the server has it."""
    path = PODS.path(document["metadata"]["namespace"])
    return raw.decode(PODS, await client.request("POST", path, body=raw.encode_document(document)))
