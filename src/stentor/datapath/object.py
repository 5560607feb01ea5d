"""The compiled objects of `bpf/`: which maps they want and how their programs are loaded."""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from stentor.datapath.errors import StaleObject, VerifierError
from stentor.datapath.link import Linked, link
from stentor.sys.bpf import (
    F_RDONLY_PROG,
    AttachType,
    Map,
    MapSpec,
    MapType,
    ProgramSpec,
    ProgramType,
    load_btf,
    load_program,
)
from stentor.sys.btf import FUNCTIONS, LINES, Btf, MapDefinition, finish_btf, info
from stentor.sys.elf import EXECUTABLE, read_elf

OBJECTS: Final = Path(__file__).parent / "objects"
SOURCES: Final = Path(__file__).parents[3] / "bpf"
XDP: Final = "xdp"
"""The object that is loaded only where uplinks are accelerated."""
NAMES: Final = ("pod", "overlay", "host", "sock", XDP)
CGROUP_HOOKS: Final[Mapping[str, AttachType]] = {
    "connect4": AttachType.CGROUP_INET4_CONNECT,
    "connect6": AttachType.CGROUP_INET6_CONNECT,
    "sendmsg4": AttachType.CGROUP_UDP4_SENDMSG,
    "sendmsg6": AttachType.CGROUP_UDP6_SENDMSG,
    "recvmsg4": AttachType.CGROUP_UDP4_RECVMSG,
    "recvmsg6": AttachType.CGROUP_UDP6_RECVMSG,
    "getpeername4": AttachType.CGROUP_INET4_GETPEERNAME,
    "getpeername6": AttachType.CGROUP_INET6_GETPEERNAME,
    "post_bind4": AttachType.CGROUP_INET4_POST_BIND,
    "post_bind6": AttachType.CGROUP_INET6_POST_BIND,
}
"""Hooks of a cgroup by the names of their programs, which are those of their sections too (cgroup/connect4)."""
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
_STATISTICS, _FULL_LOG = 4, 1
_LOG_BYTES: Final = 1 << 16
_FULL_LOG_BYTES: Final = 16 << 20


def program_kind(section: str) -> tuple[ProgramType, int] | None:
    """The type of a section's program and the hook that it is verified for; None when it holds no program."""
    where, _, hook = section.partition("/")
    if where == "tc":
        return ProgramType.SCHED_CLS, 0
    if where == "xdp":
        return ProgramType.XDP, AttachType.XDP
    if where == "cgroup":
        is_bind = hook.startswith("post_bind")
        return ProgramType.CGROUP_SOCK if is_bind else ProgramType.CGROUP_SOCK_ADDR, CGROUP_HOOKS[hook]
    return None


