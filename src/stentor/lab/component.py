"""The components of a cluster: which function runs where, with which arguments, and as which pod it is seen.

A table; nothing here starts anything. Paths are those of a machine (`machine.DISK`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from stentor.lab.errors import NotThereError
from stentor.lab.place import home
from stentor.lab.plan import Cluster, Machine, Plan
from stentor.sys.netlink import IPAddress

API_PORT = 6443
_KUBERNETES = "/etc/kubernetes"
_BFD_SOCKET = "/run/stentor/bfd.sock"
_BGP_SWITCH = "bgpControlPlane.enabled"
_BIN = Path(__file__).resolve().parent.parent / "bin"


class Pod(msgspec.Struct, frozen=True):
    """The mirror pod under which a component is seen in kube-system, with upstream's names and labels."""

    name: str
    container: str
    labels: dict[str, str]
    health_port: int = 0


class Component(msgspec.Struct, frozen=True):
    """`main` is `package.module:function` of argv; the control plane's run on one node, the others on each. `switch` is the
    value, false by default, that has to be true for it to run, `farewell` the signal that ends it when it is to stay down."""

    name: str
    main: str
    arguments: Callable[[Plan, Cluster, Machine], list[str]]
    control_plane: bool
    pod: Pod | None = None
    kills_tree: bool = True
    switch: str = ""
    farewell: int = signal.SIGTERM


def _apiserver(plan: Plan, cluster: Cluster, machine: Machine) -> list[str]:
    listen = [f"{bracketed(address)}:{API_PORT}" for address in machine.node_addresses] + [f"127.0.0.1:{API_PORT}"]
    return [
        *("--data", "/var/lib/stentor-lab/apiserver", "--pki", f"{_KUBERNETES}/pki"),
        *(word for address in listen for word in ("--listen", address)),
        *(word for cidr in cluster.service_cidrs for word in ("--service-cidr", str(cidr))),
    ]


def _controllers(plan: Plan, cluster: Cluster, machine: Machine) -> list[str]:
    return ["--config", "/etc/stentor/values.yaml", "--kubeconfig", f"{_KUBERNETES}/controller-manager.conf"]


def _operator(plan: Plan, cluster: Cluster, machine: Machine) -> list[str]:
    return ["--config", "/etc/stentor/values.yaml", "--kubeconfig", f"{_KUBERNETES}/operator.conf"]


def _agent(plan: Plan, cluster: Cluster, machine: Machine) -> list[str]:
    return [
        *("--config", "/etc/stentor/values.yaml", "--kubeconfig", f"{_KUBERNETES}/agent.conf"),
        *("--node-name", machine.name, "--state-dir", "/var/lib/stentor", "--run-dir", "/run/stentor"),
        *("--bpffs", "/sys/fs/bpf", "--cni-conf-dir", "/etc/cni/net.d", "--no-bgp-launch"),
    ]


def _bgp(plan: Plan, cluster: Cluster, machine: Machine) -> list[str]:
    sockets = ("--socket", "/run/stentor/bgp.sock", "--bfd-socket", _BFD_SOCKET)
    return [*sockets, "--no-bfd-launch", "--state-dir", "/run/stentor"]


def _bfd(plan: Plan, cluster: Cluster, machine: Machine) -> list[str]:
    return ["--socket", _BFD_SOCKET]


def _runner(plan: Plan, cluster: Cluster, machine: Machine) -> list[str]:
    labels = ",".join(f"{key}={value}" for key, value in machine.labels.items())
    return [
        *("--kubeconfig", f"{_KUBERNETES}/kubelet.conf", "--node-name", machine.name),
        *("--run-dir", "/run/stentor-lab", "--state-dir", "/var/lib/stentor-lab"),
        *("--manifest-dir", "/etc/stentor-lab/components", "--image-file", "/etc/stentor-lab/images.json"),
        *("--cni-bin-dir", f"{_BIN}:/opt/cni/bin:/usr/lib/cni", "--cni-conf-dir", "/etc/cni/net.d"),
        *("--tls-cert", f"{_KUBERNETES}/pki/kubelet.crt", "--tls-key", f"{_KUBERNETES}/pki/kubelet.key"),
        *("--client-ca", f"{_KUBERNETES}/pki/ca.crt"),
        *("--node-ip", ",".join(map(str, machine.node_addresses))),
        *("--cluster-dns", ",".join(map(str, cluster.dns_addresses))),
        *("--mask", str(home())),  # the keys of every lab lie there
        *(("--node-labels", labels) if labels else ()),
    ]


