"""CNI requests: whatever bytes arrive on the socket, a request or an error with a code of the specification."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["stentor"]):
    from stentor.agent.cni import error_result, parse_request
    from stentor.agent.errors import CniError


def check(data: bytes) -> None:
    try:
        parse_request(data)
    except CniError as e:
        assert e.code in (1, 4, 6, 7)
        error_result(e)


atheris.Setup(sys.argv, check)
atheris.Fuzz()
