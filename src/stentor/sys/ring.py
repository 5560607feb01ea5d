"""The consumer's side of a BPF ring buffer. Source: kernel Documentation/bpf/ringbuf.rst."""

from __future__ import annotations

import mmap
import struct
from typing import Final

from stentor.sys.bpf import Map

_BUSY: Final = 1 << 31
_DISCARDED: Final = 1 << 30
_HEADER: Final = 8


class RingBuffer:
    """Poll ``fileno()`` for readability, then ``drain()``. One consumer a ring: the position is shared memory."""

    def __init__(self, ring: Map) -> None:
        page, size = mmap.PAGESIZE, ring.spec.max_entries
        self._ring, self._mask = ring, size - 1
        self._own = mmap.mmap(ring.fd, page)
        self._data = mmap.mmap(ring.fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)  # mapped twice: no wrap
        self._consumer, self._producer = memoryview(self._own).cast("Q"), memoryview(self._data).cast("Q")
        self._records = memoryview(self._data)[page:]

    def fileno(self) -> int:
        return self._ring.fd

    def drain(self, limit: int = 1 << 16) -> list[bytes]:
        """Records submitted since the last call, oldest first, at most ``limit``."""
        records: list[bytes] = []
        at, end = self._consumer[0], self._producer[0]
        while at < end and len(records) < limit:
            offset = at & self._mask
            (word,) = struct.unpack_from("<I", self._records, offset)
            if word & _BUSY:
                break
            size = word & ~(_BUSY | _DISCARDED)
            if not word & _DISCARDED:
                records.append(bytes(self._records[offset + _HEADER : offset + _HEADER + size]))
            at += (_HEADER + size + 7) // 8 * 8
        self._consumer[0] = at
        return records
