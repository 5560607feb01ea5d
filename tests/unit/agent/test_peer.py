"""The agent's sockets answer root and their own user only, whatever their mode."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stentor.agent.endpoint import Endpoints
from stentor.agent.server import CniServer
from stentor.agent.state import Tables
from stentor.agent.store import StateDirectory
from stentor.ipam.address import NodePools

NOBODY = 65534
ASK = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(20)
    s.connect(sys.argv[1])
    try:
        s.sendall(b"{}")
        s.shutdown(socket.SHUT_WR)
        sys.stdout.buffer.write(s.recv(65536))
    except ConnectionError:
        pass
"""


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def ask(path: Path, user: int) -> bytes:
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", ASK, str(path), str(user), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        answer, _ = await asking.communicate()
    assert asking.returncode == 0
    return answer


async def test_others_get_no_answer_from_the_cni_socket(place: Path, tmp_path: Path) -> None:
    tables, store = Tables(), StateDirectory(tmp_path)
    with ThreadPoolExecutor(1) as executor:
        endpoints = Endpoints(tables.database, tables.endpoints, NodePools(), store, (4,), executor)

        async def in_force(_: object) -> None:
            return

        server = CniServer(endpoints, store, in_force=in_force, obstacle=lambda: "")
        listening = await server.serve(place / "cni.sock")
        try:
            (place / "cni.sock").chmod(0o666)
            assert b"code" in await ask(place / "cni.sock", 0)
            assert await ask(place / "cni.sock", NOBODY) == b""
        finally:
            listening.close()
