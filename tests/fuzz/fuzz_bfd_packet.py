"""Fuzz the decoder of BFD control packets."""

import sys

import atheris

with atheris.instrument_imports(include=["stentor.bgp"]):
    from bgp_property import check_bfd

if __name__ == "__main__":
    atheris.Setup(sys.argv, check_bfd)
    atheris.Fuzz()
