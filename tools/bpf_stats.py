"""Instructions of every BPF program, and what the verifier has to do for it: tracked figures. `make bpf-stats`, as root."""

from __future__ import annotations

import re
import sys

from stentor.datapath.config import DatapathConfig
from stentor.datapath.object import read_objects
from stentor.net.address import Addr
from stentor.sys.bpf import Map

PATTERN = re.compile(r"verification time (\d+) usec.*?stack depth ([\d+]+).*?processed (\d+) insns", re.DOTALL)


def main() -> int:
    print("| program | instructions | verified | stack | verification |")
    print("|---|---|---|---|---|")
    config = DatapathConfig(overlay_ifindex=1, overlay_source=Addr.parse("192.0.2.1")).pack()
    for found in read_objects().values():
        maps = {name: Map.create(found.map_spec(name), name) for name in found.definitions}
        loaded = found.load(config, maps)
        for name in found.programs:
            size = len(found.linked[name].code) // 8
            loaded.program(name)
            match = PATTERN.search(loaded.statistics[name])
            usec, stack, processed = match.groups() if match else ("0", "?", "?")
            print(f"| {name} | {size} | {processed} | {stack} B | {int(usec) / 1000:.1f} ms |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