# In the order of their start: an agent has most to do until its node is Ready.
COMPONENTS = (
    Component(
        "apiserver",
        "stentor.apiserver.command:main",
        _apiserver,
        control_plane=True,
        pod=Pod("kube-apiserver", "kube-apiserver", {"component": "kube-apiserver", "tier": "control-plane"}),
    ),
    Component("runner", "stentor.lab.runner.command:main", _runner, control_plane=False, kills_tree=False),
    # Before the speaker, and both before the agent: each finds the other's socket when it looks for it.
    Component("bfd", "stentor.bgp.bfd.command:main", _bfd, control_plane=False, switch=_BGP_SWITCH),
    Component(
        "bgp", "stentor.bgp.command:main", _bgp, control_plane=False, switch=_BGP_SWITCH, farewell=signal.SIGQUIT
    ),
    Component(
        "agent",
        "stentor.agent.command:main",
        _agent,
        control_plane=False,
        pod=Pod(
            "cilium",
            "cilium-agent",
            {"app.kubernetes.io/name": "cilium-agent", "app.kubernetes.io/part-of": "cilium", "k8s-app": "cilium"},
            health_port=9879,
        ),
    ),
    Component(
        "operator",
        "stentor.operator.command:main",
        _operator,
        control_plane=True,
        pod=Pod(
            "cilium-operator",
            "cilium-operator",
            {
                "app.kubernetes.io/name": "cilium-operator",
                "app.kubernetes.io/part-of": "cilium",
                "io.cilium/app": "operator",
                "name": "cilium-operator",
            },
        ),
    ),
    Component(
        "controllers",
        "stentor.lab.controllers.command:main",
        _controllers,
        control_plane=True,
        pod=Pod(
            "kube-controller-manager",
            "kube-controller-manager",
            {"component": "kube-controller-manager", "tier": "control-plane"},
        ),
    ),
)
_IMAGES = "stentor.lab.images.dns"  # what the node runner forks in its turn


def modules(plan: Plan) -> tuple[str, ...]:
    """What the zygote imports, in this order."""
    wanted = {component.name for machine in plan.machines for component in of_machine(plan, machine)}
    own = (component.main.partition(":")[0] for component in COMPONENTS if component.name in wanted)
    return (*own, _IMAGES) if wanted else ()


def of_machine(plan: Plan, machine: Machine) -> Iterator[Component]:
    """In the order of their start; none on a host."""
    if not machine.cluster:
        return
    cluster = plan.cluster(machine.cluster)
    for component in COMPONENTS:
        if (not component.control_plane or cluster.control_plane == machine.name) and _is_on(component, machine):
            yield component


def _is_on(component: Component, machine: Machine) -> bool:
    value: Any = machine.values if component.switch else True
    for key in component.switch.split(".") if component.switch else ():
        value = value.get(key, False) if isinstance(value, dict) else False
    return bool(value)


def find(plan: Plan, target: str) -> tuple[list[str], str]:
    """Machines and the component, empty for the whole machine, that MACHINE[/COMPONENT] or CLUSTER/COMPONENT means.

    NotThereError lists what there is.
    """
    holder, _, name = target.partition("/")
    machines = [machine for machine in plan.machines if machine.name == holder]
    if not machines and name:
        machines = [machine for machine in plan.machines if machine.cluster and machine.cluster == holder]
    if not machines:
        known = ", ".join(machine.name for machine in plan.machines)
        clusters = ", ".join(cluster.name for cluster in plan.clusters)
        raise NotThereError(
            f"there is no machine {holder!r} (machines: {known}; clusters, for CLUSTER/COMPONENT: {clusters})"
        )
    if not name:
        return [machine.name for machine in machines], ""
    having = [machine.name for machine in machines if name in names(plan, machine)]
    if not having:
        known = ", ".join(dict.fromkeys(known for machine in machines for known in names(plan, machine))) or "nothing"
        raise NotThereError(f"{holder} has no component {name!r} (it runs: {known})")
    return having, name


def names(plan: Plan, machine: Machine) -> list[str]:
    """Of everything supervised on the machine: components of a node, commands of a host."""
    return [component.name for component in of_machine(plan, machine)] + command_names(machine)


def command_names(machine: Machine) -> list[str]:
    """A host's commands by their program; a second one of a kind gets a number."""
    programs = [Path(argv[0]).name for argv in machine.run]
    return [
        program if programs.count(program) == 1 else f"{program}-{programs[:index].count(program) + 1}"
        for index, program in enumerate(programs)
    ]


def manifest(component: Component, pod: Pod, machine: Machine, version: str) -> dict[str, object]:
    """The static pod of a component, as the node runner reads it."""
    container: dict[str, object] = {"name": pod.container, "image": f"stentor/{component.name}:{version}"}
    if pod.health_port:
        get = {"host": "127.0.0.1", "port": pod.health_port, "path": "/healthz"}
        container["readinessProbe"] = {"httpGet": get, "periodSeconds": 1}
    log = f"/var/log/stentor/{component.name}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{pod.name}-{machine.name}",
            "namespace": "kube-system",
            "labels": pod.labels,
            "annotations": {"lab.stentor.io/log": f"{log}.log", "lab.stentor.io/pid": f"{log}.pid"},
        },
        "spec": {
            "nodeName": machine.name,
            "hostNetwork": True,
            "priorityClassName": "system-node-critical",
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }


def bracketed(address: IPAddress) -> str:
    """As a host of URLs and listen addresses."""
    return f"[{address}]" if address.version == 6 else str(address)
