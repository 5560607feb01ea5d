"""What the server does by itself: garbage, namespaces, definitions, old events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apiservers.memory import CRON_TABS, Memory, config_map, cron_tab, deployment, pod
from stentor.apiserver import crd
from stentor.apiserver.errors import Forbidden, NotFound


@pytest.fixture
async def loops(memory: Memory) -> AsyncIterator[Memory]:
    """The server with its own loops running."""
    tasks = [asyncio.create_task(memory.lifecycle.run()), asyncio.create_task(memory.garbage.run())]
    yield memory
    for task in tasks:
        assert not task.done(), "a loop ended"
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def owned(document: dict[str, Any], *owners: dict[str, Any], block: bool = True) -> dict[str, Any]:
    document["metadata"]["ownerReferences"] = [
        {
            "apiVersion": o["apiVersion"],
            "kind": o["kind"],
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for o in owners
    ]
    return document


async def test_a_chain_goes_from_its_end_in_the_foreground(loops: Memory) -> None:
    top = await loops.create(deployment("top"))
    middle = await loops.create(owned(config_map("middle"), top))
    await loops.create(owned(config_map("bottom"), middle))
    order: list[str] = []
    loops.store.listeners.append(
        lambda bucket, event: order.append(event.entry.name) if event.operation == "DELETED" else None
    )
    state, gone = await loops.delete("Deployment", "top", propagationPolicy="Foreground")
    assert (gone, state["metadata"]["finalizers"]) == (False, ["foregroundDeletion"])
    await until(lambda: "top" not in loops.names("Deployment"))
    assert order == ["bottom", "middle", "top"]


async def test_in_the_background_the_owner_goes_first(loops: Memory) -> None:
    top = await loops.create(deployment("top"))
    await loops.create(owned(config_map("child"), top))
    assert (await loops.delete("Deployment", "top", propagationPolicy="Background"))[1]
    await until(lambda: "child" not in loops.names("ConfigMap"))


async def test_a_second_owner_keeps_an_object(loops: Memory) -> None:
    one, two = await loops.create(deployment("one")), await loops.create(deployment("two"))
    await loops.create(owned(config_map("child"), one, two))
    await loops.delete("Deployment", "one")
    await until(lambda: [o["name"] for o in loops.get("ConfigMap", "child")["metadata"]["ownerReferences"]] == ["two"])


async def test_an_owner_of_an_unknown_kind_counts_as_alive(loops: Memory) -> None:
    document = config_map("child")
    document["metadata"]["ownerReferences"] = [
        {"apiVersion": "example.org/v1", "kind": "Thing", "name": "t", "uid": "u"}
    ]
    await loops.create(document)
    top = await loops.create(deployment("top"))
    await loops.create(owned(config_map("other"), top))
    await loops.delete("Deployment", "top")
    await until(lambda: "other" not in loops.names("ConfigMap"))
    assert loops.get("ConfigMap", "child")


async def test_nothing_new_comes_into_an_ending_namespace(loops: Memory) -> None:
    await loops.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ending"}})
    held = config_map("held")
    held["metadata"].update(namespace="ending", finalizers=["example.org/hold"])
    await loops.create(held)
    await loops.delete("Namespace", "ending")
    assert loops.get("Namespace", "ending")["status"]["phase"] == "Terminating"
    late = config_map("late")
    late["metadata"]["namespace"] = "ending"
    with pytest.raises(Forbidden, match="because it is being terminated") as caught:
        await loops.create(late)
    assert caught.value.details["causes"][0]["reason"] == "NamespaceTerminating"
    await until(lambda: "deletionTimestamp" in loops.get("ConfigMap", "held", "ending")["metadata"])
    call = loops.call("patch", "ConfigMap", "held", "ending", media="application/merge-patch+json")
    await loops.rest.patch(call, b'{"metadata":{"finalizers":null}}')
    await until(lambda: "ending" not in loops.names("Namespace"))
    with pytest.raises(NotFound):
        loops.get("ServiceAccount", "default", "ending")


async def test_a_definition_waits_for_its_objects(loops: Memory) -> None:
    made = await loops.create(CRON_TABS)
    assert made["metadata"]["finalizers"] == [crd.FINALIZER]
    await loops.create(cron_tab("a"))
    await loops.delete("CustomResourceDefinition", "crontabs.stable.example.com")
    await until(lambda: not loops.names("CustomResourceDefinition"))
    assert not loops.store.bucket("stable.example.com/crontabs").entries
    assert loops.registry.find("stable.example.com", "v1", "crontabs") is None


async def test_old_events_are_swept(memory: Memory) -> None:
    for name, stamp in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-01T01:30:00Z")):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name},
            "involvedObject": {"namespace": "default"},
            "lastTimestamp": stamp,
        }
        await memory.create(event)
    await memory.lifecycle.expire_events(datetime(2026, 1, 1, 2, 0, tzinfo=UTC) + timedelta(seconds=1))
    assert memory.names("Event") == ["new"]


async def test_a_namespace_takes_its_pods_along(loops: Memory) -> None:
    await loops.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ending"}})
    await until(lambda: loops.store.get("/serviceaccounts", ("ending", "default")) is not None)
    document = pod("p", nodeName="node-1")
    document["metadata"]["namespace"] = "ending"
    await loops.create(document)
    await loops.delete("Namespace", "ending")
    await until(lambda: "deletionTimestamp" in loops.get("Pod", "p", "ending")["metadata"])
    assert "ending" in loops.names("Namespace")
    await loops.delete("Pod", "p", "ending", gracePeriodSeconds=0)
    await until(lambda: "ending" not in loops.names("Namespace"))
