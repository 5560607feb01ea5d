from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from apiservers.process import Server, make_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One dual-stack server for all tests of this process."""
    flags = ("--service-cidr", "10.96.0.0/16", "--service-cidr", "fd00:96::/112", "--advertise-address", "192.0.2.1")
    running = make_server(tmp_path_factory.mktemp("apiserver"), *flags)
    yield running
    assert running.stop() == 0


@pytest.fixture
def namespace(server: Server) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", name)
    yield name
    server.kubectl("delete", "namespace", name, "--wait=false")
