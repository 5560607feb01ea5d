"""The ipcache: which identity an address has, and behind which node it lives."""

from __future__ import annotations

from enum import IntFlag

import msgspec

from stentor.net.address import Addr, Prefix
from stentor.state import Column, Table


class IPCacheFlag(IntFlag):
    """What else the datapath knows of a prefix."""

    NONE = 0
    REMOTE_CLUSTER = 1
    SKIP_TUNNEL = 2
    NO_NODE_PORT = 8


class IPCacheEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One prefix. `tunnel` is the node to which packets are encapsulated, None where the stack routes them.

    `source` says who knows it: agent (this node's endpoints and itself), custom-resource, kube-apiserver, generated.
    """

    prefix: Prefix
    identity: int
    tunnel: Addr | None = None
    encrypt_key: int = 0
    flags: IPCacheFlag = IPCacheFlag.NONE
    source: str = "custom-resource"


def ipcache() -> Table[Prefix, IPCacheEntry]:
    """Desired rows of the ipcache map, by prefix."""
    return Table(
        "ipcache",
        lambda row: row.prefix,
        indexes={"identity": lambda row: (row.identity,), "tunnel": lambda row: (row.tunnel,)},
        columns=(
            Column("IP PREFIX/ADDRESS", lambda row: row.prefix),
            Column("IDENTITY", lambda row: row.identity),
            Column("TUNNEL", lambda row: row.tunnel or ""),
            Column("ENCRYPT KEY", lambda row: row.encrypt_key),
            Column("SOURCE", lambda row: row.source),
        ),
    )
