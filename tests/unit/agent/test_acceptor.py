"""The CNI socket's connections: pieces, silence, too much, and a process out of descriptors."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stentor.agent.endpoint import Endpoints
from stentor.agent.server import CniServer
from stentor.agent.state import Tables
from stentor.agent.store import StateDirectory
from stentor.ipam.address import NodePools

VERSION = b"CNI_COMMAND=VERSION\0\0"


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    tables, store = Tables(), StateDirectory(tmp_path)

    async def in_force(_: object) -> None:
        return

    with ThreadPoolExecutor(1) as executor:
        endpoints = Endpoints(tables.database, tables.endpoints, NodePools(), store, (4,), executor)
        server = CniServer(endpoints, store, in_force=in_force, obstacle=lambda: "")
        listening = await server.serve(tmp_path / "cni.sock")
        yield tmp_path / "cni.sock"
        listening.close()


def connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    made.setblocking(False)
    return made


async def answer(connection: socket.socket) -> bytes:
    loop, got = asyncio.get_running_loop(), b""
    async with asyncio.timeout(30):
        while part := await loop.sock_recv(connection, 65536):
            got += part
    return got


async def test_a_request_in_pieces_is_one_request(path: Path) -> None:
    with connect(path) as client:
        for byte in VERSION:
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        client.shutdown(socket.SHUT_WR)
        assert b"supportedVersions" in await answer(client)


async def test_who_says_nothing_keeps_nobody_waiting(path: Path) -> None:
    with connect(path), connect(path) as client:
        client.send(VERSION)
        client.shutdown(socket.SHUT_WR)
        assert b"supportedVersions" in await answer(client)


async def test_a_request_over_the_limit_is_refused(path: Path) -> None:
    with connect(path) as client:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            try:
                await loop.sock_sendall(client, VERSION + b" " * (2 << 20))
                client.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            try:
                assert b'"code"' in await answer(client)
            except ConnectionResetError:  # what was not read is thrown away with the connection
                pass
    with connect(path) as client:
        client.send(VERSION)
        client.shutdown(socket.SHUT_WR)
        assert b"supportedVersions" in await answer(client)


async def test_who_comes_while_there_are_no_descriptors_is_served_later(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connect(path) as client:
        client.send(VERSION)
        client.shutdown(socket.SHUT_WR)
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
            async with asyncio.timeout(30):
                while "Cannot take a CNI request" not in caplog.text:
                    await asyncio.sleep(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert b"supportedVersions" in await answer(client)
