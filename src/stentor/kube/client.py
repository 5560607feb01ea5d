"""Requests to the Kubernetes API, typed by `Kind`.

Each request has a deadline and runs once: who repeats what failed is the caller's decision (`errors` says whether it makes
sense). Watches are `reflector`'s business; here is only their stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import aiohttp

from stentor.api.meta import Kind, Resource
from stentor.kube import raw
from stentor.kube.config import Connection
from stentor.kube.errors import ApiError, Retryable
from stentor.kube.patch import Patch
from stentor.runtime.fault import describe

T = TypeVar("T", bound=Resource)

PAGE: Final = 500
_READ_BUFFER: Final = 4 << 20  # one watch event may be larger than aiohttp's 64 KiB
_JSON: Final = {"Accept": "application/json"}

log = logging.getLogger(__name__)


class Client:
    """One API server; use as ``async with Client(connection) as client``."""

    def __init__(self, connection: Connection, *, timeout_s: float = 30.0, user_agent: str = "stentor") -> None:
        self.connection = connection
        self.requests: dict[tuple[str, str], int] = {}
        self._timeout_s = timeout_s
        self._user_agent = user_agent
        self._tls = connection.ssl_context()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        connector = aiohttp.TCPConnector(
            ssl=self._tls if self._tls is not None else True, limit=64, keepalive_timeout=60
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            read_bufsize=_READ_BUFFER,
            headers={"User-Agent": self._user_agent},
            auto_decompress=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # ---- objects

    async def get(self, kind: Kind[T], name: str, namespace: str = "", *, subresource: str = "") -> T:
        """One object; NotFound when it is not there."""
        return raw.decode(kind, await self.request("GET", kind.path(namespace, name, subresource)))

    async def list(
        self,
        kind: Kind[T],
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str | None = None,
    ) -> raw.Page[T]:
        """All objects, fetched page by page, with the version from which to watch. Gone when a page comes too late."""
        items: list[T] = []
        query = selection(label_selector, field_selector) | {"limit": str(PAGE)}
        if resource_version is not None:
            query["resourceVersion"] = resource_version
        while True:
            page, faults = raw.decode_list(kind, await self.request("GET", kind.path(namespace), query=query))
            for fault in faults:
                log.warning("Left out an object that does not fit its type", extra={"fault": fault})
            items.extend(page.items)
            if not page.continue_token:
                return raw.Page(tuple(items), page.resource_version, "")
            query.pop("resourceVersion", None)  # the token holds it
            query["continue"] = page.continue_token

    async def create(self, kind: Kind[T], obj: T, *, subresource: str = "", name: str = "") -> T:
        """A new object; AlreadyExists when its name is taken. `name` is of the parent for subresources (pods/binding)."""
        path = kind.path(obj.metadata.namespace, name, subresource)
        return raw.decode(kind, await self.request("POST", path, body=raw.encode(kind, obj)))

    async def update(self, kind: Kind[T], obj: T, *, subresource: str = "") -> T:
        """Replace; Conflict when `metadata.resourceVersion` is not the newest. Fields that `T` lacks get lost."""
        path = kind.path(obj.metadata.namespace, obj.metadata.name, subresource)
        return raw.decode(kind, await self.request("PUT", path, body=raw.encode(kind, obj)))

    async def patch(self, kind: Kind[T], name: str, patch: Patch, namespace: str = "", *, subresource: str = "") -> T:
        """Change part of an object; see `stentor.kube.patch`."""
        path = kind.path(namespace, name, subresource)
        answer = await self.request("PATCH", path, query=patch.parameters, body=patch.body, media_type=patch.media_type)
        return raw.decode(kind, answer)

    async def delete(
        self,
        kind: Kind[Any],
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "",
        grace_period_s: int | None = None,
    ) -> None:
        """Delete; NotFound when it is not there, Conflict when the object is not the one that `uid` or version names."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if present := {key: value for key, value in preconditions.items() if value}:
            options["preconditions"] = present
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        await self.request("DELETE", kind.path(namespace, name), body=raw.encode_document(options))

    # ---- transport

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        media_type: str = "application/json",
        timeout_s: float | None = None,
    ) -> bytes:
        """The answer's body; one of `ApiError` for anything but success."""
        media = {} if body is None else {"Content-Type": media_type}
        try:
            async with (
                asyncio.timeout(timeout_s or self._timeout_s),
                self.session.request(
                    method,
                    self.connection.server + path,
                    params=query,
                    data=body,
                    headers=_JSON | media | self.authorization(),
                    **self._name_check(),
                ) as response,
            ):
                answer = await response.read()
                self._count(method, str(response.status))
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            self._count(method, "<error>")
            raise Retryable(f"{method} {path}: {describe(e)}") from e
        if response.status >= 400:
            raise raw.decode_error(response.status, answer)
        return answer

    async def watch_lines(
        self,
        kind: Kind[Any],
        namespace: str,
        query: Mapping[str, str],
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
    ) -> AsyncGenerator[Sequence[bytes], None]:
        """Lines of a watch as they arrive, those that came together in one list; an empty one first, once the watch stands.
        Ends when the server ends it."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=idle_timeout_s)
        rest = b""
        try:
            async with self.session.get(
                self.connection.server + kind.path(namespace),
                params=query,
                headers=_JSON | self.authorization(),
                timeout=timeout,
                **self._name_check(),
            ) as response:
                self._count("WATCH", str(response.status))
                if response.status >= 400:
                    raise raw.decode_error(response.status, await response.read())
                yield []
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if lines:
                        yield [line for line in lines if line.strip()]
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise Retryable(f"WATCH {kind}: {describe(e)}") from e

    async def is_ready(self) -> bool:
        """Whether the server says that it can serve."""
        try:
            await self.request("GET", "/readyz", timeout_s=5)
        except ApiError:
            return False
        return True

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session, for streams that this class does not cover (exec)."""
        if self._session is None:
            raise RuntimeError("the client is used outside its `async with`")
        return self._session

    def authorization(self) -> dict[str, str]:
        """Headers that authenticate, none with a client certificate."""
        token = self.connection.token
        if self.connection.token_file:
            token = Path(self.connection.token_file).read_text().strip()  # rotated by the kubelet
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _name_check(self) -> dict[str, Any]:
        return {"server_hostname": self.connection.server_name} if self.connection.server_name else {}

    def _count(self, method: str, status: str) -> None:
        self.requests[method, status] = self.requests.get((method, status), 0) + 1


def selection(label_selector: str = "", field_selector: str = "") -> dict[str, str]:
    """Query parameters of a selection."""
    query = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in query.items() if value}
