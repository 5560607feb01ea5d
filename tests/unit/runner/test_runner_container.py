"""What a container is told: status lines, environment, mounts, users, files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.api.core import Service, ServicePort, ServiceSpec
from stentor.api.meta import ObjectMeta
from stentor.api.pod import Container, DnsConfig, FieldSelector, Pod, ResourceFieldSelector, SecurityContext
from stentor.lab.images.catalogue import Image
from stentor.lab.runner import capability, environment, field, launch, volume
from stentor.lab.runner.container import RunStatus, parse_status
from stentor.lab.runner.errors import StartFailure
from stentor.lab.runner.machine import Machine
from stentor.lab.runner.source import Sources, references
from stentor.lab.runner.volume import File

MACHINE = Machine(
    node_name="n1",
    addresses=("192.0.2.1",),
    run_dir=Path("/run/x"),
    state_dir=Path("/var/x"),
    cgroup=Path("/cg"),
    bin_dir=Path("/bin"),
    cluster_dns=("10.96.0.10",),
)


def pod(**spec: Any) -> Pod:
    document = {
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "uid": "u",
            "labels": {"a": "b", "c": 'd"e'},
            "annotations": {"x": "y"},
        },
        "spec": {"containers": [{"name": "m", "image": "busybox"}], "nodeName": "n1", **spec},
        "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "192.0.2.1"},
    }
    return msgspec.convert(document, Pod)


def container(**fields: Any) -> Container:
    return msgspec.convert({"name": "m", "image": "busybox", **fields}, Container)


# ---- status lines


def test_status_lines() -> None:
    text = "monitor 7\nstarted 8 1000\nexited 137 9 2000\n"
    assert parse_status(text) == RunStatus(monitor=7, pid=8, started_ns=1000, exit_code=137, signal=9, finished_ns=2000)
    assert parse_status("monitor 7\nfailed exec: no such file\n").failure == "exec: no such file"
    assert parse_status("monitor 7\nstarted 8 10") == RunStatus(monitor=7), "a line cut short is not there yet"


@given(st.text(max_size=100))
def test_any_status_text_is_read(text: str) -> None:
    parse_status(text)


# ---- environment


SOURCES = Sources({"cm": {"k": b"v", "not a name!": b"x"}}, {"s": {"k": b"secret"}})


def env(**fields: Any) -> dict[str, str]:
    return environment.build(pod(), container(**fields), {}, SOURCES, [])


def test_environment_order_and_references() -> None:
    found = env(
        env=[
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)$(PRE_k)$$(A)$(NOPE)"},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "zz", "optional": True}}},
            {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['x']"}}},
        ],
        envFrom=[{"prefix": "PRE_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "nope", "optional": True}}],
    )
    assert found["B"] == "1v$(A)$(NOPE)"
    assert (found["C"], found["E"], found["PRE_k"]) == ("secret", "y", "v")
    assert "D" not in found
    assert "PRE_not a name!" not in found
    assert found["HOSTNAME"] == "p"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, 'configmap "x" not found'),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}]}, 'secret "x" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "q"}}}]},
            "couldn't find key q in configmap ns/cm",
        ),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]}, "env A: fieldPath"),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StartFailure, match=message) as caught:
        env(**fields)
    assert caught.value.reason == "CreateContainerConfigError"


def test_service_variables() -> None:
    def service(name: str, namespace: str, address: str) -> Service:
        spec = ServiceSpec(cluster_ip=address, ports=(ServicePort(port=80, name="web"),))
        return Service(metadata=ObjectMeta(name=name, namespace=namespace), spec=spec)

    services = [
        service("kubernetes", "default", "10.96.0.1"),
        service("my-db", "ns", "fd00::5"),
        service("other", "elsewhere", "10.96.0.9"),
        service("headless", "ns", "None"),
    ]
    found = environment.service_variables(services, "ns", links=True)
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert found["MY_DB_SERVICE_PORT_WEB"] == "80"
    assert found["MY_DB_PORT_80_TCP"] == "tcp://[fd00::5]:80"
    assert not any(name.startswith(("OTHER", "HEADLESS")) for name in found)
    alone = environment.service_variables(services, "ns", links=False)
    assert "MY_DB_SERVICE_HOST" not in alone
    assert alone["KUBERNETES_SERVICE_PORT"] == "80"


def test_references() -> None:
    found = pod(
        containers=[
            {
                "name": "m",
                "envFrom": [{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b"}}],
                "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}}],
            }
        ],
        volumes=[
            {"name": "v", "configMap": {"name": "d"}},
            {"name": "w", "secret": {"secretName": "e"}},
            {"name": "p", "projected": {"sources": [{"configMap": {"name": "f"}}, {"secret": {"name": "g"}}]}},
        ],
    )
    assert references(found) == ({"a", "d", "f"}, {"b", "c", "e", "g"})


# ---- fields and quantities


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.labels", 'a="b"\nc="d\\"e"'),
        ("metadata.labels['a']", "b"),
        ("metadata.labels['missing']", ""),
        ("status.podIPs", "10.0.0.1,fd00::1"),
        ("status.hostIP", "192.0.2.1"),
    ],
)
def test_fields(path: str, expected: str) -> None:
    assert field.field_text(pod(), FieldSelector(field_path=path)) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [("100m", 0.1), ("64Mi", 64 * 2**20), ("1.5G", 1.5e9), ("2", 2), (3, 3), ("1e3", 1000), ("1E", 1e18)],
)
def test_quantities(text: str | int, value: float) -> None:
    assert field.quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "x", "1Zi", "--1"])
def test_bad_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        field.quantity(text)


@pytest.mark.parametrize(
    ("resource", "divisor", "expected"),
    [("limits.cpu", "1m", "1500"), ("limits.cpu", "1", "2"), ("requests.memory", "1Mi", "64")],
)
def test_resources(resource: str, divisor: str, expected: str) -> None:
    own = container(resources={"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}})
    assert field.resource_text(pod(), own, ResourceFieldSelector(resource=resource, divisor=divisor)) == expected


# ---- commands, users, resolvers


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("entry", "default")),
        ({"args": ["own"]}, ("entry", "own")),
        ({"command": ["mine"]}, ("mine",)),
        ({"command": ["mine"], "args": ["$(X)"]}, ("mine", "1")),
    ],
)
def test_command_line(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    image = Image(command=("entry",), args=("default",))
    assert launch.command_line(container(**fields), image, {"X": "1"}) == expected


def test_users_and_privileges() -> None:
    own = container(
        securityContext={"runAsUser": 5, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    )
    found = launch.credential(pod(securityContext={"runAsUser": 9, "runAsGroup": 8, "fsGroup": 7}), own)
    assert found == ("-k", "0", "-u", "5:8:7", "-n")
    with pytest.raises(StartFailure, match="runAsNonRoot"):
        launch.credential(pod(securityContext={"runAsNonRoot": True}), container())


def test_capabilities() -> None:
    def mask(**fields: Any) -> int:
        return capability.mask(msgspec.convert(fields, SecurityContext))

    def has(found: int, name: str) -> bool:
        return bool(found >> capability.BITS[name] & 1)

    default = mask()
    assert has(default, "NET_RAW")
    assert not any(has(default, name) for name in ("SYS_ADMIN", "BPF", "MKNOD", "NET_ADMIN"))
    assert has(mask(capabilities={"add": ["CAP_NET_ADMIN"]}), "NET_ADMIN")
    assert mask(capabilities={"drop": ["all"], "add": ["NET_RAW"]}) == 1 << capability.BITS["NET_RAW"]
    for wrong, problem in (("SYS_ADMIN", "not in a lab"), ("NONSENSE", "unknown")):
        with pytest.raises(StartFailure, match=problem):
            mask(capabilities={"add": [wrong]})
    with pytest.raises(StartFailure, match="privileged"):
        mask(privileged=True)


def test_resolver() -> None:
    assert launch.resolver(pod(), MACHINE) == (
        "search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
    )
    config = DnsConfig(nameservers=("1.1.1.1",), searches=("x",))
    own = msgspec.structs.replace(pod(), spec=msgspec.structs.replace(pod().spec, dns_policy="None", dns_config=config))
    assert launch.resolver(own, MACHINE) == "search x\nnameserver 1.1.1.1\n"
    assert launch.resolver(pod(hostNetwork=True), MACHINE) == Path("/etc/resolv.conf").read_text()


# ---- volumes


def test_files_are_replaced_in_one_step(tmp_path: Path) -> None:
    volume.write_files(tmp_path, {"a": File(b"1"), "d/b": File(b"2", 0o400)})
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "d" / "b").stat().st_mode & 0o777 == 0o400
    generation = os.readlink(tmp_path / "..data")
    volume.write_files(tmp_path, {"a": File(b"1"), "d/b": File(b"2", 0o400)})
    assert os.readlink(tmp_path / "..data") == generation, "nothing changed"
    volume.write_files(tmp_path, {"a": File(b"3"), "c": File(b"4")})
    assert {entry: (tmp_path / entry).read_bytes() for entry in ("a", "c")} == {"a": b"3", "c": b"4"}
    assert sorted(entry for entry in os.listdir(tmp_path) if not entry.startswith("..")) == ["a", "c"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_paths_stay_in_their_volume(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leaves the volume"):
        volume.write_files(tmp_path, {name: File(b"")})


def test_sub_paths_stay_in_their_volume(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "link").symlink_to("/etc")
    base = str(tmp_path / "v")
    assert volume.mount_source(base, "a/b") == f"{base}/a/b"
    for wrong in ("..", "../x", "link", "link/passwd"):
        with pytest.raises(StartFailure, match="leaves the volume"):
            volume.mount_source(base, wrong)


@pytest.mark.parametrize("path", ["/", "/etc", "/root", "/var/run", "/usr/share/../../etc"])
def test_host_paths_are_restricted(path: str) -> None:
    with pytest.raises(volume.BadVolume, match="hostPath"):
        volume.host_path(path)


async def test_volumes_of_all_kinds(tmp_path: Path) -> None:
    async def token(_: Pod, source: Any) -> str:
        return f"token for {source.audience}"

    sources = [
        {"configMap": {"name": "cm", "items": [{"key": "k", "path": "sub/k"}]}},
        {"downwardAPI": {"items": [{"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}]}},
        {"serviceAccountToken": {"path": "token", "audience": "vault"}},
    ]
    found = pod(
        volumes=[
            {"name": "e", "emptyDir": {}},
            {"name": "s", "secret": {"secretName": "s"}},
            {"name": "p", "projected": {"sources": sources}},
        ]
    )
    paths = await volume.set_up(found, tmp_path, SOURCES, token)
    assert _content(paths["s"], "k") == b"secret"
    names = ("sub/k", "ip", "token")
    assert [_content(paths["p"], name) for name in names] == [b"v", b"10.0.0.1", b"token for vault"]
    missing = pod(volumes=[{"name": "x", "configMap": {"name": "nope"}}])
    with pytest.raises(volume.BadVolume, match='volume "x" : configmap "nope" not found'):
        await volume.set_up(missing, tmp_path, SOURCES, token)
    with pytest.raises(volume.BadVolume, match="a lab has emptyDir"):
        await volume.set_up(pod(volumes=[{"name": "x", "nfs": {"server": "a", "path": "b"}}]), tmp_path, SOURCES, token)


def _content(directory: str, name: str) -> bytes:
    return Path(directory, name).read_bytes()
