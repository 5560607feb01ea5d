"""Managed fields and server-side apply: who owns what, and who is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiservers.memory import CRON_TABS, Memory, config_map, cron_tab, deployment
from stentor.apiserver.errors import BadRequest, Conflict
from stentor.apiserver.fieldset import difference, intersection, is_member, paths, union


def owners(document: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    return {
        (e["manager"], e["operation"]): set(paths(e["fieldsV1"])) for e in document["metadata"].get("managedFields", ())
    }


def wish(name: str, **data: str) -> dict[str, Any]:
    return config_map(name, **data)


async def test_an_apply_owns_what_it_names(memory: Memory) -> None:
    made = await memory.apply(wish("a", x="1", y="2"), "one")
    assert owners(made) == {("one", "Apply"): {".data.x", ".data.y"}}


async def test_what_an_apply_no_longer_names_goes(memory: Memory) -> None:
    await memory.apply(wish("a", x="1", y="2"), "one")
    after = await memory.apply(wish("a", x="1"), "one")
    assert after["data"] == {"x": "1"}
    assert owners(after) == {("one", "Apply"): {".data.x"}}


async def test_what_another_owns_too_stays(memory: Memory) -> None:
    await memory.apply(wish("a", x="1", y="2"), "one")
    await memory.apply(wish("a", y="2"), "two")
    after = await memory.apply(wish("a", x="1"), "one")
    assert after["data"] == {"x": "1", "y": "2"}
    assert owners(after) == {("one", "Apply"): {".data.x"}, ("two", "Apply"): {".data.y"}}


async def test_a_conflict_names_manager_and_field(memory: Memory) -> None:
    await memory.apply(wish("a", x="1"), "one")
    with pytest.raises(Conflict) as caught:
        await memory.apply(wish("a", x="2"), "two")
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "one": .data.x'
    assert caught.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.x"}
    ]
    forced = await memory.apply(wish("a", x="2"), "two", force=True)
    assert (forced["data"], owners(forced)) == ({"x": "2"}, {("two", "Apply"): {".data.x"}})


async def test_an_update_takes_what_it_changes(memory: Memory) -> None:
    await memory.apply(wish("a", x="1", y="2"), "one")
    changed = await memory.patch("ConfigMap", "a", {"data": {"x": "3"}}, agent="two")
    assert owners(changed) == {("one", "Apply"): {".data.y"}, ("two", "Update"): {".data.x"}}
    with pytest.raises(Conflict, match=r'conflict with "two" using v1: .data.x'):
        await memory.apply(wish("a", x="1", y="2"), "one")


async def test_a_scaled_deployment_conflicts_on_replicas_only(memory: Memory) -> None:
    await memory.apply(deployment("d", 1), "one")
    await memory.patch("Deployment", "d", {"spec": {"replicas": 5}}, agent="scaler")
    with pytest.raises(Conflict, match=r"\.spec\.replicas"):
        await memory.apply(deployment("d", 2), "one")
    without = deployment("d")
    del without["spec"]["replicas"]
    assert (await memory.apply(without, "one"))["spec"]["replicas"] == 5


async def test_list_items_are_owned_by_key(memory: Memory) -> None:
    await memory.create(CRON_TABS)
    await memory.apply(cron_tab("a", ports=[{"port": 1, "name": "x"}]), "one")
    both = await memory.apply(cron_tab("a", ports=[{"port": 1, "protocol": "UDP", "name": "y"}]), "two")
    assert both["spec"]["ports"] == [
        {"port": 1, "name": "x", "protocol": "TCP"},
        {"port": 1, "name": "y", "protocol": "UDP"},
    ]
    rest = await memory.apply(cron_tab("a"), "one")
    assert rest["spec"]["ports"] == [{"port": 1, "name": "y", "protocol": "UDP"}]


async def test_a_repeated_apply_writes_nothing(memory: Memory) -> None:
    first = await memory.apply(deployment("d"), "one")
    assert await memory.apply(deployment("d"), "one") == first


async def test_status_is_owned_apart(memory: Memory) -> None:
    await memory.apply(deployment("d"), "one")
    after = await memory.patch("Deployment", "d", {"status": {"replicas": 1}}, sub="status", agent="controller")
    assert owners(after)["controller", "Update"] == {".status.replicas"}


async def test_an_apply_needs_a_manager(memory: Memory) -> None:
    with pytest.raises(BadRequest, match="fieldManager: Required value: is required for apply patch"):
        await memory.patch("ConfigMap", "a", wish("a"), "apply-patch+yaml")


async def test_owners_can_be_forgotten(memory: Memory) -> None:
    made = await memory.create(wish("a", x="1"))
    made["metadata"]["managedFields"] = [{}]
    assert "managedFields" not in (await memory.update(made))["metadata"]


TREES = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(st.sampled_from(["f:a", "f:b", "f:c"]), inner, min_size=1, max_size=3).flatmap(
        lambda node: st.sampled_from([node, {".": {}, **node}])
    ),
    max_leaves=8,
).filter(lambda tree: tree and "." not in tree)


def members(tree: dict[str, Any]) -> set[str]:
    return set(paths(tree))


@given(a=TREES, b=TREES)
def test_trees_are_sets_of_paths(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert members(union(a, b)) == members(a) | members(b)
    assert members(difference(a, b)) == members(a) - members(b)
    assert members(intersection(a, b)) == members(a) & members(b)


@given(a=TREES)
def test_no_tree_holds_empty_branches(a: dict[str, Any]) -> None:
    def check(node: dict[str, Any]) -> None:
        for key, child in node.items():
            if key != ".":
                assert is_member(child) or members(child)
                check(child)

    check(difference(a, {"f:a": {}}))
