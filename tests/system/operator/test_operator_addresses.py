"""Addresses of services: kubectl, a real API server, a real operator."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from apiservers.operator import STENTOR, Operator
from apiservers.process import Server
from labs.lab import eventually


class Place:
    """A namespace of the test's own, and pools that only its services may use."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"lb-{uuid.uuid4().hex[:8]}"

    def pool(self, suffix: str, *blocks: dict[str, str], **spec: Any) -> str:
        """Make or change a pool; its name."""
        name = f"{self.name}-{suffix}"
        selector = spec.pop("serviceSelector", {"matchLabels": {"io.kubernetes.service.namespace": self.name}})
        document = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumLoadBalancerIPPool",
            "metadata": {"name": name},
            "spec": {"blocks": list(blocks), "serviceSelector": selector, **spec},
        }
        self.server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))
        return name

    def service(self, name: str, notes: dict[str, str] | None = None, port: int = 80, **spec: Any) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": notes or {}},
            "spec": {"type": "LoadBalancer", "ports": [{"port": port}], "selector": {"app": name}, **spec},
        }
        self.server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document), namespace=self.name)

    def get(self, name: str) -> Any:
        return json.loads(self.server.kubectl("get", "service", name, "-o", "json", namespace=self.name))

    def addresses(self, name: str) -> list[str]:
        return [each["ip"] for each in self.get(name)["status"]["loadBalancer"].get("ingress", ())]

    def condition(self, name: str) -> tuple[str, str, str] | None:
        for each in self.get(name)["status"].get("conditions", ()):
            if each["type"] == "cilium.io/IPAMRequestSatisfied":
                return (each["status"], each["reason"], each["message"])
        return None

    def pool_conditions(self, pool: str) -> dict[str, tuple[str, str, str]]:
        document = json.loads(self.server.kubectl("get", "ippool", pool, "-o", "json"))
        conditions = document.get("status", {}).get("conditions", ())
        return {each["type"]: (each["status"], each["reason"], each["message"]) for each in conditions}

    def expect(self, name: str, addresses: list[str], condition: tuple[str, str, str] | None) -> None:
        def check() -> None:
            assert (self.addresses(name), self.condition(name)) == (addresses, condition)

        eventually(check)


SATISFIED = ("True", "satisfied", "")


@pytest.fixture
def place(cluster: Server, operator: Operator) -> Iterator[Place]:
    there = Place(cluster)
    cluster.kubectl("create", "namespace", there.name)
    yield there
    cluster.kubectl("delete", "namespace", there.name, "--wait=false")
    pools = cluster.kubectl("get", "ippools", "-o", "name").split()
    cluster.kubectl("delete", "--ignore-not-found", *[pool for pool in pools if there.name in pool] or ["ippool/none"])


def test_a_service_gets_addresses_and_its_pool_counts(place: Place) -> None:
    pool = place.pool("p", {"cidr": "10.1.0.0/28"}, {"start": "fd00:1::1", "stop": "fd00:1::4"})
    place.service("web", ipFamilyPolicy="RequireDualStack")
    place.expect("web", ["10.1.0.0", "fd00:1::1"], SATISFIED)

    def counted() -> None:
        assert place.pool_conditions(pool) == {
            "cilium.io/PoolConflict": ("False", "resolved", ""),
            "cilium.io/IPsTotal": ("Unknown", "noreason", "20"),
            "cilium.io/IPsAvailable": ("Unknown", "noreason", "18"),
            "cilium.io/IPsUsed": ("Unknown", "noreason", "2"),
        }

    eventually(counted)
    row = place.server.kubectl("get", "ippool", pool).splitlines()[1].split()
    assert row[1:4] == ["false", "False", "18"]


