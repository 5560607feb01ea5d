"""Fuzz the SPDY framing of port-forward: any bytes are events, a fault, or an incomplete frame."""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["stentor.lab.runner.spdy"]):
    from stentor.lab.runner.spdy import Connection, FaultError


def check(data: bytes) -> None:
    whole, pieces = Connection(), Connection()
    faults = []
    for connection, parts in ((whole, [data]), (pieces, [data[:7], data[7:]])):
        events = []
        fault = False
        with contextlib.suppress(FaultError):
            for part in parts:
                events += connection.receive(part)
            fault = True
        faults.append((fault, events if fault else None))
    assert faults[0] == faults[1], "how bytes arrive must not matter"


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
