"""A pod's sandbox: its namespaces, pinned below the machine's /run, its address by CNI, its cgroup.

No process holds it: pins do, so that it outlives every container and every runner, and dies with the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from pathlib import Path
from typing import Any, Final

import msgspec

from stentor.api.pod import Pod
from stentor.lab.runner import cni, environment, spawn
from stentor.lab.runner.cni import Attachment, Invoker, Network
from stentor.lab.runner.errors import CniError, SpawnTimeout, StartFailure
from stentor.lab.runner.machine import Machine
from stentor.sys import cgroup, mount

NETNS_DIR: Final = Path("/run/netns")
_TIMEOUT_S: Final = 20.0


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What a later runner needs to remove it. Paths are empty where the pod uses the machine's namespace."""

    id: str
    netns: str = ""
    ipc: str = ""
    uts: str = ""
    addresses: tuple[str, ...] = ()
    network: Network | None = None
    attachment: Attachment | None = None
    result: dict[str, Any] | None = None

    @property
    def is_intact(self) -> bool:
        """Whether it was finished, and its namespaces are still there."""
        pins = (self.netns, self.ipc, self.uts)
        return bool(self.addresses) and all(os.path.ismount(pin) for pin in pins if pin)


def load(directory: Path) -> Sandbox | None:
    """The sandbox that an earlier runner made, or was making when it died."""
    try:
        return msgspec.json.decode((directory / "sandbox.json").read_bytes(), type=Sandbox)
    except (OSError, msgspec.MsgspecError):
        return None


def save(directory: Path, sandbox: Sandbox) -> None:
    scratch = directory / "sandbox.json.tmp"
    scratch.write_bytes(msgspec.json.encode(sandbox))
    scratch.rename(directory / "sandbox.json")


async def create(machine: Machine, invoker: Invoker, network: Network | None, pod: Pod, directory: Path) -> Sandbox:
    """Namespaces and addresses. StartFailure (FailedCreatePodSandBox) when they cannot be had; nothing is left then."""
    if network is None and not pod.spec.host_network:
        raise StartFailure("NetworkNotReady", "network is not ready: cni plugin not initialized")
    machine.pod_cgroup(pod.metadata.uid).mkdir(parents=True, exist_ok=True)
    sandbox = _plan(pod, directory)
    save(directory, sandbox)  # before anything exists: whatever happens, it will be removed
    await _make_namespaces(machine, pod, sandbox)
    if network is None or pod.spec.host_network:
        sandbox = msgspec.structs.replace(sandbox, addresses=machine.addresses)
        save(directory, sandbox)
        return sandbox
    attachment = _attachment(pod, sandbox)
    sandbox = msgspec.structs.replace(sandbox, network=network, attachment=attachment)
    save(directory, sandbox)
    try:
        result = await invoker.add(network, attachment)
    except CniError as e:
        # What the plugins had done is undone by now.
        await asyncio.to_thread(_remove, sandbox, machine.pod_cgroup(pod.metadata.uid))
        where = f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"
        text = f'Failed to create pod sandbox: failed to setup network for sandbox "{sandbox.id}" of pod "{where}": {e}'
        raise StartFailure("FailedCreatePodSandBox", text) from e
    sandbox = msgspec.structs.replace(sandbox, addresses=result.addresses, result=result.raw)
    save(directory, sandbox)
    return sandbox


async def destroy(machine: Machine, invoker: Invoker, uid: str, sandbox: Sandbox) -> None:
    """Removes it; repeating it is no error. CniError when a plugin cannot delete: try again later."""
    if sandbox.network is not None and sandbox.attachment is not None:
        await invoker.delete(sandbox.network, sandbox.attachment, sandbox.result)
    await asyncio.to_thread(_remove, sandbox, machine.pod_cgroup(uid))


def _remove(sandbox: Sandbox, group: Path) -> None:
    for pin in (sandbox.netns, sandbox.ipc, sandbox.uts):
        if pin:
            with contextlib.suppress(OSError):
                mount.unmount(pin)
            Path(pin).unlink(missing_ok=True)
    cgroup.remove(group)


def _plan(pod: Pod, directory: Path) -> Sandbox:
    identifier = uuid.uuid4().hex + uuid.uuid4().hex  # 64 hexadecimal digits, as runtimes' identifiers are
    if pod.spec.host_network:
        return Sandbox(id=identifier, ipc=f"{directory}/ipc")
    netns = NETNS_DIR / f"cni-{uuid.uuid4()}"
    return Sandbox(id=identifier, netns=str(netns), ipc=f"{directory}/ipc", uts=f"{directory}/uts")


async def _make_namespaces(machine: Machine, pod: Pod, sandbox: Sandbox) -> None:
    options = ["-H", environment.hostname(pod), "-I", sandbox.ipc]
    if sandbox.netns:
        NETNS_DIR.mkdir(parents=True, exist_ok=True)
        options += ["-N", sandbox.netns, "-U", sandbox.uts]
        for sysctl in pod.spec.security_context.sysctls:
            options += ["-S", f"{sysctl.name}={sysctl.value}"]
    try:
        done = await spawn.run([str(machine.podrun), "sandbox", *options], {}, timeout_s=_TIMEOUT_S)
    except (OSError, SpawnTimeout) as e:
        raise StartFailure("FailedCreatePodSandBox", f"Failed to create pod sandbox: {e}") from e
    if done.code:
        text = done.errors.decode("utf-8", "replace").strip()
        raise StartFailure("FailedCreatePodSandBox", f"Failed to create pod sandbox: {text}")


def _attachment(pod: Pod, sandbox: Sandbox) -> Attachment:
    meta = pod.metadata
    args = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": meta.namespace,
        "K8S_POD_NAME": meta.name,
        "K8S_POD_INFRA_CONTAINER_ID": sandbox.id,
        "K8S_POD_UID": meta.uid,
    }
    mappings = [
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.lower(),
            "hostIP": port.host_ip,
        }
        for container in pod.spec.containers
        for port in container.ports
        if port.host_port
    ]
    capabilities: dict[str, Any] = {"portMappings": mappings} if mappings else {}
    return cni.Attachment(container_id=sandbox.id, netns=sandbox.netns, args=args, capabilities=capabilities)