def test_what_is_asked_for_and_what_cannot_be_had(place: Place) -> None:
    place.pool("p", {"cidr": "10.2.0.0/30"}, allowFirstLastIPs="No")
    place.service("asked", {"lbipam.cilium.io/ips": "10.2.0.2"})
    place.expect("asked", ["10.2.0.2"], SATISFIED)
    place.service("late", {"io.cilium/lb-ipam-ips": "10.2.0.2"})
    place.expect(
        "late", [], ("False", "already_allocated", "The IP '10.2.0.2' is already allocated to another service")
    )
    place.service("outside", loadBalancerIP="192.0.2.9")
    place.expect("outside", [], ("False", "no_pool", "No pool exists with a CIDR containing '192.0.2.9'"))
    place.service("any")
    place.expect("any", ["10.2.0.1"], SATISFIED)
    place.service("none")
    message = "All enabled CiliumLoadBalancerIPPools that match this service ran out of allocatable IPs"
    place.expect("none", [], ("False", "out_of_ips", message))
    place.server.kubectl("delete", "service", "any", namespace=place.name)
    place.expect("none", ["10.2.0.1"], SATISFIED)


def test_sharing_one_address(place: Place) -> None:
    place.pool("p", {"cidr": "10.3.0.0/28"})
    key = {"lbipam.cilium.io/sharing-key": "k"}
    place.service("one", key, port=80)
    place.expect("one", ["10.3.0.0"], SATISFIED)
    place.service("two", key, port=81)
    place.expect("two", ["10.3.0.0"], SATISFIED)
    place.service("same-port", key, port=80)
    place.expect("same-port", ["10.3.0.1"], SATISFIED)
    place.service("insists", key | {"lbipam.cilium.io/ips": "10.3.0.0"}, port=81)
    message = "The IP '10.3.0.0' is already allocated to an incompatible service. Reason: same port"
    place.expect("insists", [], ("False", "already_allocated_incompatible_service", message))
    place.service("two", {}, port=81)
    place.expect("two", ["10.3.0.2"], SATISFIED)
    place.expect("insists", ["10.3.0.0"], SATISFIED)


def test_pools_come_change_and_go(place: Place) -> None:
    first = place.pool("a", {"cidr": "10.4.0.0/30"})
    place.service("web")
    place.expect("web", ["10.4.0.0"], SATISFIED)
    second = place.pool("b", {"cidr": "10.4.0.2/31"}, {"start": "10.4.9.9", "stop": "10.4.9.1"})

    def conflicting() -> None:
        conditions = place.pool_conditions(second)
        assert conditions.get("cilium.io/PoolConflict") == (
            "True",
            "cidr_overlap",
            f"Pool conflicts since range '10.4.0.2 - 10.4.0.3' overlaps range '10.4.0.0 - 10.4.0.3' from IP Pool '{first}'",
        )
        fault = conditions.get("stentor.io/InvalidConfiguration")
        assert fault == ("True", "InvalidBlock", "spec.blocks[1].stop: 10.4.9.1 is below start 10.4.9.9")

    eventually(conflicting)
    place.pool("a", {"cidr": "10.4.0.0/30"}, disabled=True)
    place.service("late")
    message = "There are no enabled CiliumLoadBalancerIPPools that match this service"
    place.expect("late", [], ("False", "no_pool", message))
    place.expect("web", ["10.4.0.0"], SATISFIED)
    place.server.kubectl("delete", "ippool", first)
    place.expect("web", ["10.4.0.2"], SATISFIED)
    place.expect("late", ["10.4.0.3"], SATISFIED)
    place.pool("b", {"cidr": "10.4.0.3/32"})
    place.expect("late", ["10.4.0.3"], SATISFIED)
    message = "All enabled CiliumLoadBalancerIPPools that match this service ran out of allocatable IPs"
    place.expect("web", [], ("False", "out_of_ips", message))


