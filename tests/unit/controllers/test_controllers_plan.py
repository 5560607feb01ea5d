"""What the workload controllers decide, and that their decisions lead where they should."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.api.core import Node, Service
from stentor.api.meta import ObjectKey, ObjectMeta
from stentor.api.pod import Pod, PodSpec
from stentor.api.workload import DaemonSet, Deployment, ReplicaSet, ReplicaSetStatus
from stentor.lab.controllers import (
    daemonset,
    deployment,
    endpointslice,
    nodelifecycle,
    owner,
    placement,
    replicaset,
    rollout,
    scheduler,
)
from stentor.lab.controllers.deployment import Limits
from stentor.lab.controllers.scheduler import Unschedulable
from stentor.lab.controllers.store import Store

NOW_S = 1_800_000_000.0
STAMP = "2027-01-15T08:00:00Z"


def node(name: str, *, ready: str | None = "True", **fields: Any) -> Node:
    conditions = [{"type": "Ready", "status": ready}] if ready else []
    meta = {"name": name, "labels": {"kubernetes.io/hostname": name, **fields.pop("labels", {})}}
    return msgspec.convert({"metadata": meta, "spec": fields, "status": {"conditions": conditions}}, Node)


def pod(name: str, **fields: Any) -> Pod:
    meta = {"name": name, "namespace": "n", "uid": f"uid-{name}", "creationTimestamp": STAMP, **fields.pop("meta", {})}
    status = fields.pop("status", {})
    return msgspec.convert({"metadata": meta, "spec": {"containers": [{"name": "c"}], **fields}, "status": status}, Pod)


def ready_status(*addresses: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": STAMP}
    return {"phase": "Running", "conditions": [condition], "podIPs": [{"ip": address} for address in addresses]}


def owned(uid: str, kind: str = "ReplicaSet") -> dict[str, Any]:
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": "owner", "uid": uid, "controller": True}
    return {"ownerReferences": [reference]}


# ---- scheduler


NODES = [node("a", labels={"disk": "ssd", "cores": "8"}), node("b")]


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({}, "a"),
        ({"nodeSelector": {"kubernetes.io/hostname": "b"}}, "b"),
        ({"nodeSelector": {"disk": "hdd"}}, "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        (
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}]}}}},
            "b",
        ),
        (
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}},
            "b",
        ),
        (
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}]}}}},
            "a",
        ),
    ],
)  # fmt: skip
def test_labels_decide(fields: dict[str, Any], chosen: str) -> None:
    found = scheduler.choose(pod("p", **fields), NODES, [])
    assert (found.message if isinstance(found, Unschedulable) else found) == chosen


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (node("x", ready="False"), "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
        (node("x", ready=None), "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
        (node("x", unschedulable=True), "1 node(s) were unschedulable"),
        (
            node("x", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]),
            "1 node(s) had untolerated taint {k: v}",
        ),
    ],
)
def test_taints_keep_away(kept: Node, reason: str) -> None:
    assert scheduler.choose(pod("p"), [kept], []) == Unschedulable(f"0/1 nodes are available: {reason}.")
    assert scheduler.choose(pod("p", tolerations=[{"operator": "Exists"}]), [kept], []) == "x"


def test_no_nodes() -> None:
    assert scheduler.choose(pod("p"), [], []) == Unschedulable("no nodes available to schedule pods")


def test_host_ports_exclude_each_other() -> None:
    ports = [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]
    taken = pod("t", nodeName="a", containers=ports)
    assert scheduler.choose(pod("p", containers=ports), NODES, [taken]) == "b"


@given(st.integers(1, 5), st.integers(0, 30))
def test_pods_spread(nodes: int, pods: int) -> None:
    machines = [node(f"m{n}") for n in range(nodes)]
    placed: list[Pod] = []
    for index in range(pods):
        fresh = pod(f"p{index}", meta=owned("set"))
        choice = scheduler.choose(fresh, machines, placed)
        assert isinstance(choice, str)
        placed.append(msgspec.structs.replace(fresh, spec=msgspec.structs.replace(fresh.spec, node_name=choice)))
    counts = [sum(1 for entry in placed if entry.spec.node_name == machine.metadata.name) for machine in machines]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: dict[str, Any], tolerated: bool) -> None:
    spec = msgspec.convert({"tolerations": [toleration]}, PodSpec)
    tainted = node("x", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    assert (placement.untolerated(spec, tainted) is None) is tolerated


# ---- ReplicaSet


def replica_set(replicas: int, **status: Any) -> ReplicaSet:
    spec = {"replicas": replicas, "template": {"metadata": {"labels": {"a": "b"}}}}
    return msgspec.convert({"metadata": {"name": "owner", "uid": "set"}, "spec": spec, "status": status}, ReplicaSet)


def test_missing_pods_are_created_and_counted() -> None:
    pods = [
        pod("ready", meta={"labels": {"a": "b"}}, status=ready_status()),
        pod("starting"),
        pod("over", status={"phase": "Succeeded"}),
        pod("going", meta={"deletionTimestamp": STAMP}),
    ]
    found = replicaset.plan(replica_set(5), pods, NOW_S)
    assert (found.create, found.delete) == (3, ())
    assert found.status == ReplicaSetStatus(
        replicas=2, fully_labeled_replicas=1, ready_replicas=1, available_replicas=1
    )


def test_those_that_serve_least_go_first() -> None:
    pods = [
        pod("ready", nodeName="a", status=ready_status()),
        pod("running", nodeName="a", status={"phase": "Running"}),
        pod("pending", nodeName="a", status={"phase": "Pending"}),
        pod("unscheduled"),
    ]
    order = [
        [entry.metadata.name for entry in replicaset.plan(replica_set(count), pods, NOW_S).delete]
        for count in (3, 2, 1)
    ]
    assert order == [["unscheduled"], ["unscheduled", "pending"], ["unscheduled", "pending", "running"]]


def test_min_ready_seconds_delay_availability() -> None:
    spec = msgspec.structs.replace(replica_set(1).spec, min_ready_seconds=30)
    slow = msgspec.structs.replace(replica_set(1), spec=spec)
    found = replicaset.plan(slow, [pod("p", status=ready_status())], NOW_S + 10)
    assert (found.status.ready_replicas, found.status.available_replicas, found.check_again_s) == (1, 0, 20.0)


# ---- Deployment


def make_deployment(replicas: int, image: str = "x:1", **fields: Any) -> Deployment:
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "d"}}, "template": template, **fields}
    return msgspec.convert(
        {"metadata": {"name": "d", "namespace": "n", "uid": "dep", "generation": 1}, "spec": spec}, Deployment
    )


class World:
    """ReplicaSets that obey, with pods that become available one by one."""

    def __init__(self) -> None:
        self.sets: dict[str, ReplicaSet] = {}
        self._numbers = itertools.count()

    def act(self, wanted: Deployment) -> bool:
        """One step of the controller; whether it did anything."""
        plan = deployment.plan(wanted, list(self.sets.values()))
        acted = plan.create is not None or bool(plan.scale) or bool(plan.delete)
        if plan.create is not None:
            digest = deployment.template_hash(wanted)
            document = rollout.new_set_document(wanted, digest, plan)
            document["metadata"]["uid"] = f"uid-{digest}"
            document["metadata"]["creationTimestamp"] = f"2027-01-15T08:00:{next(self._numbers):02d}Z"
            self._put(msgspec.convert(document, ReplicaSet))
        for scale in plan.scale:
            spec = msgspec.structs.replace(scale.replica_set.spec, replicas=scale.replicas)
            self._put(msgspec.structs.replace(self.sets[scale.replica_set.metadata.name], spec=spec))
        for surplus in plan.delete:
            del self.sets[surplus.metadata.name]
        return acted

    def _put(self, entry: ReplicaSet) -> None:
        self.sets[entry.metadata.name] = entry

    def settle(self, name: str, available: int) -> None:
        entry = self.sets[name]
        count = entry.spec.replicas
        fields = ReplicaSetStatus(
            replicas=count, ready_replicas=min(available, count), available_replicas=min(available, count)
        )
        self._put(msgspec.structs.replace(entry, status=fields))

    def available(self) -> int:
        return sum(min(entry.status.available_replicas, entry.spec.replicas) for entry in self.sets.values())

    def total(self) -> int:
        return sum(entry.spec.replicas for entry in self.sets.values())


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        ("25%", "25%", 4, Limits(1, 1)),
        ("25%", "25%", 10, Limits(3, 2)),
        (0, 0, 4, Limits(0, 1)),
        ("0%", "10%", 3, Limits(0, 1)),
        (2, 0, 3, Limits(2, 0)),
    ],
)
def test_limits(surge: int | str, unavailable: int | str, replicas: int, expected: Limits) -> None:
    rolling = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    assert deployment.limits(make_deployment(replicas, strategy=rolling)) == expected


@settings(max_examples=60)
@given(st.data())
def test_a_rollout_stays_within_its_limits_and_ends(data: st.DataObject) -> None:
    """Whatever order pods become available in, and however large surge and unavailability are."""
    replicas = data.draw(st.integers(1, 8))
    rolling = {"maxSurge": data.draw(st.integers(0, 3)), "maxUnavailable": data.draw(st.integers(0, 3))}
    strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
    world = World()
    old = make_deployment(replicas, "x:1", strategy=strategy)
    while world.act(old):
        for name in list(world.sets):
            world.settle(name, 99)
    assert world.available() == replicas
    new = make_deployment(replicas, "x:2", strategy=strategy)
    limits = deployment.limits(new)
    for _ in range(200):
        acted = world.act(new)
        assert world.total() <= replicas + limits.surge
        assert world.available() >= replicas - limits.unavailable
        pending = [name for name, entry in world.sets.items() if entry.status.available_replicas != entry.spec.replicas]
        if not acted and not pending:
            break
        for name in pending:
            entry = world.sets[name]
            step = data.draw(st.integers(0, 2)) if acted else 1
            world.settle(name, min(entry.spec.replicas, entry.status.available_replicas + step))
    current = deployment.current_set(new, list(world.sets.values()))
    assert current is not None
    assert (current.spec.replicas, world.total()) == (replicas, replicas)


def test_recreate_waits_until_the_old_pods_are_gone() -> None:
    world = World()
    old = make_deployment(2, "x:1", strategy={"type": "Recreate"})
    world.act(old)
    (name,) = world.sets
    world.settle(name, 2)
    new = make_deployment(2, "x:2", strategy={"type": "Recreate"})
    assert world.act(new)
    assert world.total() == 0
    assert not world.act(new), "pods of the old set are still there"
    world.settle(name, 0)
    assert world.act(new)
    assert world.total() == 2


def test_undo_takes_the_old_set_and_a_new_revision() -> None:
    world = World()
    first, second = make_deployment(1, "x:1"), make_deployment(1, "x:2")
    for wanted in (first, second):
        while world.act(wanted):
            for name in list(world.sets):
                world.settle(name, 9)
    assert sorted(deployment.revision_of(entry) for entry in world.sets.values()) == [1, 2]
    plan = deployment.plan(first, list(world.sets.values()))
    assert (plan.create, plan.revision) == (None, 3)


def test_history_is_limited() -> None:
    world = World()
    for number in range(6):
        wanted = make_deployment(1, f"x:{number}", revisionHistoryLimit=2)
        while world.act(wanted):
            for name in list(world.sets):
                world.settle(name, 9)
    assert len(world.sets) == 3


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    world = World()
    world.act(make_deployment(2, "x:1"))
    (name,) = world.sets
    world.settle(name, 2)
    world.act(make_deployment(4, "x:2", paused=True))
    assert {entry.metadata.name: entry.spec.replicas for entry in world.sets.values()} == {name: 4}


def test_status_and_conditions() -> None:
    world = World()
    wanted = make_deployment(2)
    world.act(wanted)
    current = next(iter(world.sets.values()))
    early = deployment.compute_status(wanted, current, [current], STAMP, NOW_S)
    assert [(entry.type, entry.status, entry.reason) for entry in early.conditions] == [
        ("Available", "False", "MinimumReplicasUnavailable"),
        ("Progressing", "True", "ReplicaSetUpdated"),
    ]
    assert early.unavailable_replicas == 2
    shown = msgspec.structs.replace(wanted, status=early)
    late = deployment.compute_status(shown, current, [current], "2027-01-15T09:00:00Z", NOW_S + 3600)
    assert late.conditions[1].reason == "ProgressDeadlineExceeded"
    world.settle(current.metadata.name, 2)
    current = world.sets[current.metadata.name]
    done = deployment.compute_status(shown, current, [current], STAMP, NOW_S)
    assert [(entry.status, entry.reason) for entry in done.conditions] == [
        ("True", "MinimumReplicasAvailable"),
        ("True", "NewReplicaSetAvailable"),
    ]
    settled = msgspec.structs.replace(wanted, status=done)
    assert deployment.compute_status(settled, current, [current], "2028-01-01T00:00:00Z", NOW_S) == done


# ---- DaemonSet


def daemon_set(image: str = "x:1", **fields: Any) -> DaemonSet:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}], **fields}}
    return msgspec.convert(
        {"metadata": {"name": "ds", "uid": "ds"}, "spec": {"selector": {}, "template": template}}, DaemonSet
    )


def daemon_pod(name: str, place: str, owner_set: DaemonSet, **fields: Any) -> Pod:
    labels = {"labels": {daemonset.HASH: owner.hash_text(owner_set.spec.template)}}
    return pod(name, nodeName=place, meta={**owned("ds", "DaemonSet"), **labels}, **fields)


def test_each_fitting_node_gets_one_pod() -> None:
    nodes = [
        node("a"),
        node("b", ready="False"),
        node("c", taints=[{"key": "k", "effect": "NoSchedule"}]),
        node("d", unschedulable=True),
    ]
    wanted = daemon_set()
    found = daemonset.plan(wanted, nodes, [daemon_pod("p", "a", wanted), daemon_pod("q", "gone", wanted)], NOW_S)
    assert found.create == ("b", "d")
    assert [entry.metadata.name for entry in found.delete] == ["q"]
    assert found.status.desired_number_scheduled == 3


def test_pods_waiting_for_the_scheduler_count() -> None:
    wanted = daemon_set()
    template = daemonset.node_template(wanted.spec.template, "a")
    waiting = pod("p", meta=owned("ds", "DaemonSet"), **template["spec"])
    assert daemonset.plan(wanted, [node("a")], [waiting], NOW_S).create == ()
    assert scheduler.choose(waiting, [node("b"), node("a")], []) == "a"


def test_pods_of_an_old_template_go_one_by_one() -> None:
    old, new = daemon_set("x:1"), daemon_set("x:2")
    pods = [daemon_pod(f"p{n}", f"m{n}", old, status=ready_status()) for n in range(3)]
    nodes = [node(f"m{n}") for n in range(3)]
    first = daemonset.plan(new, nodes, pods, NOW_S)
    assert len(first.delete) == 1
    rest = [daemon_pod("fresh", "m0", new), *pods[1:]]
    assert daemonset.plan(new, nodes, rest, NOW_S).delete == (), "the fresh one is not available yet"


# ---- EndpointSlice


def service(**fields: Any) -> Service:
    spec = {"selector": {"app": "x"}, "ipFamilies": ["IPv4", "IPv6"], "clusterIP": "10.96.0.5", **fields}
    spec.setdefault("ports", [{"name": "http", "port": 80, "targetPort": "web"}])
    return msgspec.convert({"metadata": {"name": "s", "namespace": "n", "uid": "svc"}, "spec": spec}, Service)


def backend(name: str, number: int = 8080, *addresses: str, **fields: Any) -> Pod:
    containers = [{"name": "c", "ports": [{"name": "web", "containerPort": number}]}]
    labels = {"labels": {"app": "x"}, **fields.pop("meta", {})}
    status = fields.pop("status", ready_status(*(addresses or ("10.0.0.1", "fd00::1"))))
    return pod(name, containers=containers, meta=labels, nodeName="a", status=status, **fields)


ZONED = node("a", labels={"topology.kubernetes.io/zone": "z1"})


def slices(found: Service, *pods: Pod) -> list[Any]:
    return endpointslice.compute(found, pods, lambda name: ZONED if name == "a" else None)


def test_one_slice_a_family() -> None:
    v4, v6 = slices(service(), backend("p"))
    assert (v4.address_type, v6.address_type) == ("IPv4", "IPv6")
    assert v4.metadata.labels["kubernetes.io/service-name"] == "s"
    (endpoint,) = v4.endpoints
    assert endpoint.addresses == ("10.0.0.1",)
    assert (endpoint.node_name, endpoint.zone, endpoint.target_ref.name) == ("a", "z1", "p")
    assert [(port.name, port.port, port.protocol) for port in v4.ports] == [("http", 8080, "TCP")]
    assert v6.endpoints[0].addresses == ("fd00::1",)
    assert v4.metadata.name != v6.metadata.name


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "expected"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, False, True, (True, True, False)),
        (False, True, True, (True, True, True)),
    ],
)
def test_conditions(ready: bool, terminating: bool, publish: bool, expected: tuple[bool, bool, bool]) -> None:
    status = ready_status("10.0.0.1")
    if not ready:
        status["conditions"] = []
    meta = {"deletionTimestamp": STAMP} if terminating else {}
    found = service(ipFamilies=["IPv4"], publishNotReadyAddresses=publish)
    conditions = slices(found, backend("p", status=status, meta=meta))[0].endpoints[0].conditions
    assert (conditions.ready, conditions.serving, conditions.terminating) == expected


def test_pods_with_other_port_numbers_get_a_slice_of_their_own() -> None:
    found = slices(service(ipFamilies=["IPv4"]), backend("p", 8080), backend("q", 9090))
    assert sorted(entry.ports[0].port for entry in found) == [8080, 9090]
    assert len({entry.metadata.name for entry in found}) == 2


def test_slices_hold_a_hundred() -> None:
    pods = [backend(f"p{n:03d}", 80, f"10.0.{n // 200}.{n % 200 + 1}") for n in range(250)]
    assert [len(entry.endpoints) for entry in slices(service(ipFamilies=["IPv4"]), *pods)] == [100, 100, 50]


def test_what_is_no_endpoint() -> None:
    found = service(ipFamilies=["IPv4"])
    finished = backend("p", status={"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.1"}]})
    unaddressed = backend("q", status={"phase": "Pending"})
    assert slices(found, finished, unaddressed)[0].endpoints == ()
    assert slices(service(selector={}), backend("p")) == []
    assert slices(service(type="ExternalName"), backend("p")) == []


def test_headless_names() -> None:
    found = service(clusterIP="None", ipFamilies=["IPv4"])
    (entry,) = slices(found, backend("p", 80, "10.0.0.1", hostname="h", subdomain="s"))
    assert entry.endpoints[0].hostname == "h"
    assert endpointslice.HEADLESS in entry.metadata.labels


# ---- node lifecycle


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        ("True", []),
        ("False", [("node.kubernetes.io/not-ready", "NoSchedule"), ("node.kubernetes.io/not-ready", "NoExecute")]),
        (
            "Unknown",
            [("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")],
        ),
    ],
)
def test_taints_follow_readiness(ready: str, expected: list[tuple[str, str]]) -> None:
    stale = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
    own = {"key": "mine", "effect": "NoSchedule"}
    found = nodelifecycle.wanted_taints(node("a", ready=ready, taints=[stale, own]))
    assert ("mine", "NoSchedule") in [(taint.key, taint.effect) for taint in found]
    assert sorted((taint.key, taint.effect) for taint in found if taint.key != "mine") == sorted(expected)


def test_a_silent_node_is_unknown() -> None:
    found = nodelifecycle.unknown_conditions(node("a"), STAMP)
    assert {condition.type: condition.status for condition in found}["Ready"] == "Unknown"
    again = msgspec.structs.replace(node("a"), status=msgspec.structs.replace(node("a").status, conditions=found))
    assert nodelifecycle.unknown_conditions(again, "2030-01-01T00:00:00Z") == found


# ---- store


def test_what_was_just_written_counts_until_it_is_seen() -> None:
    clock = [0.0]
    store: Store[Pod] = Store(lambda: clock[0])
    store.take([pod("old")], [])
    store.assume(pod("new"))
    assert sorted(entry.metadata.name for entry in store) == ["new", "old"]
    store.take([pod("new", nodeName="a")], [])
    found = store.get(ObjectKey("n", "new"))
    assert found is not None
    assert found.spec.node_name == "a"
    store.take([], [ObjectKey("n", "new")])
    assert [entry.metadata.name for entry in store] == ["old"]
    store.assume(pod("lost"))
    clock[0] = 11.0
    assert [entry.metadata.name for entry in store] == ["old"]


def test_listeners_hear_of_before_and_after() -> None:
    store: Store[Pod] = Store()
    heard: list[str] = []
    store.listen(lambda pods: heard.extend(f"{entry.metadata.name}@{entry.spec.node_name}" for entry in pods))
    store.take([pod("p")], [])
    store.take([pod("p", nodeName="a")], [])
    store.take([], [ObjectKey("n", "p"), ObjectKey("n", "unknown")])
    assert heard == ["p@", "p@", "p@a", "p@a"]


def test_hashes_are_names() -> None:
    assert owner.hash_text({"a": 1, "b": 2}) == owner.hash_text({"b": 2, "a": 1})
    assert owner.hash_text({"a": 1}) != owner.hash_text({"a": 2})
    assert set(owner.hash_text({"a": 1})) <= set("bcdfghjklmnpqrstvwxz2456789")
    assert ObjectMeta(name=owner.hash_text({})).name
