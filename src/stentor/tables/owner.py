"""Objects that live as long as another one: what garbage collection in the operator has to know of them."""

from __future__ import annotations

import msgspec

from stentor.state import Table


class EndpointOwner(msgspec.Struct, frozen=True):
    """A CiliumEndpoint and the identity of this very object."""

    namespace: str
    name: str
    uid: str


class KnownNode(msgspec.Struct, frozen=True):
    """A Kubernetes Node and its labels."""

    name: str
    labels: dict[str, str] = {}


def endpoint_owners() -> Table[tuple[str, str], EndpointOwner]:
    """By (namespace, name)."""
    return Table("endpoint-owners", lambda row: (row.namespace, row.name))


def known_nodes() -> Table[str, KnownNode]:
    """By name."""
    return Table("known-nodes", lambda row: row.name)
