"""The way to an agent's HTTP API: its unix socket on this machine, or pods/exec of `stentor-relay` through the API server.

Exec speaks v5.channel.k8s.io: a byte in front of each message names the channel (0 stdin, 1 stdout, 2 stderr, 3 status,
255 end of a channel).
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, Final, TypeVar

import click
import msgspec

T = TypeVar("T")

SOCKET: Final = "/run/stentor/agent.sock"
SELECTOR: Final = "k8s-app=cilium"
NAMESPACE: Final = "kube-system"
_CONTAINER: Final = "cilium-agent"
_LIMIT_S: Final = 30.0


class AgentError(click.ClickException):
    """An agent could not be asked, or refused; the message says what to do."""


class AgentPod(msgspec.Struct, frozen=True):
    """An agent of the cluster."""

    node: str
    pod: str
    phase: str
    ready: bool


class _Bytes:
    """What http.client needs of a socket to parse an answer."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(self._raw)


def parse_answer(raw: bytes) -> tuple[int, Any]:
    """Status and decoded JSON of an HTTP answer; AgentError when it is none."""
    try:
        response = http.client.HTTPResponse(_Bytes(raw))  # type: ignore[arg-type]
        response.begin()
        return response.status, msgspec.json.decode(response.read() or b"null")
    except (http.client.HTTPException, msgspec.DecodeError, ValueError) as e:
        raise AgentError(f"the agent's answer is no HTTP: {raw[:200]!r}") from e


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n".encode()


def ask_local(path: str, sock: str = SOCKET) -> tuple[int, Any]:
    """Through the unix socket of this machine."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_LIMIT_S)
            connection.connect(sock)
            connection.sendall(_request(path))
            parts = []
            while chunk := connection.recv(65536):
                parts.append(chunk)
    except PermissionError as e:
        raise AgentError(f"{sock}: {e.strerror}; ask as root") from e
    except OSError as e:
        raise AgentError(f"{sock}: {e.strerror}; is an agent running on this machine?") from e
    return parse_answer(b"".join(parts))


class Cluster:
    """Agents of a cluster, reached through its API server; use as an async context manager."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        from stentor.kube.client import Client
        from stentor.kube.config import find
        from stentor.kube.errors import BadConfig

        try:
            self.client = Client(find(kubeconfig, context), user_agent="stentor-cli")
        except BadConfig as e:
            raise click.ClickException(str(e)) from e  # no AgentError: waiting does not help

    async def __aenter__(self) -> Cluster:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.client.__aexit__(*error)

    async def agents(self) -> list[AgentPod]:
        """All agents by node; AgentError when the cluster cannot be asked."""
        from stentor.api.pod import PODS
        from stentor.kube.errors import ApiError

        try:
            page = await self.client.list(PODS, NAMESPACE, label_selector=SELECTOR)
        except ApiError as e:
            raise AgentError(f"{self.client.connection.server}: {e.message}") from e
        found = [
            AgentPod(
                pod.spec.node_name,
                pod.metadata.name,
                pod.status.phase,
                any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions),
            )
            for pod in page.items
        ]
        return sorted(found, key=lambda agent: agent.node)

    async def ask(self, agent: AgentPod, path: str) -> tuple[int, Any]:
        """One request to one agent."""
        import aiohttp

        from stentor.runtime.fault import describe

        try:
            async with asyncio.timeout(_LIMIT_S):
                return parse_answer(await self._exec(agent, _request(path)))
        except aiohttp.WSServerHandshakeError as e:
            reasons = {404: "its container does not run", 503: "the API server cannot reach its node"}
            reason = reasons.get(e.status, f"the API server answers {e.status}")
            raise AgentError(f"agent of {agent.node} (pod {agent.pod}): {reason}") from e
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise AgentError(f"agent of {agent.node} (pod {agent.pod}): {describe(e)}") from e

    async def _exec(self, agent: AgentPod, stdin: bytes) -> bytes:
        return b"".join([chunk async for chunk in self.stream(agent, stdin)])

    async def stream(self, agent: AgentPod, stdin: bytes) -> AsyncIterator[bytes]:
        """What the agent's socket answers to bytes, piece by piece; AgentError when it answers nothing."""
        connection = self.client.connection
        query = [("container", _CONTAINER), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        query += [("command", "stentor-relay"), ("command", SOCKET)]
        has_answer, stderr = False, bytearray()
        async with self.client.session.ws_connect(
            f"{connection.server}/api/v1/namespaces/{NAMESPACE}/pods/{agent.pod}/exec",
            params=query,
            protocols=("v5.channel.k8s.io",),
            headers=self.client.authorization(),
            max_msg_size=0,
        ) as stream:
            await stream.send_bytes(b"\0" + stdin)
            async for message in stream:
                data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
                channel, body = data[:1], data[1:]
                if channel == b"\1" and body:
                    has_answer = True
                    yield body
                elif channel == b"\2":
                    stderr += body
                elif channel == b"\3":
                    break
        if not has_answer:
            reason = stderr.decode(errors="replace").strip() or "no answer"
            raise AgentError(f"agent of {agent.node} (pod {agent.pod}): {reason}")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)


async def ask_all(cluster: Cluster, agents: Iterable[AgentPod], path: str) -> list[tuple[AgentPod, Any, str]]:
    """The same request to many agents at once: (agent, answer, error); an answer that is no success is an error."""

    async def one(agent: AgentPod) -> tuple[AgentPod, Any, str]:
        try:
            status, answer = await cluster.ask(agent, path)
        except AgentError as e:
            return agent, None, e.message
        if status != 200:
            return agent, None, answer.get("error", f"HTTP {status}") if isinstance(answer, dict) else f"HTTP {status}"
        return agent, answer, ""

    return list(await asyncio.gather(*(one(agent) for agent in agents)))
