"""L2 announcements end to end: a host on the link finds addresses of services by its own kernel's ARP and neighbour discovery,
and another node answers when the one that did is gone. At no time do two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from announcing.cluster import (
    EDGES,
    TOPOLOGY,
    VIPS,
    Asking,
    answering_pod,
    apply,
    mac_of,
    pod,
    policy,
    pool,
    service,
    with_addresses,
)
from labs.lab import Lab, LabFactory, eventually, remove

WEB = VIPS["web"]
LEASE = "cilium-l2announce-default-web"


@pytest.fixture(scope="module")
def lab(lab_maker: LabFactory) -> Iterator[Lab]:
    made = lab_maker(TOPOLOGY)
    try:
        apply(made, pool(), policy(), pod("web", "control", "web"), with_addresses(service("web")))
        eventually(lambda: all(answering_pod(made, vip) == "web" for vip in WEB), 60)
        yield made
    finally:
        remove(made)


@pytest.fixture(scope="module")
def macs(lab: Lab) -> dict[str, str]:
    return {node: mac_of(lab, node) for node in ("control", *EDGES)}


def holder(lab: Lab, lease: str = LEASE) -> str:
    return lab.kubectl(
        "-n", "kube-system", "get", "lease", lease, "--ignore-not-found", "-o", "jsonpath={.spec.holderIdentity}"
    ).stdout


def who_answers(lab: Lab, *addresses: str) -> set[str]:
    with Asking(lab, *addresses) as asking:
        time.sleep(0.2)
    return asking.answering()


def other(node: str) -> str:
    return next(each for each in EDGES if each != node)


def assert_one_at_a_time(asking: Asking) -> None:
    assert asking.questions
    assert [question for question in asking.questions if len(question.macs) > 1] == []


def watch_move(lab: Lab, macs: dict[str, str], disturb: Callable[[str], object]) -> None:
    """Do something to the node that answers; wait until the other one does, asking all the time."""
    eventually(lambda: all(who_answers(lab, vip) for vip in WEB))
    before = str(eventually(lambda: holder(lab)))  # nobody's for a moment when it was not renewed in time
    with Asking(lab, *WEB) as asking:
        disturb(before)
        eventually(lambda: who_answers(lab, *WEB) == {macs[other(before)]}, 60)
    assert_one_at_a_time(asking)
    assert asking.answering() >= {macs[other(before)]}
    eventually(lambda: all(answering_pod(lab, vip) == "web" for vip in WEB), 60)


def test_a_selected_node_answers_for_both_families(lab: Lab, macs: dict[str, str]) -> None:
    with Asking(lab, *WEB) as asking:
        eventually(lambda: all(who_answers(lab, vip) <= {macs[edge] for edge in EDGES} for vip in WEB))
    assert_one_at_a_time(asking)
    neighbours = lab.exec("outside", "ip", "neigh").stdout
    assert all(f"{vip} dev eth0 lladdr" in neighbours for vip in WEB)


def test_what_can_be_looked_at(lab: Lab) -> None:
    node = holder(lab)
    for command in (("table", "l2-announce"), ("bpf", "l2-responder", "list")):
        eventually(lambda command=command: all(vip in lab.stentor(*command, "--node", node).stdout for vip in WEB))
    wanted = lab.stentor("table", "l2-wanted", "--node", other(node)).stdout
    assert all(vip in wanted for vip in WEB)
    assert "192.0.2" not in lab.stentor("table", "l2-wanted", "--node", "control").stdout
    assert "cilium_l2_announcements" in lab.stentor("metrics", "list", "--node", node).stdout


def test_an_agent_that_is_killed_comes_back_in_time(lab: Lab) -> None:
    """Its successor goes on with its leases, and so does the kernel meanwhile."""
    eventually(lambda: all(who_answers(lab, vip) for vip in WEB))
    with Asking(lab, *WEB) as asking:
        lab.run("kill", f"{holder(lab)}/agent")
        eventually(lambda: all(answering_pod(lab, vip) == "web" for vip in WEB))
    assert_one_at_a_time(asking)


def test_an_agent_that_stays_away_loses_its_addresses(lab: Lab, macs: dict[str, str]) -> None:
    gone: list[str] = []

    def stop(node: str) -> None:
        gone.append(node)
        lab.run("stop", f"{node}/agent")

    try:
        watch_move(lab, macs, stop)
    finally:
        for node in gone:
            lab.run("start", f"{node}/agent")


def test_a_node_that_is_cut_off_falls_silent(lab: Lab, macs: dict[str, str]) -> None:
    """It still has what it announced when it is back, and does not answer."""
    gone: list[str] = []

    def cut(node: str) -> None:
        gone.append(node)
        lab.run("link", f"lan/{node}", "down")

    try:
        watch_move(lab, macs, cut)
        with Asking(lab, *WEB) as asking:
            lab.run("link", f"lan/{gone[0]}", "up")
            eventually(lambda: all(who_answers(lab, vip) for vip in WEB))
        assert_one_at_a_time(asking)
    finally:
        for node in gone:
            lab.run("link", f"lan/{node}", "up")


def test_a_machine_that_dies_is_followed(lab: Lab, macs: dict[str, str]) -> None:
    gone: list[str] = []

    def kill(node: str) -> None:
        gone.append(node)
        lab.run("kill", node)

    try:
        watch_move(lab, macs, kill)
    finally:
        for node in gone:
            lab.run("start", node)


def test_without_policy_nobody_answers(lab: Lab) -> None:
    lab.kubectl("delete", "l2announcement", "edges")
    eventually(lambda: who_answers(lab, *WEB) == set())
    eventually(lambda: holder(lab) == "")
    apply(lab, policy(interfaces=["^nothing$"]))
    eventually(lambda: "nothing" in lab.stentor("table", "l2-policies", "--node", EDGES[0]).stdout)
    assert who_answers(lab, *WEB) == set()
    apply(lab, policy(interfaces=["^eth[[:digit:]]$"]))
    eventually(lambda: all(who_answers(lab, vip) for vip in WEB))


def test_local_policy_moves_the_address_to_the_endpoint(lab: Lab, macs: dict[str, str]) -> None:
    near = VIPS["near"]
    apply(lab, with_addresses(service("near", externalTrafficPolicy="Local")), pod("near-1", EDGES[0], "near"))
    eventually(lambda: who_answers(lab, *near) == {macs[EDGES[0]]})
    eventually(lambda: all(answering_pod(lab, vip) == "near-1" for vip in near))
    apply(lab, pod("near-2", EDGES[1], "near"))
    lab.kubectl("wait", "--for=condition=Ready", "pod/near-2", "--timeout=60s")
    lab.kubectl("delete", "pod", "near-1")
    eventually(lambda: who_answers(lab, *near) == {macs[EDGES[1]]})
    eventually(lambda: all(answering_pod(lab, vip) == "near-2" for vip in near))
    lab.kubectl("delete", "service/near", "pod/near-2")
    eventually(lambda: who_answers(lab, *near) == set())
    eventually(
        lambda: (
            not lab.kubectl(
                "-n", "kube-system", "get", "lease", "cilium-l2announce-default-near", "--ignore-not-found"
            ).stdout
        )
    )
