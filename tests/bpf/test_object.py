"""Objects that do not belong, and programs that the kernel refuses: the errors say what to do."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapaths.bench import Bench
from stentor.datapath.config import DatapathConfig, ticks_of
from stentor.datapath.errors import StaleObject, VerifierError
from stentor.datapath.link import CALL, Linked
from stentor.datapath.object import OBJECTS, SOURCES, Object, read_objects, source_hash
from stentor.sys.elf import read_elf

LOCAL_CALL = 0x10  # BPF_PSEUDO_CALL in the byte of the registers
STACK_BYTES = 512  # of a program and the functions that it calls, together
ROUNDED_TO = 32  # each one's share, in an interpreter and by older kernels
HEADROOM = 32


def calls_of(linked: Linked) -> list[tuple[int, int]]:
    """(where, whom) of each call to a function that is here."""
    code = linked.code
    calls = [at for at in range(0, len(code), 8) if code[at : at + 2] == bytes((CALL, LOCAL_CALL))]
    return [(at, at + 8 + 8 * struct.unpack_from("<i", code, at + 4)[0]) for at in calls]


def deepest(linked: Linked, depths: dict[int, int], start: int = 0) -> tuple[int, list[str]]:
    """Bytes of stack in the worst case, and the functions on the way there. `depths` are the functions' own."""
    starts = dict(linked.functions)
    end = min((at for at in starts if at > start), default=len(linked.code))
    below = (deepest(linked, depths, to) for at, to in calls_of(linked) if start <= at < end)
    depth, way = max(below, default=(0, []))
    return depth - -depths[start] // ROUNDED_TO * ROUNDED_TO, [f"{starts[start].name} {depths[start]}", *way]


def test_objects_belong_to_the_sources() -> None:
    assert {found.hash for found in read_objects().values()} == {source_hash(SOURCES)}


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "bpf")
    with (tmp_path / "bpf" / "lib" / "limits.h").open("a") as file:
        file.write("/* changed */\n")
    with pytest.raises(StaleObject, match=r"was built from other sources; run `make bpf`"):
        read_objects(OBJECTS, tmp_path / "bpf")


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(StaleObject, match=r"pod\.o: is missing"):
        read_objects(tmp_path)


def test_a_refused_program_shows_the_end_of_the_log(bench: Bench, tmp_path: Path) -> None:
    pod = Object(OBJECTS / "pod.o")
    number = pod.elf.number("tc/to_container")
    assert number is not None
    code = pod.elf.sections[number].data
    at = pod.raw.index(code)  # the first instruction now reads through a register that nobody has set
    (tmp_path / "pod.o").write_bytes(pod.raw[:at] + struct.pack("<BBhi", 0x79, 0x50, 0, 0) + pod.raw[at + 8 :])
    loaded = Object(tmp_path / "pod.o").load(DatapathConfig(overlay_ifindex=1).pack(), bench.maps)
    with pytest.raises(VerifierError) as caught:
        loaded.program("to_container")
    assert str(caught.value).startswith("program to_container refused: ")
    assert "processed" in caught.value.log
    assert len(str(caught.value).splitlines()) <= VerifierError.TAIL_LINES + 1


@given(
    st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: (OBJECTS / "host.o").read_bytes()[:64] + tail)
)
def test_garbage_is_no_object(raw: bytes) -> None:
    with pytest.raises(ValueError, match="BPF object"):
        read_elf(raw)


def test_ticks_are_never_short() -> None:
    assert [ticks_of(seconds) for seconds in (0, 1, 10, 60)] == [0, 1, 10, 56]
    assert all(ticks_of(seconds) * 2**30 >= seconds * 10**9 for seconds in range(10_000))


@pytest.mark.parametrize("ports", [(0, 5), (9, 5), (5, 70000)])
def test_ports_for_translation_are_a_range(ports: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no range of ports"):
        DatapathConfig(overlay_ifindex=1, snat_port_min=ports[0], snat_port_max=ports[1])


def test_programs_load_without_the_coarse_clock(bench: Bench) -> None:
    """Kernels before 5.11: a constant turns the call into dead code, which the verifier does not look at."""
    config = DatapathConfig(overlay_ifindex=1, coarse_clock=False).pack()
    assert Object(OBJECTS / "pod.o").load(config, bench.maps).program("to_container") > 0


@pytest.mark.parametrize("name", ["from_container", "from_netdev"])
def test_a_program_brings_the_functions_that_it_calls(name: str) -> None:
    found = next(each for each in read_objects().values() if name in each.programs)
    linked = found.linked[name]
    starts = {at for at, _ in linked.functions}
    assert linked.functions[0][1].name == name
    assert {to for _at, to in calls_of(linked)} == starts - {0}
    rows = list(struct.iter_unpack("<II", found.infos[name][0]))
    assert [8 * at for at, _type in rows] == [at for at, _ in linked.functions]


def test_no_program_comes_near_the_end_of_its_stack(bench: Bench) -> None:
    """The kernel refuses one that would go beyond: with a local variable more, or built by another compiler."""
    too_deep = {}
    for found in read_objects().values():
        for name, linked in found.linked.items():
            words = re.search(r"stack depth ([\d+]+)", bench.statistics[name])
            assert words
            depths = [int(depth) for depth in words[1].split("+")]
            depth, way = deepest(linked, {at: d for (at, _), d in zip(linked.functions, depths, strict=True)})
            if depth > STACK_BYTES - HEADROOM:
                too_deep[name] = depth, way
    assert too_deep == {}
