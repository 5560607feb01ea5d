"""State on disk: what was saved comes back, what is broken is set aside."""

from __future__ import annotations

import resource
from pathlib import Path

import msgspec
import pytest

from stentor.agent.conflist import NAME, write_conflist
from stentor.agent.store import NodeFacts, StateDirectory
from stentor.net.address import Addr
from stentor.net.label import Label
from stentor.tables.endpoint import Endpoint, EndpointState

ENDPOINT = Endpoint(
    id=5, container_id="c", container_ifname="eth0", netns="/x", namespace="d", pod="p", pod_uid="u", host_ifname="lxc",
    ifindex=3, mac=b"\2\0\0\0\0\1", ipv4=Addr.parse("10.0.0.1"), ipv6=Addr.parse("fd00::1"), identity=300,
    labels=(Label("k8s", "a", "b"),), named_ports=(("http", 6, 80),), state=EndpointState.READY, created_at=1.5,
)  # fmt: skip


def test_endpoints_come_back(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    store.save(ENDPOINT)
    assert StateDirectory(tmp_path).load() == [ENDPOINT]
    moved = msgspec.structs.replace(ENDPOINT, identity=400)
    store.save(moved)
    assert StateDirectory(tmp_path).load() == [moved]
    store.forget(5)
    store.forget(5)
    assert StateDirectory(tmp_path).load() == []


@pytest.mark.parametrize("content", [b"{", b'{"id": "x"}', b'{"id":1}', b'{"id":9,"endpoint":{"id":9', b"\xff\0"])
def test_a_broken_line_is_set_aside(tmp_path: Path, content: bytes) -> None:
    StateDirectory(tmp_path).save(ENDPOINT)
    path = tmp_path / "endpoints.jsonl"
    with path.open("ab") as file:
        file.write(b"\n" + content)
    torn = path.read_bytes()
    store = StateDirectory(tmp_path)
    assert store.load() == [ENDPOINT]
    assert (tmp_path / "endpoints.broken").read_bytes() == torn
    another = msgspec.structs.replace(ENDPOINT, id=6)
    store.save(another)
    assert StateDirectory(tmp_path).load() == [ENDPOINT, another]


def test_a_line_after_a_torn_one_counts(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    with (tmp_path / "endpoints.jsonl").open("ab") as file:
        file.write(b'\n{"id":9,"endp')
    store.save(ENDPOINT)
    assert StateDirectory(tmp_path).load() == [ENDPOINT]


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    store.save(ENDPOINT)
    size = (tmp_path / "endpoints.jsonl").stat().st_size
    for number in range(6, 3006):
        store.save(msgspec.structs.replace(ENDPOINT, id=number))
        store.forget(number)
    assert (tmp_path / "endpoints.jsonl").stat().st_size < 1200 * size
    assert StateDirectory(tmp_path).load() == [ENDPOINT]


def test_a_full_disk_keeps_what_was_known(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    store.save(ENDPOINT)
    size = (tmp_path / "endpoints.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for room in (0, 10):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, limits[1]))
            with pytest.raises(OSError):
                store.save(msgspec.structs.replace(ENDPOINT, id=6))
            store.forget(5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert StateDirectory(tmp_path).load() == [ENDPOINT]
    store.forget(5)
    assert StateDirectory(tmp_path).load() == []


def test_node_facts_come_back(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    assert store.load_node() is None
    facts = NodeFacts(uid="u", addresses=(("InternalIP", Addr.parse("fd00::9")),), pod_cidrs=("10.0.0.0/24",))
    store.save_node(facts)
    assert store.load_node() == facts
    (tmp_path / "node.json").write_text("junk")
    assert store.load_node() is None


def test_only_root_sees_the_state(tmp_path: Path) -> None:
    StateDirectory(tmp_path / "state")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert modes == {"deletions": 0o700, "endpoints.jsonl": 0o600}


def test_conflist_sets_others_aside(tmp_path: Path) -> None:
    (tmp_path / "10-bridge.conflist").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    path = write_conflist(tmp_path, exclusive=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == [NAME, "10-bridge.conflist.cilium_bak", "notes.txt"]
    written = path.stat().st_mtime_ns
    write_conflist(tmp_path, exclusive=True)
    assert path.stat().st_mtime_ns == written
    other = tmp_path / "99-other.conf"
    other.write_text("{}")
    write_conflist(tmp_path, exclusive=False)
    assert other.exists()
