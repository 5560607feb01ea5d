"""Sources of services without a Node object: nothing that is in the kernel may be taken for unwanted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from stentor.agent import service
from stentor.agent.service import ServiceSources, make_tables
from stentor.api.core import NODES, SERVICES
from stentor.kube.client import Client
from stentor.kube.config import Connection
from stentor.runtime.config import Values
from stentor.runtime.health import Health
from stentor.runtime.job import JobGroup
from stentor.state import Database
from stentor.tables.service import LocalNode


def event(kind: str, version: int) -> bytes:
    meta = {"name": "own", "resourceVersion": str(version)}
    return json.dumps({"type": kind, "object": {"metadata": meta}}).encode()


def test_the_row_of_the_node_outlives_its_object() -> None:
    database = Database()
    own = make_tables(database)
    found = service.sources(database, own, Client(Connection(server="http://[::1]:1")), Values(), "own")
    (nodes,) = (source for source in found.all if source.kind is NODES)
    nodes._take([event("ADDED", 1)])
    nodes._take([event("DELETED", 2)])
    assert [row.name for row in own.nodes] == ["own"]


class Source:
    """A reflector that has listed, and tells when it runs."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        self.synced.set()
        self.runs = asyncio.Event()

    async def run(self) -> None:
        self.runs.set()
        await asyncio.Event().wait()


async def test_services_are_looked_at_when_the_node_is_known() -> None:
    database = Database()
    own = make_tables(database)
    early, late = Source(NODES), Source(SERVICES)
    sources: Any = ServiceSources((early,), (late,), own.nodes)  # type: ignore[arg-type]
    async with JobGroup(Health()) as jobs, asyncio.timeout(10):
        sources.start(jobs)
        await early.runs.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not late.runs.is_set()
        database.put(own.nodes, LocalNode(name="own"))
        await late.runs.wait()
