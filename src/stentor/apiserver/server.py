"""HTTP: from a request to `rest`, `listing`, `watch`, `discovery`, … and back; every failure is a Status object."""

from __future__ import annotations

import asyncio
import logging
import platform
import ssl
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.web_exceptions import HTTPRequestEntityTooLarge

from stentor.apiserver.authentication import Authenticator
from stentor.apiserver.authorization import Authorizer
from stentor.apiserver.discovery import Discovery
from stentor.apiserver.errors import (
    ApiError,
    BadRequest,
    EntityTooLarge,
    Forbidden,
    Internal,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
)  # fmt: skip
from stentor.apiserver.kubelet import KubeletProxy
from stentor.apiserver.lifecycle import Lifecycle
from stentor.apiserver.listing import Listing, join
from stentor.apiserver.openapi import OpenAPI, legacy_document
from stentor.apiserver.printer import Printer
from stentor.apiserver.request import Call, Target, User, parse_bool, parse_delete_options, parse_path
from stentor.apiserver.resource import Resource
from stentor.apiserver.rest import Rest
from stentor.apiserver.store import Entry
from stentor.apiserver.subresource import Subresources
from stentor.apiserver.watch import Watcher
from stentor.apiserver.wire import JSON, YAML, Form, choose_form, decode_body, dump_yaml, encode, show, show_metadata

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
"""etcd's limit of 1.5 MiB does not exist here; large CRDs pass."""
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_STREAMS: Final = ("log", "exec", "attach", "portforward")
_HEALTH: Final = ("/healthz", "/livez", "/readyz")
VERSION: Final = {
    "major": "1",
    "minor": "33",
    "gitVersion": "v1.33.0+stentor",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "cpython",
    "platform": f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }",
}


