"""Cluster DNS as a pod of the lab: the same server as on any cluster, forked from memory.

In the container nothing can be imported any more (its file system hides the host's Python), so everything that is loaded
late elsewhere is loaded here first.
"""

from __future__ import annotations

import encodings.idna
import os
import ssl
import sys
from collections.abc import Mapping

import dns.rdata
import uvloop

from stentor.dns import command

dns.rdata.load_all_types()  # type: ignore[no-untyped-call]
ssl.create_default_context()
_LOADED = (encodings.idna, uvloop)


def main(env: Mapping[str, str]) -> None:
    """The server as upstream runs it; the API is found as pods find it, and the lab's machines in the pod's hosts file."""
    os.environ.clear()
    os.environ.update(env)
    sys.exit(command.main(["--hosts", "/etc/hosts"]))
