"""bpf(2) from Python: maps, programs, links, pins, test runs. Standard library only, no policy.

Keys and values are bytes of exactly the size that the map has; their layouts are ``datapath/maps.py``'s business. Every failing
call raises OSError with the kernel's errno. Source: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

_libc = ctypes.CDLL(None, use_errno=True)
_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}[platform.machine()]
_BATCH: Final = 4096
_NO_BATCHES: Final = frozenset({errno.EINVAL, 524})  # 524: ENOTSUPP, which Python has no name for
NAME_BYTES: Final = 15


class Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    MAP_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    OBJ_INFO = 15
    BTF_LOAD = 18
    MAP_FREEZE = 22
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class MapType(IntEnum):
    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    RINGBUF = 27


class ProgramType(IntEnum):
    SCHED_CLS = 3
    XDP = 6
    CGROUP_SOCK = 9
    CGROUP_SOCK_ADDR = 18


class AttachType(IntEnum):
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


F_NO_PREALLOC: Final = 1
F_RDONLY_PROG: Final = 1 << 7
_PER_CPU: Final = frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY})


def bpf(command: Command, attr: bytes | bytearray) -> int:
    """One call. A bytearray is passed in place: what the kernel writes back can be read from it."""
    attr = attr if isinstance(attr, bytearray) else bytearray(attr)
    result: int = _libc.syscall(_SYSCALL, int(command), (ctypes.c_char * len(attr)).from_buffer(attr), len(attr))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf {command.name}: {os.strerror(ctypes.get_errno())}")
    return result


def address_in(data: bytes) -> int:
    """The address of a bytes object's storage; the caller keeps the object alive."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def address_out(buffer: bytearray) -> int:
    """The address of a bytearray's storage, 0 for an empty one."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if buffer else 0


def pin(fd: int, path: Path) -> None:
    """Pin an object; FileExistsError when something is there. bpffs refuses names with a dot."""
    raw = os.fsencode(path) + b"\0"
    bpf(Command.OBJ_PIN, struct.pack("<QII", address_in(raw), fd, 0))


def get_pinned(path: Path) -> int:
    """A new fd of what is pinned there; FileNotFoundError."""
    raw = os.fsencode(path) + b"\0"
    return bpf(Command.OBJ_GET, struct.pack("<QII", address_in(raw), 0, 0))


def object_info(fd: int, size: int = 256) -> bytes:
    """struct bpf_map_info, bpf_prog_info or bpf_link_info of an fd."""
    out = bytearray(size)
    bpf(Command.OBJ_INFO, struct.pack("<IIQ", fd, size, address_out(out)))
    return bytes(out)


@cache
def possible_cpus() -> int:
    """CPUs that per-CPU maps have a value for."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1


class MapSpec(msgspec.Struct, frozen=True):
    """What a map is made with; sizes in bytes. Two maps of one spec can be exchanged."""

    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