class Server:
    """Answers requests; one instance serves every listener."""

    def __init__(
        self,
        rest: Rest,
        authenticator: Authenticator,
        authorizer: Authorizer,
        subresources: Subresources,
        proxy: KubeletProxy,
        lifecycle: Lifecycle,
    ) -> None:
        self._rest = rest
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._subresources = subresources
        self._proxy = proxy
        self._lifecycle = lifecycle
        self._listing = Listing(rest.store, rest.registry)
        self._discovery = Discovery(rest.registry)
        self._openapi = OpenAPI(rest.registry)
        self._watchers: set[Watcher] = set()
        self.is_ready = False

    def stop(self) -> None:
        """No longer ready; every watch ends, its client goes elsewhere or comes back."""
        self.is_ready = False
        for watcher in self._watchers:
            watcher.end()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """aiohttp's entry."""
        try:
            return await self._route(request)
        except ApiError as error:
            return _failure(error)
        except RecursionError:
            return _failure(BadRequest("the object is nested too deeply"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as fault:
            log.exception("request failed", extra={"method": request.method, "path": request.path})
            return _failure(Internal(f"Internal error occurred: {fault}"))

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        user = self._authenticator.authenticate(request)
        target = parse_path(request.path)
        if target is not None:
            return await self._resource(request, user, target)
        path = request.path.rstrip("/") or "/"
        if not self._authorizer.allows_path(user, path):
            raise Forbidden(f'forbidden: User "{user.name}" cannot get path "{path}"', {})
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed()
        return self._plain(request, path)

    def _plain(self, request: web.BaseRequest, path: str) -> web.Response:
        """Paths that are no resources."""
        accept = request.headers.get("Accept", "")
        if path.startswith(_HEALTH):
            ok = self.is_ready or path.startswith("/livez")
            return web.Response(text="ok" if ok else "starting", status=200 if ok else 500)
        if path == "/version":
            return _json(encode(VERSION))
        if path == "/openapi/v2":
            body, media = legacy_document(accept)
            return _json(body, media=media)
        if path == "/openapi/v3":
            return _json(self._openapi.index())
        if path.startswith("/openapi/v3/"):
            return _json(self._openapi.document(path.removeprefix("/openapi/v3/")))
        if path == "/":
            groups = [f"/apis/{g}" for g in self._rest.registry.groups() if g]
            return _json(encode({"paths": ["/api", "/api/v1", "/apis", *groups, *_HEALTH, "/openapi/v3", "/version"]}))
        if path.startswith(("/api", "/apis")):
            body, media = self._discovery.document(path, accept)
            return _json(body, media=media)
        raise NotFound()

    async def _resource(self, request: web.BaseRequest, user: User, target: Target) -> web.StreamResponse:
        resource = self._rest.registry.find(target.group, target.version, target.plural)
        query: Mapping[str, str] = request.rel_url.query
        verb = _verb_of(request.method, target, query)
        body = b""
        if request.method in ("POST", "PUT", "PATCH", "DELETE"):
            body = await _read(request)
        document = self._named(request, user, target, verb, body)
        if document is not None:
            target = msgspec.structs.replace(target, name=str((document.get("metadata") or {}).get("name") or ""))
        if not self._authorizer.allows(user, verb, target, document):
            raise _forbidden(user, verb, target)
        if document is not None:
            target = msgspec.structs.replace(target, name="")
        if resource is None:
            raise NotFound()
        call = _call(request, user, verb, resource, target, query)
        response = await self._serve(request, call, body)
        for warning in call.warnings:
            response.headers.add("Warning", f'299 - "{_quoted(warning)}"')
        return response

    @staticmethod
    def _named(request: web.BaseRequest, user: User, target: Target, verb: str, body: bytes) -> dict[str, Any] | None:
        """The body of a create by somebody whose rights depend on it."""
        if verb != "create" or target.name or "system:masters" in user.groups:
            return None
        return decode_body(body, request.headers.get("Content-Type", JSON))

    async def _serve(self, request: web.BaseRequest, call: Call, body: bytes) -> web.StreamResponse:
        if call.subresource is not None and call.subresource.name not in ("status", "finalize"):
            return await self._serve_subresource(request, call, body)
        form, media = choose_form(request.headers.get("Accept", ""))
        if call.resource.verbs == ("create",):
            return await self._serve_review(call, body)
        if call.verb == "list":
            return _json(self._listing.answer(call, form), media=media)
        if call.verb == "watch":
            return await self._watch(request, call, form)
        if call.verb == "get":
            return self._show(call, self._rest.get(call), form, media)
        if call.verb == "create":
            entry = await self._rest.create(call, decode_body(body, call.content_type))
            await self._fill(call, entry)
            return self._show(call, entry, form, media, 201)
        if call.verb == "update":
            return self._show(call, await self._rest.update(call, decode_body(body, call.content_type)), form, media)
        if call.verb == "patch":
            entry, created = await self._rest.patch(call, body)
            if created:
                await self._fill(call, entry)
            return self._show(call, entry, form, media, 201 if created else 200)
        return await self._delete(call, body)

    async def _fill(self, call: Call, entry: Entry) -> None:
        """A new namespace is answered when pods can be created in it."""
        if call.resource.bucket == "/namespaces" and not call.dry_run:
            await self._lifecycle.fill_namespace(entry.name)

    async def _delete(self, call: Call, body: bytes) -> web.Response:
        options = parse_delete_options(decode_body(body, call.content_type) if body else {}, call.query)
        resource = call.resource
        if call.verb == "deletecollection":
            entries = await self._rest.delete_collection(call, options)
            head = {
                "kind": f"{resource.kind}List",
                "apiVersion": resource.api_version,
                "metadata": {"resourceVersion": str(self._rest.store.revision)},
            }
            return _json(join(head, [show(e, resource) for e in entries]))
        entry, gone = await self._rest.delete(call, options)
        if not gone or resource.bucket == "/pods":
            return _json(show(entry, resource))
        details = {"name": call.name, "group": resource.group, "kind": resource.plural, "uid": entry.uid}
        details = {k: v for k, v in details.items() if v}
        return _json(
            encode({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        )

    async def _serve_review(self, call: Call, body: bytes) -> web.Response:
        if call.resource.plural == "bindings":
            document = decode_body(body, call.content_type)
            pods = self._rest.registry.builtin_bucket("/pods")
            name = str((document.get("metadata") or {}).get("name") or "")
            bound = Call(
                call.user,
                "create",
                pods,
                call.namespace,
                name,
                query=call.query,
                content_type=call.content_type,
                agent=call.agent,
            )
            return _json(encode(await self._subresources.bind(bound, body)), 201)
        return _json(encode(self._subresources.review(call, body)), 201)

    async def _serve_subresource(self, request: web.BaseRequest, call: Call, body: bytes) -> web.StreamResponse:
        assert call.subresource is not None
        name = call.subresource.name
        if name in _STREAMS:
            return await self._proxy.serve(call, request, request.rel_url.query)
        if name == "scale":
            return _json(encode(await self._subresources.scale(call, body)))
        if name == "token":
            return _json(encode(self._subresources.token(call, body)), 201)
        if name == "binding":
            return _json(encode(await self._subresources.bind(call, body)), 201)
        if name == "eviction":
            return _json(encode(await self._subresources.evict(call, body)), 201)
        form, media = choose_form(request.headers.get("Accept", ""))
        if call.verb == "get":
            return self._show(call, self._rest.get(call), form, media)
        return self._show(call, await self._subresources.ephemeral_containers(call, body), form, media)

    @staticmethod
    def _show(call: Call, entry: Entry, form: Form, media: str, status: int = 200) -> web.Response:
        if form is Form.TABLE:
            printer = Printer(call.resource, call.query.get("includeObject", "Metadata"))
            return _json(encode(printer.table([entry], {"resourceVersion": str(entry.rv)})), status)
        body = show_metadata(entry) if form is Form.METADATA else show(entry, call.resource)
        return _json(body, status, media)

    async def _watch(self, request: web.BaseRequest, call: Call, form: Form) -> web.StreamResponse:
        watcher = Watcher(call, form, self._rest.store)
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        response.enable_chunked_encoding()
        self._watchers.add(watcher)
        try:
            await response.prepare(request)
            async for chunk in watcher.frames():
                await response.write(chunk)
        finally:
            watcher.close()
            self._watchers.discard(watcher)
        return response


def make_http(server: Server) -> web.Server:
    """aiohttp's low-level server around `server`."""

    loop = asyncio.get_running_loop()

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

    return web.Server(
        server.handle, request_factory=make_request, handler_cancellation=True, access_log=None, keepalive_timeout=300
    )


def make_tls(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """TLS 1.2 or newer; clients may present a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except HTTPRequestEntityTooLarge as fault:
        raise EntityTooLarge(f"Request entity too large: limit is {MAX_BODY_BYTES}") from fault


def _verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    if method in ("GET", "HEAD"):
        if target.name:
            return "get"
        return "watch" if parse_bool(query.get("watch", "")) else "list"
    if method == "DELETE":
        return "delete" if target.name else "deletecollection"
    if method not in _VERBS:
        raise MethodNotAllowed()
    return _VERBS[method]


def _call(
    request: web.BaseRequest, user: User, verb: str, resource: Resource, target: Target, query: Mapping[str, str]
) -> Call:
    """Raises NotFound, MethodNotAllowed, BadRequest for what the resource does not have."""
    subresource = resource.subresource(target.subresource) if target.subresource else None
    if target.subresource and subresource is None:
        raise NotFound()
    if target.namespace and not resource.namespaced:
        raise NotFound()
    if verb not in (subresource.verbs if subresource is not None else resource.verbs):
        raise MethodNotAllowed()
    if subresource is None and verb in ("create", "update", "patch") and (verb == "create") == bool(target.name):
        raise MethodNotAllowed()
    if resource.namespaced and not target.namespace and verb not in ("list", "watch"):
        raise BadRequest("an empty namespace may not be set when a resource name is provided")
    headers = request.headers
    return Call(
        user, verb, resource, target.namespace, target.name, subresource, query,
        headers.get("Content-Type", JSON), headers.get("User-Agent", ""), [],
    )  # fmt: skip


def _forbidden(user: User, verb: str, target: Target) -> Forbidden:
    path = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
    qualified = f"{target.plural}.{target.group}" if target.group else target.plural
    scope = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    subject = f'{qualified} "{target.name}"' if target.name else qualified
    what = f'cannot {verb} resource "{path}" in API group "{target.group}" {scope}'
    message = f'{subject} is forbidden: User "{user.name}" {what}'
    details = {"name": target.name, "group": target.group, "kind": target.plural}
    return Forbidden(message, {k: v for k, v in details.items() if v})


def _json(body: bytes, status: int = 200, media: str = JSON) -> web.Response:
    if media == YAML:
        body = dump_yaml(msgspec.json.decode(body))
    return web.Response(body=body, status=status, headers={"Content-Type": media, "Cache-Control": "no-cache, private"})


def _failure(error: ApiError) -> web.Response:
    response = _json(encode(error.status()), error.code)
    if isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = "1"
    return response


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
