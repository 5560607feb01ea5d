"""A blocking client of the control socket, for the command line and scripts."""

import json
import socket
from collections.abc import Iterator
from typing import Any

from stentor.bgp.errors import ConfigError, Unreachable

DEADLINE_S = 30.0


def ask(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """The one answer to a request. ConfigError when the speaker refuses it, Unreachable when there is none."""
    return next(stream(path, request))


def stream(path: str, request: dict[str, Any], deadline_s: float | None = DEADLINE_S) -> Iterator[dict[str, Any]]:
    """Answers until ``done`` or the end; ``deadline_s`` is for each of them, None waits for ever."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(deadline_s)
        try:
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise ConfigError(answer.get("field", ""), answer["error"])
                    if answer.get("done"):
                        return
                    yield answer
        except OSError as error:
            raise Unreachable(path, error.strerror or str(error)) from error
