"""How long an announced address is without an answer when the node that answers is gone: `l2_failover.py [ROUNDS]`.

A host on the link asks for two addresses, one of each family, every 20 ms, by ARP and neighbour discovery, and notes who
answers. Leases: 3s, 1s, 200ms. What is measured is from the last answer of one node to the first of the other; at no time may
two answer. API server and pods are on a third machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import yaml
from measure import save, summarise

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
from labs.lab import STENTOR, Lab, eventually

WEB = VIPS["web"]
AIM_S = 3.0
SETTLE_S = 4.0


def silence_s(asking: Asking, old: str, new: str) -> float:
    """The longest of all addresses: from the old node's last answer to the new one's first."""
    doubled = [question for question in asking.questions if len(question.macs) > 1]
    if doubled:
        raise AssertionError(f"two answered: {doubled[0]}")
    found = []
    for address in WEB:
        answered = [each for each in asking.questions if each.address == address and each.macs]
        last = max(each.time for each in answered if each.macs[0] == old)
        found.append(min(each.time for each in answered if each.macs[0] == new and each.time > last) - last)
    return max(found)


def move(lab: Lab, macs: dict[str, str], disturb: Callable[[str], object]) -> float:
    """One round: disturb the node that answers, until the other one does."""
    holder = (
        "-n",
        "kube-system",
        "get",
        "lease",
        "cilium-l2announce-default-web",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    )
    old = lab.kubectl(*holder).stdout
    new = next(edge for edge in EDGES if edge != old)
    with Asking(lab, *WEB) as asking:
        time.sleep(0.2)
        disturb(old)
        eventually(lambda: lab.kubectl(*holder).stdout == new)
        time.sleep(0.5)
    return silence_s(asking, macs[old], macs[new])


def kinds(lab: Lab) -> dict[str, tuple[Callable[[str], object], Callable[[str], object]]]:
    """What happens to a node, and how it is made good."""

    def label(node: str, word: str) -> None:
        lab.kubectl("label", "node", node, "--overwrite", f"edge={word}")

    return {
        "its cable is cut": (
            lambda node: lab.run("link", f"lan/{node}", "down"),
            lambda node: lab.run("link", f"lan/{node}", "up"),
        ),
        "its power goes": (lambda node: lab.run("kill", node), lambda node: lab.run("start", node)),
        "its agent stops for good": (
            lambda node: lab.run("stop", f"{node}/agent"),
            lambda node: lab.run("start", f"{node}/agent"),
        ),
        "the policy selects it no more": (lambda node: label(node, "no"), lambda node: label(node, "yes")),
    }


def measure(lab: Lab, rounds: int) -> dict[str, list[float]]:
    apply(lab, pool(), policy(), pod("web", "control", "web"), with_addresses(service("web")))
    eventually(lambda: all(answering_pod(lab, vip) == "web" for vip in WEB), 60)
    found: dict[str, list[float]] = {name: [] for name in kinds(lab)}
    for _ in range(rounds):
        for name, (disturb, repair) in kinds(lab).items():
            gone: list[str] = []
            macs = {node: mac_of(lab, node) for node in EDGES}
            try:
                found[name].append(move(lab, macs, lambda node, gone=gone, act=disturb: (gone.append(node), act(node))))  # type: ignore[misc]
            finally:
                for node in gone:
                    repair(node)
            time.sleep(SETTLE_S)
    return found


def main(rounds: int = 5) -> None:
    """Prints Markdown, saves JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-l2-") as home:
        environment = {**os.environ, "STENTOR_LAB_HOME": f"{home}/labs"}
        environment.pop("KUBECONFIG", None)
        lab = Lab("l2-failover", environment)
        topology = Path(home) / "topology.yaml"
        topology.write_text(yaml.safe_dump(TOPOLOGY))
        try:
            lab.run("up", str(topology))
            found = measure(lab, rounds)
        finally:
            subprocess.run([STENTOR, "lab", "down", "--all"], env=environment, check=True, stdout=subprocess.DEVNULL)
    save("l2-failover", found)
    print(f"### An address without an answer, s, {rounds} rounds, aim ≤ {AIM_S:g}\n")
    print("| the node that answers | median | worst |\n|---|---|---|")
    for name, samples in found.items():
        print(f"| {name} | {summarise(samples)} | {max(samples):.2f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
