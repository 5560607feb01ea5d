"""Certificates, kubeconfigs and configuration of all machines, made while the daemon builds namespaces.

Written below the lab's directory, from where machines see them (`machine.DISK`). A machine gets its own keys only; the
cluster's authority lies on its control plane.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import yaml

import stentor
from stentor.apiserver import authorization, pki
from stentor.lab import component
from stentor.lab.place import Place
from stentor.lab.plan import Cluster, Machine, Plan

_LOOPBACK = ("127.0.0.1", "::1")


def prepare(plan: Plan, place: Place, ports: dict[str, int]) -> None:
    """Writes everything; `ports` are those of the relays on the host's loopback, by cluster."""
    contexts = []
    for cluster in plan.clusters:
        directory = place.cluster(cluster.name)
        authority = _authority(plan, cluster, directory)
        admin = pki.make_client(authority, "kubernetes-admin", ("system:masters",))
        ca = authority.pair.certificate
        local = pki.make_kubeconfig(f"https://127.0.0.1:{component.API_PORT}", ca, admin, name=cluster.name)
        _write_private(directory / "admin.conf", local)
        server = f"https://127.0.0.1:{ports[cluster.name]}"
        contexts.append(_Context(cluster.name, server, ca, admin))
        _write_private(directory / "kubeconfig", _kubeconfig(contexts[-1:]))
        for name in cluster.nodes:
            _prepare_node(plan, cluster, plan.machine(name), authority, place)
    _write_private(place.kubeconfig, _kubeconfig(contexts))


def _authority(plan: Plan, cluster: Cluster, directory: Path) -> pki.Authority:
    addresses = [*plan.machine(cluster.control_plane).addresses, *cluster.api_addresses]
    return pki.Files(directory / "pki").ensure([cluster.control_plane, *_LOOPBACK, *map(str, addresses)])


def _prepare_node(plan: Plan, cluster: Cluster, machine: Machine, authority: pki.Authority, place: Place) -> None:
    disk = place.machine(machine.name)
    _write_certificates(plan, cluster, machine, authority, place)
    (disk / "values").mkdir(parents=True, exist_ok=True)
    (disk / "values" / "values.yaml").write_text(yaml.safe_dump(machine.values, sort_keys=False))
    manifests = disk / "lab" / "components"
    manifests.mkdir(parents=True, exist_ok=True)
    for part in component.of_machine(plan, machine):
        if part.pod:
            document = component.manifest(part, part.pod, machine, stentor.__version__)
            (manifests / f"{part.name}.json").write_bytes(msgspec.json.encode(document))
    (disk / "lab" / "images.json").write_bytes(msgspec.json.encode(plan.images))


def _write_certificates(plan: Plan, cluster: Cluster, machine: Machine, authority: pki.Authority, place: Place) -> None:
    is_control_plane = machine.name == cluster.control_plane
    kubernetes = place.machine(machine.name) / "kubernetes"
    own = pki.Files(kubernetes / "pki")
    own.directory.mkdir(parents=True, exist_ok=True)
    shared = pki.Files(place.cluster(cluster.name) / "pki")
    for path in shared.directory.iterdir() if is_control_plane else (shared.path("ca.crt"),):
        pki.write_private(own.path(path.name), path.read_bytes())
    subjects = (machine.name, *_LOOPBACK, *map(str, machine.addresses))
    own.write_pair("kubelet", pki.make_server(authority, f"system:node:{machine.name}", subjects))
    users = {
        "kubelet": (f"system:node:{machine.name}", authorization.NODES),
        "agent": (f"system:stentor:agent:{machine.name}", authorization.AGENTS),
    }
    if is_control_plane:
        users |= {
            "admin": ("kubernetes-admin", authorization.ADMINS),
            "controller-manager": (authorization.CONTROLLERS, "system:kube-controllers"),
            "operator": (authorization.OPERATOR, "system:stentor:operators"),
        }
    server = _server(plan, cluster, machine)
    for file, (user, group) in users.items():
        client = pki.make_client(authority, user, (group,))
        text = pki.make_kubeconfig(server, authority.pair.certificate, client, name=cluster.name)
        _write_private(kubernetes / f"{file}.conf", text)


def _server(plan: Plan, cluster: Cluster, machine: Machine) -> str:
    """The API server as the machine reaches it: by a family that both have, IPv4 first."""
    families = {address.version for address in machine.node_addresses}
    addresses = plan.machine(cluster.control_plane).node_addresses
    address = next((a for a in addresses if a.version in families), addresses[0])
    return f"https://{component.bracketed(address)}:{component.API_PORT}"


class _Context(msgspec.Struct, frozen=True):
    name: str
    server: str
    ca: bytes
    client: pki.Pair


def _kubeconfig(contexts: list[_Context]) -> str:
    """One file with a context for each cluster; the first is the current one."""
    document: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
    for each in contexts:
        cluster = {"server": each.server, "certificate-authority-data": _base64(each.ca)}
        user = {
            "client-certificate-data": _base64(each.client.certificate),
            "client-key-data": _base64(each.client.key),
        }
        document["clusters"].append({"name": each.name, "cluster": cluster})
        document["users"].append({"name": each.name, "user": user})
        document["contexts"].append({"name": each.name, "context": {"cluster": each.name, "user": each.name}})
    document["current-context"] = contexts[0].name if contexts else ""
    return yaml.safe_dump(document, sort_keys=False)


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pki.write_private(path, text.encode())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
