"""Why a call failed, in words for people."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import aiohttp
import pytest

from stentor.runtime.fault import describe


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 6443)"), "Connection refused"),
        (TimeoutError(), "timed out"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/token"), "/token: No such file or directory"),
        (TimeoutError(errno.ETIMEDOUT, "Connect call failed"), "Connection timed out"),
        (ConnectionResetError(), "ConnectionResetError"),
        (socket.gaierror(-2, "Name or service not known"), "[Errno -2] Name or service not known"),
        (ssl.SSLError(1, "certificate verify failed"), "certificate verify failed"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_words_are_the_kernels(error: Exception, text: str) -> None:
    assert text in describe(error)


def test_a_client_that_cannot_connect_says_whereto() -> None:
    async def ask(port: int) -> str:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get(f"http://127.0.0.1:{port}/")
        return describe(caught.value)

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        assert asyncio.run(ask(port)) == f"cannot connect to 127.0.0.1:{port}: Connection refused"
