"""From a container of a manifest to what podrun is told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from stentor.api.core import Service
from stentor.api.pod import Container, Pod
from stentor.lab.images.catalogue import Catalogue, Image
from stentor.lab.images.errors import UnknownImage
from stentor.lab.runner import capability, environment, volume
from stentor.lab.runner.container import Launch
from stentor.lab.runner.errors import StartFailure
from stentor.lab.runner.machine import CLUSTER_DOMAIN, Machine
from stentor.lab.runner.sandbox import Sandbox
from stentor.lab.runner.source import Sources

TERMINATION_LOG: Final = "/dev/termination-log"
_ETC: Final = ("hosts", "hostname", "resolv.conf")


def build(
    machine: Machine,
    catalogue: Catalogue,
    pod: Pod,
    container: Container,
    attempt: int,
    *,
    sandbox: Sandbox,
    directory: Path,
    sources: Sources,
    services: Iterable[Service],
    volumes: Mapping[str, str],
) -> Launch:
    """StartFailure when the image is unknown or something that the container refers to is missing."""
    try:
        image = catalogue.find(container.image)
    except UnknownImage as e:
        raise StartFailure("ErrImagePull", str(e)) from e
    env = environment.build(pod, container, image.env, sources, services)
    meta = pod.metadata
    cgroup = machine.pod_cgroup(meta.uid) / f"{container.name}-{attempt}"
    cgroup.mkdir(parents=True, exist_ok=True)
    working_dir = container.working_dir or image.working_dir
    return Launch(
        options=(
            *("-C", str(cgroup.parent), "-c", str(cgroup), "-r", image.rootfs, "-w", working_dir),
            *_flag("-R", read_only_root(container)),
            *_flag("-i", image.init and not container.tty),
            *_input(container, directory, attempt),
            *_pins(sandbox),
            *_masks(machine, image),
            *_binds(pod, container, directory, attempt, volumes),
            *credential(pod, container),
        ),
        command=command_line(container, image, env),
        env=env,
        credential=credential(pod, container),
        cgroup=str(cgroup),
        log=str(machine.log_path(meta.namespace, meta.name, meta.uid, container.name, attempt)),
        image=container.image,
        working_dir=working_dir,
        warm=image.warm if not container.command else "",
    )


def command_line(container: Container, image: Image, env: Mapping[str, str]) -> tuple[str, ...]:
    """Kubernetes' rule: `command` replaces the entry point and the image's arguments, `args` the latter only."""
    if container.command:
        words = container.command + container.args
    else:
        words = image.command + (container.args or image.args)
    if not words:
        raise StartFailure("CreateContainerError", f"image {container.image} has no command, and none is given")
    return tuple(environment.expand(word, env) for word in words)


def read_only_root(container: Container) -> bool:
    return container.security_context is not None and container.security_context.read_only_root_filesystem


def credential(pod: Pod, container: Container) -> tuple[str, ...]:
    """podrun's options for user, groups and capabilities: the container's own win over the pod's."""
    own, shared = container.security_context, pod.spec.security_context
    user = own.run_as_user if own is not None and own.run_as_user is not None else shared.run_as_user
    group = own.run_as_group if own is not None and own.run_as_group is not None else shared.run_as_group
    groups = [*shared.supplemental_groups, *([shared.fs_group] if shared.fs_group is not None else [])]
    if not user and (shared.run_as_non_root or (own is not None and own.run_as_non_root)):
        raise StartFailure("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")
    identity = ":".join(str(number) for number in (user or 0, group or 0, *groups))
    confined = own is not None and own.allow_privilege_escalation is False
    return ("-k", f"{capability.mask(own):x}", "-u", identity, *_flag("-n", confined))


