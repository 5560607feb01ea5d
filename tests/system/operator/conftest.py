from __future__ import annotations

from collections.abc import Iterator

import pytest

from apiservers.operator import Operator
from apiservers.process import Server, make_server
from labs.lab import eventually


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server without nodes, for all tests of this folder."""
    flags = ("--service-cidr", "10.96.0.0/16", "--service-cidr", "fd00:96::/112", "--advertise-address", "192.0.2.1")
    server = make_server(tmp_path_factory.mktemp("operator"), *flags)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="package")
def operator(cluster: Server) -> Iterator[Operator]:
    """A running operator with BGP, L2 announcements and both families."""
    settings = ("ipv6.enabled=true", "bgpControlPlane.enabled=true", "l2announcements.enabled=true")
    running = Operator(cluster, *settings).start()
    eventually(lambda: "ciliumbgpnodeconfigs" in cluster.kubectl("api-resources", "--api-group=cilium.io"))
    yield running
    assert running.stop() == 0
