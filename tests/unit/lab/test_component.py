"""Which components run on which machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stentor.lab import component
from stentor.lab.plan import Plan
from stentor.lab.resolution import resolve
from stentor.lab.topology import Topology

NETWORKS = [{"name": "lan", "cidrs": ["10.9.0.0/24"]}]


def plan(values: dict[str, Any], second: dict[str, Any]) -> Plan:
    nodes = [
        {"name": "node-1", "networks": [{"name": "lan"}]},
        {"name": "node-2", "networks": [{"name": "lan"}], "values": second},
    ]
    document = {
        "apiVersion": "lab.stentor.io/v1",
        "kind": "Topology",
        "metadata": {"name": "t"},
        "spec": {"networks": NETWORKS, "clusters": [{"name": "c", "nodes": nodes, "values": values}]},
    }
    return resolve(msgspec.convert(document, Topology))


ON, OFF = {"bgpControlPlane": {"enabled": True}}, {"bgpControlPlane": {"enabled": False}}


@pytest.mark.parametrize(
    ("values", "second", "expected"),
    [({}, {}, [False, False]), (ON, {}, [True, True]), (ON, OFF, [True, False]), (OFF, ON, [False, True])],
)
def test_the_speaker_and_bfd_run_where_bgp_is_on(
    values: dict[str, Any], second: dict[str, Any], expected: list[bool]
) -> None:
    found = plan(values, second)
    names = [[each.name for each in component.of_machine(found, machine)] for machine in found.machines]
    assert ["bgp" in each for each in names] == ["bfd" in each for each in names] == expected
    assert ("stentor.bgp.command" in component.modules(found)) == any(expected)
    for each in names:
        assert {"runner", "agent"} <= set(each)
        if "bgp" in each:
            assert each.index("bfd") < each.index("bgp") < each.index("agent")