def write_etc(pod: Pod, machine: Machine, sandbox: Sandbox, directory: Path) -> None:
    """/etc/hosts, hostname and resolv.conf of a pod, below `<directory>/etc`."""
    place = directory / "etc"
    place.mkdir(exist_ok=True)
    host = pod.spec.host_network
    name = machine.node_name if host else environment.hostname(pod)
    hosts = Path("/etc/hosts").read_text() if host else _hosts(pod, sandbox.addresses)
    aliases = "".join(f"{alias.ip}\t{chr(9).join(alias.hostnames)}\n" for alias in pod.spec.host_aliases)
    if aliases:
        hosts += f"\n# Entries added by HostAliases.\n{aliases}"
    (place / "hosts").write_text(hosts)
    (place / "hostname").write_text(name + "\n")
    (place / "resolv.conf").write_text(resolver(pod, machine))


def _hosts(pod: Pod, addresses: tuple[str, ...]) -> str:
    name = environment.hostname(pod)
    names = [name]
    if pod.spec.subdomain:
        names.insert(0, f"{name}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{CLUSTER_DOMAIN}")
    own = "".join(f"{address}\t{chr(9).join(names)}\n" for address in addresses)
    return (
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" + own
    )


def resolver(pod: Pod, machine: Machine) -> str:
    """resolv.conf by dnsPolicy, merged with dnsConfig; a pod on the host's network asks as the host does."""
    spec = pod.spec
    policy = "Default" if spec.dns_policy == "ClusterFirst" and spec.host_network else spec.dns_policy
    servers, searches, options = list(spec.dns_config.nameservers), list(spec.dns_config.searches), []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        servers = [*machine.cluster_dns, *servers]
        namespace = pod.metadata.namespace
        searches = [f"{namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN, *searches]
        options = ["ndots:5"]
    elif policy == "Default":
        return _host_resolver()
    options += [f"{entry.name}:{entry.value}" if entry.value else entry.name for entry in spec.dns_config.options]
    lines = [f"search {' '.join(searches)}"] if searches else []
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def _host_resolver() -> str:
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""


def _flag(name: str, wanted: bool) -> tuple[str, ...]:
    return (name,) if wanted else ()


def _pins(sandbox: Sandbox) -> tuple[str, ...]:
    pairs = (("-N", sandbox.netns), ("-I", sandbox.ipc), ("-U", sandbox.uts))
    return tuple(word for option, path in pairs if path for word in (option, path))


def _masks(machine: Machine, image: Image) -> tuple[str, ...]:
    if image.rootfs != "/":
        return ()
    return tuple(word for path in machine.masked for word in ("-m", path))


def _input(container: Container, directory: Path, attempt: int) -> tuple[str, ...]:
    """A FIFO for standard input, and a terminal, where the manifest wants them."""
    fifo = _run_directory(directory, container, attempt) / "stdin"
    if container.stdin and not fifo.exists():
        os.mkfifo(fifo, 0o600)
    source = ("-y", str(fifo)) if container.stdin else ()
    return (*source, *_flag("-z", container.stdin and container.stdin_once), *_flag("-x", container.tty))


def _run_directory(directory: Path, container: Container, attempt: int) -> Path:
    place = directory / "containers" / container.name / str(attempt)
    place.mkdir(parents=True, exist_ok=True)
    return place


def _binds(
    pod: Pod, container: Container, directory: Path, attempt: int, volumes: Mapping[str, str]
) -> tuple[str, ...]:
    mounted = {mount.mount_path.rstrip("/") for mount in container.volume_mounts}
    binds = [f"rw:/etc/{name}:{directory}/etc/{name}" for name in _ETC if f"/etc/{name}" not in mounted]
    message = _run_directory(directory, container, attempt) / "termination-log"
    message.touch()
    message.chmod(0o666)
    binds.append(f"rw:{container.termination_message_path or TERMINATION_LOG}:{message}")
    writable = {entry.name for entry in pod.spec.volumes if entry.empty_dir is not None}
    for mount in sorted(container.volume_mounts, key=lambda entry: entry.mount_path):
        if mount.name not in volumes:
            raise StartFailure("CreateContainerConfigError", f"volumeMounts: no volume {mount.name!r}")
        source = volume.mount_source(volumes[mount.name], environment.expand(mount.sub_path, {}))
        access = "rw" if mount.name in writable and not mount.read_only else "ro"
        binds.append(f"{access}:{mount.mount_path.rstrip('/')}:{source}")
    return tuple(word for bind in binds for word in ("-b", bind))
