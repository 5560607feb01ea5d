"""Fuzz BGP's framing and every message but UPDATE."""

import sys

import atheris

with atheris.instrument_imports(include=["stentor.bgp"]):
    from bgp_property import check_message_input

if __name__ == "__main__":
    atheris.Setup(sys.argv, check_message_input)
    atheris.Fuzz()