def stentor(place: Place, *arguments: str) -> str:
    command = [str(STENTOR), "--kubeconfig", str(place.server.pki / "admin.kubeconfig"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_shows_pools_and_services(place: Place) -> None:
    pool = place.pool("p", {"cidr": "10.7.0.0/30"}, {"start": "10.7.1"})
    place.service("web")
    place.service("asks", {"lbipam.cilium.io/ips": "10.9.9.9"})
    place.expect("web", ["10.7.0.0"], SATISFIED)
    place.expect("asks", [], ("False", "no_pool", "No pool exists with a CIDR containing '10.9.9.9'"))

    def shown() -> None:
        (row,) = [each for each in json.loads(stentor(place, "lb", "pools", "-o", "json")) if each["name"] == pool]
        assert (row["ipsTotal"], row["ipsUsed"], row["ipsAvailable"], row["conflicting"]) == (4, 1, 3, "False")
        assert row["problem"].startswith("spec.blocks[1].start: '10.7.1'")

    eventually(shown)
    head, *rows = stentor(place, "lb", "pools").splitlines()
    assert head.split("   ")[0] == "NAME"
    assert any(row.split()[:6] == [pool, "False", "False", "4", "1", "3"] for row in rows)
    table = stentor(place, "lb", "services")
    assert any(row.split() == [place.name, "web", "10.7.0.0", pool, "satisfied"] for row in table.splitlines())
    assert "No pool exists with a CIDR containing '10.9.9.9'" in table


def test_classes_and_types(place: Place) -> None:
    place.pool("p", {"cidr": "10.5.0.0/28"})
    place.service("bgp", loadBalancerClass="io.cilium/bgp-control-plane")
    place.expect("bgp", ["10.5.0.0"], SATISFIED)
    place.service("other", loadBalancerClass="example.org/lb")
    place.service("node", loadBalancerClass="io.cilium/node")
    place.service("plain")
    place.expect("plain", ["10.5.0.1"], SATISFIED)
    place.expect("other", [], None)
    place.expect("node", [], None)
    place.service("plain", type="ClusterIP")
    place.expect("plain", [], None)


def test_what_somebody_else_writes_into_the_status(place: Place) -> None:
    place.pool("p", {"cidr": "10.8.0.0/28"})
    for name in ("web", "other"):
        place.service(name)
    place.expect("other", ["10.8.0.1"], SATISFIED)
    condition = {
        "type": "example.org/Theirs",
        "status": "True",
        "reason": "Theirs",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    stolen = {"status": {"loadBalancer": {"ingress": [{"ip": "10.8.0.1"}]}, "conditions": [condition]}}
    place.server.kubectl(
        "patch",
        "service",
        "web",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps(stolen),
        namespace=place.name,
    )
    place.expect("web", ["10.8.0.0"], SATISFIED)
    place.expect("other", ["10.8.0.1"], SATISFIED)
    assert place.get("web")["status"]["conditions"][0]["type"] == "example.org/Theirs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restart_changes_nothing(place: Place, operator: Operator, number: signal.Signals) -> None:
    place.pool("p", {"cidr": "10.6.0.0/28"})
    for index in range(5):
        place.service(f"s{index}")
    for index in range(5):
        place.expect(f"s{index}", [f"10.6.0.{index}"], SATISFIED)
    versions = {index: place.get(f"s{index}")["metadata"]["resourceVersion"] for index in range(5)}
    operator.stop(number)
    place.server.kubectl("delete", "service", "s1", namespace=place.name)
    place.service("new")
    operator.start()
    place.expect("new", ["10.6.0.1"], SATISFIED)
    for index in (0, 2, 3, 4):
        assert place.get(f"s{index}")["metadata"]["resourceVersion"] == versions[index]


def test_crashes_while_addresses_are_given(place: Place, operator: Operator) -> None:
    """At no moment two services show one address, and in the end all have theirs."""
    place.pool("p", {"cidr": "10.10.0.0/26"})

    def shown() -> list[str]:
        found = json.loads(place.server.kubectl("get", "services", "-o", "json", namespace=place.name))["items"]
        addresses = [each["ip"] for item in found for each in item["status"]["loadBalancer"].get("ingress", ())]
        assert len(addresses) == len(set(addresses))
        return addresses

    for turn in range(4):
        documents = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"s{turn}-{number}"},
                "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
            }
            for number in range(12)
        ]
        place.server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents), namespace=place.name)
        shown()
        operator.stop(signal.SIGKILL)
        gone = [f"s{turn}-{number}" for number in (0, 3, 7)]
        place.server.kubectl("delete", "service", *gone, namespace=place.name)
        shown()
        operator.start()
    eventually(lambda: len(shown()) == 4 * 9)
