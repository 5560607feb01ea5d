"""Fuzz the decoder of UPDATE messages over every kind of session."""

import sys

import atheris

with atheris.instrument_imports(include=["stentor.bgp"]):
    from bgp_property import check_update_input

if __name__ == "__main__":
    atheris.Setup(sys.argv, check_update_input)
    atheris.Fuzz()
