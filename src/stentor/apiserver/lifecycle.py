"""What the server keeps in order by itself: the content of namespaces, from their first objects to their end, the
instances of dying CustomResourceDefinitions, and the objects that every cluster has."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stentor.apiserver import crd
from stentor.apiserver.errors import AlreadyExists, ApiError, NotFound
from stentor.apiserver.request import SERVER, Call, DeleteOptions
from stentor.apiserver.resource import Resource
from stentor.apiserver.rest import Rest
from stentor.apiserver.store import Entry, Event
from stentor.apiserver.workqueue import WorkQueue

Object = dict[str, Any]

NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
_AGENT: Final = "stentor-apiserver"
_ROOT_CA: Final = "kube-root-ca.crt"
EVENT_LIFETIME: Final = timedelta(hours=1)
_CONTENT: Final = {"/serviceaccounts": "default", "/configmaps": _ROOT_CA}


class Lifecycle:
    """Follows all events; `run` acts on what they mean."""

    def __init__(self, rest: Rest, ca: str) -> None:
        """`ca`: PEM of the authority, published in every namespace."""
        self._rest = rest
        self._ca = ca
        self._ending: set[str] = set()
        self._queue: WorkQueue[tuple[str, str]] = WorkQueue()
        for bucket in ("/namespaces", crd.BUCKET):
            for entry in rest.store.bucket(bucket).select(""):
                self._note(bucket, entry)
        rest.store.listeners.append(self._follow)

    async def run(self) -> None:
        await self._queue.run(self._process)

    def _follow(self, bucket: str, event: Event) -> None:
        entry = event.entry
        if bucket in ("/namespaces", crd.BUCKET):
            if event.operation == "DELETED":
                self._ending.discard(entry.name)
            else:
                self._note(bucket, entry)
        elif event.operation == "DELETED":
            if entry.namespace in self._ending or _CONTENT.get(bucket) == entry.name:
                self._queue.add(("/namespaces", entry.namespace))
            resource = self._rest.registry.by_bucket(bucket)
            if resource is not None and resource.custom:
                self._queue.add((crd.BUCKET, resource.qualified))
        elif entry.namespace in self._ending:
            self._queue.add(("/namespaces", entry.namespace))

    def _note(self, bucket: str, entry: Entry) -> None:
        ends = b'"deletionTimestamp"' in entry.raw
        if bucket == "/namespaces" and ends:
            self._ending.add(entry.name)
        if bucket == "/namespaces" or ends:
            self._queue.add((bucket, entry.name))

    async def _process(self, key: tuple[str, str]) -> None:
        bucket, name = key
        entry = self._rest.store.get(bucket, ("", name))
        if entry is None:
            return
        meta = entry.decode()["metadata"]
        if bucket == crd.BUCKET:
            if "deletionTimestamp" in meta:
                await self._end_definition(name, meta)
        elif "deletionTimestamp" in meta:
            await self._end_namespace(name)
        else:
            await self.fill_namespace(name)

    async def expire_events(self, now: datetime | None = None) -> None:
        """Delete events that nobody has touched for an hour, as upstream's --event-ttl."""
        limit = (now or datetime.now(UTC)) - EVENT_LIFETIME
        resource = self._rest.registry.builtin_bucket("/events")
        for entry in self._rest.store.bucket("/events").select(""):
            if _last_seen(entry.decode()) < limit:
                call = Call(SERVER, "delete", resource, entry.namespace, entry.name, agent=_AGENT)
                try:
                    await self._rest.delete(call, DeleteOptions())
                except NotFound:
                    continue

    async def fill_namespace(self, name: str) -> None:
        """The `default` ServiceAccount and the authority's certificate."""
        await self._ensure("/serviceaccounts", name, {"metadata": {"name": "default"}})
        note = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints"
        meta = {"name": _ROOT_CA, "annotations": {"kubernetes.io/description": note}}
        await self._ensure("/configmaps", name, {"metadata": meta, "data": {"ca.crt": self._ca}})

    async def _end_namespace(self, name: str) -> None:
        """Delete what is in it; when nothing is left, let it go."""
        left = False
        seen: set[str] = set()
        for resource in tuple(self._rest.registry.resources()):
            if not resource.namespaced or resource.bucket in seen or "delete" not in resource.verbs:
                continue
            seen.add(resource.bucket)
            left |= await self._empty(resource, name)
        if left:
            return

        def finalize(document: Object) -> Object:
            document["spec"]["finalizers"] = []
            return document

        resource = self._rest.registry.builtin_bucket("/namespaces")
        call = Call(SERVER, "update", resource, "", name, resource.subresource("finalize"), agent=_AGENT)
        await self._rest.change(call, finalize)

    async def _end_definition(self, name: str, meta: Object) -> None:
        if crd.FINALIZER not in (meta.get("finalizers") or ()):
            return
        resources = self._rest.registry.custom(name)
        if resources and await self._empty(resources[0], ""):
            return

        def finalize(document: Object) -> Object:
            rest = [f for f in document["metadata"].get("finalizers") or () if f != crd.FINALIZER]
            document["metadata"]["finalizers"] = rest
            return document

        resource = self._rest.registry.builtin_bucket(crd.BUCKET)
        await self._rest.change(Call(SERVER, "update", resource, "", name, agent=_AGENT), finalize)

    async def _empty(self, resource: Resource, namespace: str) -> bool:
        """Delete every object of a resource (in one namespace); True when some are still there."""
        stored = self._rest.registry.by_bucket(resource.bucket) or resource
        for entry in self._rest.store.bucket(resource.bucket).select(namespace):
            if b'"deletionTimestamp"' in entry.raw and "deletionTimestamp" in entry.decode()["metadata"]:
                continue
            call = Call(SERVER, "delete", stored, entry.namespace, entry.name, agent=_AGENT)
            await self._rest.delete(call, DeleteOptions(propagation_policy="Background"))
        return bool(self._rest.store.bucket(resource.bucket).select(namespace))

    async def _ensure(self, bucket: str, namespace: str, document: Object) -> None:
        """Create an object unless it is there."""
        resource = self._rest.registry.builtin_bucket(bucket)
        if self._rest.store.head(bucket, (namespace, document["metadata"]["name"])) is not None:
            return
        document.update(kind=resource.kind, apiVersion=resource.api_version)
        try:
            await self._rest.create(Call(SERVER, "create", resource, namespace, agent=_AGENT), document)
        except AlreadyExists:
            return
        except ApiError as error:
            if error.code != 403:  # the namespace began to end
                raise

    # -- the cluster's own objects

    async def bootstrap(self, advertised: Sequence[str], port: int) -> None:
        """Namespaces and the `kubernetes` Service, whose endpoints are the server's addresses."""
        for name in NAMESPACES:
            await self._ensure("/namespaces", "", {"metadata": {"name": name}})
            await self.fill_namespace(name)
        families = self._rest.allocator.families
        labels = {"component": "apiserver", "provider": "kubernetes"}
        addresses = [self._rest.allocator.first_address(f) for f in families]
        spec = {
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": families,
            "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "RequireDualStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        }
        await self._ensure("/services", "default", {"metadata": {"name": "kubernetes", "labels": labels}, "spec": spec})
        await self._advertise(advertised, port)

    async def _advertise(self, advertised: Sequence[str], port: int) -> None:
        by_family: dict[str, list[str]] = {}
        for address in advertised:
            by_family.setdefault(f"IPv{ipaddress.ip_address(address).version}", []).append(address)
        ports = [{"name": "https", "port": port, "protocol": "TCP"}]
        if by_family:
            first = next(iter(by_family.values()))
            subsets = [{"addresses": [{"ip": a} for a in first], "ports": ports}]
            head = {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}
            await self._put("/endpoints", {"metadata": head, "subsets": subsets})
        for index, (family, addresses) in enumerate(by_family.items()):
            name = "kubernetes" if index == 0 else f"kubernetes-{family.lower()}"
            meta: Object = {"name": name, "labels": {"kubernetes.io/service-name": "kubernetes"}}
            endpoints = [{"addresses": [a], "conditions": {"ready": True}} for a in addresses]
            document = {"metadata": meta, "addressType": family, "endpoints": endpoints, "ports": ports}
            await self._put("discovery.k8s.io/endpointslices", document)

    async def _put(self, bucket: str, document: Object) -> None:
        """Create or replace an object in `default`."""
        await self._ensure(bucket, "default", {**document, "metadata": dict(document["metadata"])})
        resource = self._rest.registry.builtin_bucket(bucket)
        content = {k: v for k, v in document.items() if k != "metadata"}
        call = Call(SERVER, "update", resource, "default", document["metadata"]["name"], agent=_AGENT)
        await self._rest.change(call, lambda live: {**live, **content})


def _last_seen(event: Object) -> datetime:
    stamps = ((event.get("series") or {}).get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return datetime.fromisoformat(next((s for s in stamps if s), event["metadata"]["creationTimestamp"]))