class Map:
    """A BPF map. Close it, or let it close itself when it goes."""

    def __init__(self, fd: int, spec: MapSpec) -> None:
        self.fd, self.spec = fd, spec
        self._closer = weakref.finalize(self, os.close, fd)
        # Per-CPU maps copy a value of each possible CPU, each rounded up to 8 bytes.
        self.row_size = (spec.value_size + 7) // 8 * 8 * possible_cpus() if spec.type in _PER_CPU else spec.value_size

    @classmethod
    def create(cls, spec: MapSpec, name: str = "") -> Map:
        attr = struct.pack("<7I16s", spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags, 0, 0,
                           name.encode()[:NAME_BYTES])  # fmt: skip
        return cls(bpf(Command.MAP_CREATE, attr), spec)

    @classmethod
    def open(cls, path: Path) -> Map:
        """The map pinned there; FileNotFoundError."""
        fd = get_pinned(path)
        kind, _id, key, value, most, flags = struct.unpack_from("<6I", object_info(fd))
        return cls(fd, MapSpec(MapType(kind), key, value, most, flags))

    def close(self) -> None:
        self._closer()
        self.fd = -1

    def freeze(self) -> None:
        """Forbid writes from user space, so that the verifier may take the contents for constants."""
        bpf(Command.MAP_FREEZE, struct.pack("<I", self.fd))

    @property
    def id(self) -> int:
        return int.from_bytes(object_info(self.fd)[4:8], "little")

    def _element(self, command: Command, key: bytes, value: int, flags: int = 0) -> None:
        if len(key) != self.spec.key_size:
            raise ValueError(f"a key has {self.spec.key_size} bytes, not {len(key)}")
        bpf(command, struct.pack("<IIQQQ", self.fd, 0, address_in(key), value, flags))

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if len(value) != self.row_size:
            raise ValueError(f"a value has {self.row_size} bytes, not {len(value)}")
        self._element(Command.MAP_UPDATE, key, address_in(value))

    def __delitem__(self, key: bytes) -> None:
        """OSError ENOENT when there is no such row."""
        self._element(Command.MAP_DELETE, key, 0)  # the kernel wants the value's address to be zero

    def get(self, key: bytes) -> bytes | None:
        out = bytearray(self.row_size)
        try:
            self._element(Command.MAP_LOOKUP, key, address_out(out))
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise
            return None
        return bytes(out)

    def _batch(self, command: Command, attr: bytearray) -> tuple[int, OSError | None]:
        """(rows done, why not more)."""
        asked = struct.unpack_from("<I", attr, 32)[0]
        try:
            bpf(command, attr)
        except OSError as e:
            done = struct.unpack_from("<I", attr, 32)[0]
            refused = e.errno in _NO_BATCHES and done == asked  # as a whole: the kernel has not written the count
            return 0 if refused else done, e
        return struct.unpack_from("<I", attr, 32)[0], None

    def update_batch(self, rows: Mapping[bytes, bytes]) -> dict[bytes, OSError]:
        """Write all rows; returns those that the kernel refused, each with its reason (E2BIG, ENOSPC: the map is full)."""

        def write(part: Sequence[bytes]) -> tuple[int, OSError | None]:
            keys, values = b"".join(part), b"".join(map(rows.__getitem__, part))
            attr = struct.pack("<QQQQIIQQ", 0, 0, address_in(keys), address_in(values), len(part), self.fd, 0, 0)
            return self._batch(Command.MAP_UPDATE_BATCH, bytearray(attr))

        return _run_batches(tuple(rows), write, lambda key: self.__setitem__(key, rows[key]))

    def delete_batch(self, keys: Iterable[bytes]) -> dict[bytes, OSError]:
        """Remove rows; one that is not there is no error."""

        def remove(part: Sequence[bytes]) -> tuple[int, OSError | None]:
            raw = b"".join(part)
            attr = struct.pack("<QQQQIIQQ", 0, 0, address_in(raw), 0, len(part), self.fd, 0, 0)
            return self._batch(Command.MAP_DELETE_BATCH, bytearray(attr))

        failed = _run_batches(tuple(keys), remove, self.__delitem__)
        return {key: e for key, e in failed.items() if e.errno != errno.ENOENT}

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every row. Not a snapshot: rows that change meanwhile may be missed or seen twice."""
        chunk, token, first = min(_BATCH, max(self.spec.max_entries, 1)), bytearray(max(self.spec.key_size, 8)), True
        key_size, row_size = self.spec.key_size, self.row_size
        while True:
            keys, values = bytearray(chunk * key_size), bytearray(chunk * row_size)
            attr = struct.pack("<QQQQIIQQ", 0 if first else address_out(token), address_out(token), address_out(keys),
                               address_out(values), chunk, self.fd, 0, 0)  # fmt: skip
            done, error = self._batch(Command.MAP_LOOKUP_BATCH, bytearray(attr))
            if error and error.errno == errno.ENOSPC:  # one hash bucket has more rows than the buffer
                chunk *= 2
                continue
            if error and first and error.errno in _NO_BATCHES:
                yield from self._walk()
                return
            if error and error.errno != errno.ENOENT:
                raise error
            for i in range(done):
                yield bytes(keys[i * key_size : (i + 1) * key_size]), bytes(values[i * row_size : (i + 1) * row_size])
            if error:
                return
            first = False

    def _walk(self) -> Iterator[tuple[bytes, bytes]]:
        key = bytearray(self.spec.key_size)
        previous = 0
        while True:
            try:
                bpf(Command.MAP_NEXT_KEY, struct.pack("<IIQQ", self.fd, 0, previous, address_out(key)))
            except OSError as e:
                if e.errno == errno.ENOENT:
                    return
                raise
            value = self.get(bytes(key))
            if value is not None:
                yield bytes(key), value
            previous = address_out(key)


def _run_batches(
    keys: Sequence[bytes],
    batch: Callable[[Sequence[bytes]], tuple[int, OSError | None]],
    single: Callable[[bytes], None],
) -> dict[bytes, OSError]:
    """Feed all keys to ``batch``; a row that fails is noted and the rest goes on behind it."""
    failed: dict[bytes, OSError] = {}
    at = 0
    while at < len(keys):
        part = keys[at : at + _BATCH]
        done, error = batch(part)
        at += done
        if error is None:
            continue
        if error.errno in _NO_BATCHES and not done:  # no batches for this kind of map on this kernel
            try:
                single(keys[at])
            except OSError as e:
                failed[keys[at]] = e
        else:
            failed[keys[at]] = error
        at += 1
    return failed


class ProgramSpec(msgspec.Struct, frozen=True):
    """A program ready to load: instructions with map fds in place. ``functions`` and ``lines`` are bpf_func_info
    and bpf_line_info records of ``btf_fd``; ``attach`` is the hook that programs of some types are verified for."""

    name: str
    type: ProgramType
    code: bytes
    license: bytes
    btf_fd: int = 0
    functions: bytes = b""
    lines: bytes = b""
    attach: int = 0


def load_program(spec: ProgramSpec, log_level: int, log: bytearray) -> int:
    """BPF_PROG_LOAD; the fd. ``log`` receives the verifier's text, zero-terminated."""
    attr = struct.pack(
        "<IIQQIIQII16sIIIIQIIQIIIIQ", spec.type, len(spec.code) // 8, address_in(spec.code), address_in(spec.license),
        log_level, len(log), address_out(log), 0, 0, spec.name.encode()[:NAME_BYTES], 0, spec.attach, spec.btf_fd,
        8 if spec.functions else 0, address_in(spec.functions), len(spec.functions) // 8,
        16 if spec.lines else 0, address_in(spec.lines), len(spec.lines) // 16, 0, 0, 0, 0,
    )  # fmt: skip
    return bpf(Command.PROG_LOAD, attr)


