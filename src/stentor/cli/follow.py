"""Streams of agents: an answer of HTTP whose body is one JSON object a line, without end, from many agents at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import click
import msgspec

from stentor.cli import relay
from stentor.cli.inspect import choose
from stentor.cli.relay import SOCKET, AgentError, AgentPod, Cluster, parse_answer

Show = Callable[[dict[str, Any]], None]


def run(options: dict[str, str | None], path: str, nodes: tuple[str, ...], show: Show, *, local: bool) -> None:
    """`show` gets every object until the streams end; AgentError when none could be had, or all have ended."""
    relay.run(_follow_local(path, show) if local else _follow(options, path, nodes, show))


def _request(path: str) -> bytes:
    # Of version 1.0: the body comes as it is, not in chunks with lengths.
    return f"GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n".encode()


async def objects(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The objects of an answer; AgentError when it is no success."""
    data, in_body = b"", False
    async for chunk in chunks:
        data += chunk
        if not in_body:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                continue
            if b" 200 " not in head.split(b"\r\n")[0] + b" ":
                break
            in_body, data = True, rest
        *lines, data = data.split(b"\n")
        for line in filter(None, lines):
            found = msgspec.json.decode(line)
            if found.keys() == {"error"}:
                raise AgentError(found["error"])
            yield found
    if not in_body:
        status, answer = parse_answer(data)
        raise AgentError(answer.get("error", f"HTTP {status}") if isinstance(answer, dict) else f"HTTP {status}")


async def _follow_local(path: str, show: Show) -> None:
    try:
        reader, writer = await asyncio.open_unix_connection(SOCKET)
    except OSError as e:
        raise AgentError(f"{SOCKET}: {e.strerror}; is an agent running on this machine?") from e
    writer.write(_request(path))

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await reader.read(65536):
            yield chunk

    try:
        async for each in objects(chunks()):
            show(each)
    finally:
        writer.close()
    raise AgentError("the agent has ended the stream")


async def _follow(options: dict[str, str | None], path: str, nodes: tuple[str, ...], show: Show) -> None:
    async with Cluster(options["kubeconfig"], options["context"]) as cluster:
        agents = choose(await cluster.agents(), nodes)
        await asyncio.gather(*(_follow_one(cluster, agent, path, show) for agent in agents))
    raise AgentError("all agents have ended their streams")


async def _follow_one(cluster: Cluster, agent: AgentPod, path: str, show: Show) -> None:
    """One agent's failure is a warning: the others go on."""
    import aiohttp

    from stentor.runtime.fault import describe

    try:
        async for each in objects(cluster.stream(agent, _request(path))):
            show(each)
        text = "the agent has ended the stream"
    except AgentError as e:
        text = e.message
    except (aiohttp.ClientError, OSError) as e:
        text = describe(e)
    click.echo(f"Warning: {agent.node}: {text}", err=True)
