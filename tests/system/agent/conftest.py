"""The lab of the agent's tests, with three pods; one for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.cluster import NODES, OUTSIDE, TOPOLOGY, Cluster, manifest
from agents.place import Place, machine, pod
from labs.lab import LabFactory, remove


@pytest.fixture(scope="module")
def cluster(lab_maker: LabFactory) -> Iterator[Cluster]:
    lab = lab_maker(TOPOLOGY)
    places: dict[str, Place] = {}
    try:
        text = manifest("a", "node-1") + manifest("b", "node-1") + manifest("c", "node-2")
        lab.kubectl("apply", "-f", "-", input=text)
        places |= {name: machine(lab, name, addresses) for name, addresses in NODES.items()}
        places["outside"] = machine(lab, "outside", OUTSIDE)
        places |= {name: pod(lab, name) for name in "abc"}
        yield Cluster(lab, places)
    finally:
        for place in places.values():
            place.close()
        remove(lab)