def load_btf(blob: bytes) -> int:
    """BPF_BTF_LOAD; the fd."""
    return bpf(Command.BTF_LOAD, struct.pack("<QQIIII", address_in(blob), 0, len(blob), 0, 0, 0))


def program_id(fd: int) -> int:
    """The kernel's number of a loaded program."""
    return int.from_bytes(object_info(fd)[4:8], "little")


XDP_NATIVE: Final = 4
"""For `create_link`: by the driver (XDP_FLAGS_DRV_MODE), or not at all."""


def create_link(program: int, target: int, attach: AttachType, flags: int = 0) -> int:
    """Attach by link; the fd. The target is an ifindex of the caller's network namespace, or the fd of a cgroup's directory.
    EEXIST, ENODEV, EINVAL (no TCX here), EOPNOTSUPP (a driver without XDP)."""
    return bpf(Command.LINK_CREATE, struct.pack("<IIIIIIQ", program, target, attach, flags, 0, 0, 0))


def update_link(link: int, program: int) -> None:
    """Swap the program of a link; no packet is lost meanwhile."""
    bpf(Command.LINK_UPDATE, struct.pack("<IIII", link, program, 0, 0))


def detach_link(link: int) -> None:
    """The link stays, attached to nothing."""
    bpf(Command.LINK_DETACH, struct.pack("<I", link))


class LinkInfo(msgspec.Struct, frozen=True):
    """``ifindex`` is 0 once the device is gone."""

    program_id: int
    ifindex: int
    attach: int


def link_info(fd: int) -> LinkInfo:
    """Of a TCX or XDP link; the latter has no `attach`."""
    _type, _id, program, _pad, ifindex, attach = struct.unpack_from("<6I", object_info(fd))
    return LinkInfo(program, ifindex, attach)


def link_cgroup(fd: int) -> tuple[int, int]:
    """(program id, cgroup id) of a cgroup link; the cgroup's id is 0 once it is gone."""
    _type, _id, program, _pad, cgroup = struct.unpack_from("<4IQ", object_info(fd))
    return program, cgroup


class Trial(msgspec.Struct, frozen=True):
    """``ns``: the kernel's mean over the repetitions; ``context``: struct __sk_buff as the program left it."""

    verdict: int
    data: bytes
    ns: int
    context: bytes


def try_program(program: int, packet: bytes, *, repeat: int = 1, context: bytes = b"") -> Trial:
    """BPF_PROG_TEST_RUN of a TC program. ``context`` is a prefix of struct __sk_buff."""
    out, context_out = bytearray(len(packet) + 256), bytearray(192 if context else 0)
    attr = bytearray(struct.pack(
        "<IIIIQQIIIIQQIII", program, 0, len(packet), len(out), address_in(packet), address_out(out), repeat, 0,
        len(context), len(context_out), address_in(context) if context else 0, address_out(context_out), 0, 0, 0,
    ))  # fmt: skip
    bpf(Command.PROG_TEST_RUN, attr)
    verdict, _size_in, size = struct.unpack_from("<III", attr, 4)
    return Trial(verdict, bytes(out[:size]), struct.unpack_from("<I", attr, 36)[0], bytes(context_out))
