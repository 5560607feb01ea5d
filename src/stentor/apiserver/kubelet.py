"""Logs, exec, attach and port-forward: passed through to the kubelet API of the pod's node.

WebSocket messages go through one by one, whatever subprotocol client and node agree on; log output is streamed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import MultiMapping

from stentor.apiserver.errors import ApiError, BadRequest, Internal, NotFound, Unavailable, not_found
from stentor.apiserver.request import Call
from stentor.apiserver.rest import Rest
from stentor.runtime.fault import describe

Object = dict[str, Any]

_CONNECT_S: Final = 10
_PATHS: Final = {"log": "containerLogs", "exec": "exec", "attach": "attach", "portforward": "portForward"}
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
# Query of pods/exec and pods/log on the left is the kubelet's on the right.
_RENAMED: Final = {"stdin": "input", "stdout": "output", "stderr": "error"}
_CHUNK_BYTES: Final = 64 * 1024


class KubeletProxy:
    """A client of every node's kubelet API."""

    def __init__(self, rest: Rest, context: ssl.SSLContext) -> None:
        """`context` carries the server's client certificate and the authority that signed the nodes'."""
        self._rest = rest
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_S)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=aiohttp.TCPConnector(ssl=self._context, limit=0)
            )
        return self._session

    async def serve(self, call: Call, request: web.BaseRequest, query: MultiMapping[str]) -> web.StreamResponse:
        """Answer pods/log, exec, attach or portforward. Raises ApiError before anything is sent."""
        pod = self._rest.get(call).decode()
        assert call.subresource is not None
        name = call.subresource.name
        url = self._url(pod, name, query)
        if name == "log":
            return await self._stream_log(request, url, _log_query(query))
        if request.headers.get("Upgrade", "").lower() != "websocket":
            # kubectl comes back with SPDY after a refused WebSocket: what it shows is the answer to this.
            raise await self._refusal(url, _stream_query(query, name))
        return await self._join(request, url, _stream_query(query, name))

    async def _refusal(self, url: str, query: list[tuple[str, str]]) -> ApiError:
        """Why a stream cannot be had: the node's words, which it also says to a request without an upgrade."""
        try:
            async with self._client().get(url, params=query, timeout=aiohttp.ClientTimeout(_CONNECT_S)) as answer:
                text = (await answer.text()).strip()
        except (aiohttp.ClientError, TimeoutError) as fault:
            return Unavailable(f"error dialing backend: {describe(fault)}")
        if answer.status == 404:
            return NotFound(text or "container not found")
        return BadRequest(text or "Upgrade request required: this server streams over WebSocket only")

    def _url(self, pod: Object, name: str, query: MultiMapping[str]) -> str:
        meta, spec = pod["metadata"], pod["spec"]
        node_name = spec.get("nodeName")
        if not node_name:
            raise BadRequest(f"pod {meta['name']} does not have a host assigned")
        container = "" if name == "portforward" else "/" + _choose_container(pod, query.get("container", ""))
        return f"{self._node_url(node_name)}/{_PATHS[name]}/{meta['namespace']}/{meta['name']}{container}"

    def _node_url(self, node_name: str) -> str:
        entry = self._rest.store.get("/nodes", ("", node_name))
        if entry is None:
            raise not_found(self._rest.registry.builtin_bucket("/nodes"), node_name)
        status = entry.decode().get("status") or {}
        addresses = {a.get("type"): a.get("address") for a in reversed(status.get("addresses") or ())}
        address = addresses.get("InternalIP") or addresses.get("Hostname")
        if not address:
            raise Internal(f"no preferred addresses found for node {node_name}; known addresses: {sorted(addresses)}")
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or 10250
        return f"https://{_bracket(address)}:{port}"

    async def _stream_log(self, request: web.BaseRequest, url: str, query: list[tuple[str, str]]) -> web.StreamResponse:
        try:
            async with self._client().get(url, params=query) as answer:
                if answer.status != 200:
                    text = (await answer.text()).strip()
                    raise (
                        NotFound(text)
                        if answer.status == 404
                        else BadRequest(text or f"the node answered {answer.status}")
                    )
                response = web.StreamResponse(headers={"Content-Type": "text/plain"})
                response.enable_chunked_encoding()
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    await response.write(chunk)
                return response
        except (aiohttp.ClientConnectorError, TimeoutError) as fault:
            raise Unavailable(f'Get "{url}": {fault}') from fault

    async def _join(self, request: web.BaseRequest, url: str, query: list[tuple[str, str]]) -> web.StreamResponse:
        offered = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
        try:
            async with self._client().ws_connect(
                url, params=query, protocols=offered, autoping=False, autoclose=False, max_msg_size=0, compress=0
            ) as node:
                chosen = (node.protocol,) if node.protocol else ()
                client = web.WebSocketResponse(
                    protocols=chosen, autoping=False, autoclose=False, max_msg_size=0, compress=False
                )
                await client.prepare(request)
                await asyncio.gather(_pump(client, node), _pump(node, client))
                return client
        except aiohttp.WSServerHandshakeError as fault:
            raise await self._refusal(url, query) from fault
        except (aiohttp.ClientConnectorError, TimeoutError) as fault:
            raise Unavailable(f"error dialing backend: {describe(fault)}") from fault


WebSocket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pump(source: WebSocket, sink: WebSocket) -> None:
    """Every message of one side to the other; the end of one side closes the other, which ends the opposite pump."""
    code, reason = 1000, b""
    try:
        while True:
            message = await source.receive()
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    await sink.send_bytes(message.data)
                case aiohttp.WSMsgType.TEXT:
                    await sink.send_str(message.data)
                case aiohttp.WSMsgType.PING:
                    await source.pong(message.data)
                case aiohttp.WSMsgType.PONG:
                    continue
                case aiohttp.WSMsgType.CLOSE:
                    code, reason = message.data or 1000, (message.extra or "").encode()
                    return
                case _:
                    return
    except ConnectionError:
        return  # the sink is gone; its own pump closes the source
    finally:
        await sink.close(code=code, message=reason)


def _bracket(address: str) -> str:
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address


def _choose_container(pod: Object, wanted: str) -> str:
    spec, name = pod["spec"], pod["metadata"]["name"]
    names = [
        c["name"] for kind in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(kind) or ()
    ]
    if wanted:
        if wanted not in names:
            raise BadRequest(f"container {wanted} is not valid for pod {name}")
        return wanted
    preferred = (pod["metadata"].get("annotations") or {}).get(_DEFAULT_CONTAINER)
    regular = [str(c["name"]) for c in spec["containers"]]
    if preferred in regular:
        return str(preferred)
    if len(regular) > 1:
        raise BadRequest(f"a container name must be specified for pod {name}, choose one of: [{' '.join(regular)}]")
    return regular[0]


def _log_query(query: MultiMapping[str]) -> list[tuple[str, str]]:
    return [(k, v) for k, v in query.items() if k != "container"]


def _stream_query(query: MultiMapping[str], name: str) -> list[tuple[str, str]]:
    if name == "portforward":
        return list(query.items())
    out = []
    for key, value in query.items():
        if key == "command":
            out.append((key, value))
        elif (key in _RENAMED or key == "tty") and value in ("true", "1"):
            out.append((_RENAMED.get(key, key), "1"))
    return out
