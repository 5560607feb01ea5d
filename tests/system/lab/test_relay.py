"""The relay from the host's loopback into a machine."""

from __future__ import annotations

import asyncio
import gc
import os

from stentor.lab.relay import Relay


async def test_a_client_that_has_said_all_gets_its_answer_however_late() -> None:
    """Also when the collector runs in between: nothing but the connections knows what serves them."""
    heard, answer_now = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        heard.set()
        await answer_now.wait()
        writer.write(question.upper())
        writer.close()

    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as behind, asyncio.timeout(10):
            relay = Relay(behind.sockets[0].getsockname()[1], lambda: namespace)
            relaying = asyncio.ensure_future(relay.serve())
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"question")
            writer.write_eof()
            await heard.wait()
            gc.collect()
            answer_now.set()
            assert await reader.read() == b"QUESTION"
            writer.close()
            relaying.cancel()
    finally:
        os.close(namespace)