def source_hash(sources: Path) -> str:
    """The hash that bpf/Makefile puts into objects: names and contents of the sources, the flags among them."""
    files = sorted(path for pattern in ("prog/*.c", "lib/*.h", "maps/*.h") for path in sources.glob(pattern))
    digest = hashlib.sha256()
    for path in (*files, sources / "Makefile"):
        digest.update(f"{path.relative_to(sources)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


class Object:
    """One object file. Reading it has no effect on the kernel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.raw = path.read_bytes()
        except FileNotFoundError:
            raise StaleObject(str(path), "is missing") from None
        self.elf = read_elf(self.raw)
        self.btf = Btf(finish_btf(self.elf))
        self._rodata = self.elf.number(".rodata")

    @property
    def hash(self) -> str:
        """Of the sources and flags that it was compiled from."""
        return self.elf.data("source_hash").rstrip(b"\0").decode()

    @cached_property
    def definitions(self) -> Mapping[str, MapDefinition]:
        """The maps that are pinned and shared with other objects."""
        return {name: found for name, found in self._maps.items() if "pinning" in found.numbers}

    @property
    def private(self) -> tuple[str, ...]:
        """The maps that each load has for itself: scratch space."""
        return tuple(self._maps.keys() - self.definitions.keys())

    @cached_property
    def _maps(self) -> Mapping[str, MapDefinition]:
        return {definition.name: definition for definition in self.btf.maps()}

    def map_spec(self, name: str, max_entries: int | None = None) -> MapSpec:
        """What the object declares, with another capacity if given."""
        definition = self._maps[name]
        numbers = definition.numbers
        key = self.btf.size_of(definition.key_type) if definition.key_type else 0
        value = self.btf.size_of(definition.value_type) if definition.value_type else 0
        most = max_entries or numbers["max_entries"]
        return MapSpec(MapType(numbers["type"]), key, value, most, numbers.get("map_flags", 0))

    @cached_property
    def programs(self) -> tuple[str, ...]:
        """Names of the programs."""
        sections = self.elf.sections
        code = {
            i
            for i, section in enumerate(sections)
            if section.flags & EXECUTABLE and program_kind(section.name) is not None
        }
        return tuple(symbol.name for symbol in self.elf.symbols if symbol.section in code and symbol.size)

    @cached_property
    def linked(self) -> Mapping[str, Linked]:
        """Each program with the functions that it calls."""
        return {name: link(self.elf, name) for name in self.programs}

    @cached_property
    def infos(self) -> Mapping[str, tuple[bytes, bytes]]:
        """Each program's bpf_func_info and bpf_line_info. By the first the kernel verifies global functions once, for all their
        callers; the second puts source lines into the verifier's log."""
        functions, lines = info(self.elf, self.btf, FUNCTIONS), info(self.elf, self.btf, LINES)
        return {
            name: (found.records(self.elf, functions), found.records(self.elf, lines))
            for name, found in self.linked.items()
        }

    def prepare(self) -> None:
        """Work out what loading needs: for a parent, whose children then share it."""
        _ = self.infos

    def load(self, config: bytes, maps: Mapping[str, Map]) -> LoadedObject:
        """An object bound to a configuration and to maps; programs load when asked for."""
        return LoadedObject(self, config, maps)


class LoadedObject:
    """`statistics` holds the verifier's words about each program loaded."""

    def __init__(self, source: Object, config: bytes, maps: Mapping[str, Map]) -> None:
        self.source = source
        self.maps = {**maps, **{name: Map.create(source.map_spec(name), name) for name in source.private}}
        self.statistics: dict[str, str] = {}
        self._btf_fd = self._load_types()
        self._config = self._freeze(config)

    def _load_types(self) -> int:
        try:
            return load_btf(self.source.btf.blob)
        except OSError:  # a kernel that lacks some kind of type: only the log's source lines are lost, and time
            return 0

    def _freeze(self, config: bytes) -> Map:
        data = bytearray(self.source.elf.data(".rodata"))
        symbol = next(s for s in self.source.elf.symbols_of(self.source._rodata) if s.name == "config")
        if symbol.size != len(config):
            raise ValueError(f"the configuration has {symbol.size} bytes, not {len(config)}")
        data[symbol.value : symbol.value + symbol.size] = config
        rodata = Map.create(MapSpec(MapType.ARRAY, 4, len(data), 1, F_RDONLY_PROG), "rodata")
        rodata[bytes(4)] = bytes(data)
        rodata.freeze()
        return rodata

    def program(self, name: str) -> int:
        """Load a program; its fd. VerifierError when the kernel refuses it."""
        elf, linked = self.source.elf, self.source.linked[name]
        kind, attach = program_kind(elf.sections[linked.functions[0][1].section].name) or (ProgramType.SCHED_CLS, 0)
        functions, lines = self.source.infos[name] if self._btf_fd else (b"", b"")
        spec = ProgramSpec(
            name, kind, self._relocate(linked), elf.data("license"), self._btf_fd, functions, lines, attach
        )
        log = bytearray(_LOG_BYTES)
        try:
            fd = load_program(spec, _STATISTICS, log)
        except OSError as e:
            if e.errno not in (errno.EACCES, errno.EINVAL, errno.ENOSPC, errno.E2BIG):
                raise VerifierError(name, e.errno or 0, "") from e
            fd = self._load_with_log(spec)
        self.statistics[name] = _text(log)
        return fd

    def _load_with_log(self, spec: ProgramSpec) -> int:
        """Only a failure pays for the full log."""
        log = bytearray(_FULL_LOG_BYTES)
        try:
            return load_program(spec, _FULL_LOG, log)
        except OSError as e:
            raise VerifierError(spec.name, e.errno or 0, _text(log)) from e

    def _relocate(self, linked: Linked) -> bytes:
        rodata = self.source._rodata
        code = bytearray(linked.code)
        for at, symbol in linked.data:
            if symbol.section == rodata:  # ld_imm64 of a map's value: the fd, then the offset into .rodata
                struct.pack_into("<I", code, at + 12, symbol.value + struct.unpack_from("<I", code, at + 4)[0])
                pseudo, fd = _PSEUDO_MAP_VALUE, self._config.fd
            else:
                pseudo, fd = _PSEUDO_MAP_FD, self.maps[symbol.name].fd
            code[at + 1] = code[at + 1] & 15 | pseudo << 4
            struct.pack_into("<I", code, at + 4, fd)
        return bytes(code)


def _text(log: bytearray) -> str:
    return bytes(log).split(b"\0", 1)[0].decode(errors="replace").strip()


def _read(path: Path) -> Object:
    """The object, read again only if the file has changed: a parent that has read it shares it with what it forks."""
    try:
        stamp = path.stat()
    except FileNotFoundError:
        raise StaleObject(str(path), "is missing") from None
    return _read_once(path, (stamp.st_ino, stamp.st_size, stamp.st_mtime_ns))


@lru_cache(maxsize=len(NAMES))
def _read_once(path: Path, stamp: tuple[int, int, int]) -> Object:
    return Object(path)


def read_objects(directory: Path = OBJECTS, sources: Path = SOURCES) -> dict[str, Object]:
    """All objects; StaleObject when one is missing, or does not belong to the sources (in a checkout) or to the others."""
    objects = {name: _read(directory / f"{name}.o") for name in NAMES}
    wanted = source_hash(sources) if (sources / "Makefile").exists() else next(iter(objects.values())).hash
    for found in objects.values():
        if found.hash != wanted:
            raise StaleObject(str(found.path), "was built from other sources")
    return objects
