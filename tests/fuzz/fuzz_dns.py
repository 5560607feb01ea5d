"""DNS queries: whatever bytes arrive, a reply that can be read or none."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["stentor"]):
    from stentor.dns import row
    from stentor.dns.server import Resolver
    from stentor.dns.zone import Zone

RESOLVER = Resolver(Zone("cluster.local", row.services(), row.slices(), row.namespaces()), ())


def check(data: bytes) -> None:
    for is_udp in (True, False):
        found = RESOLVER.resolve(data, is_udp=is_udp)
        if isinstance(found, bytes):
            assert found[:2] == data[:2]
            assert found[2] & 0x80
        elif found is not None:
            found.close()  # type: ignore[attr-defined]


atheris.Setup(sys.argv, check)
atheris.Fuzz()
