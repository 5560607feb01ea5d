"""Sources of tables: what a deletion removes, and what it leaves."""

from __future__ import annotations

import json

from stentor.agent import wiring
from stentor.agent.state import Tables
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.runtime.config import Values


def line(kind: str, name: str, version: int) -> bytes:
    meta = {"name": name, "resourceVersion": str(version)}
    return json.dumps({"type": kind, "object": {"metadata": meta, "spec": {}}}).encode()


def test_the_row_of_the_own_node_outlives_its_object() -> None:
    """Without it the node's own ipcache entries and all remote routes would go."""
    tables, deletions = Tables(), []
    client = Client(Connection(server="http://[::1]:1"))
    sources = wiring.sources(
        tables, client, Values(), "own", own_row=lambda row: row, own_gone=lambda: deletions.append("own")
    )
    (nodes,) = (source for source in sources if source.kind.kind == "CiliumNode")
    nodes._take([line("ADDED", "own", 1), line("ADDED", "other", 2)])
    own = tables.nodes["default", "own"]
    nodes._take([line("DELETED", "other", 3)])
    assert deletions == []
    nodes._take([line("DELETED", "own", 4)])
    assert list(tables.nodes) == [own]
    assert deletions == ["own"]
