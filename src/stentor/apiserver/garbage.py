"""The garbage collector: objects go when all their owners are gone; foreground and orphan deletion
(kubernetes.io/docs/concepts/architecture/garbage-collection)."""

from __future__ import annotations

from typing import Any

from stentor.apiserver.request import SERVER, Call, DeleteOptions
from stentor.apiserver.rest import Rest
from stentor.apiserver.store import Entry, Event, Key
from stentor.apiserver.workqueue import WorkQueue

Object = dict[str, Any]
Place = tuple[str, Key]
"""Bucket and key of an object."""

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class Garbage:
    """Follows all events; `run` acts on what they mean."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._alive: dict[str, Place] = {}
        self._dependents: dict[str, set[Place]] = {}
        self._queue: WorkQueue[Place] = WorkQueue()
        for bucket in rest.store.buckets():
            for entry in bucket.select(""):
                self._add((bucket.name, entry.key), entry)
        for bucket in rest.store.buckets():
            for entry in bucket.select(""):
                if entry.owners or _is_dying(entry):
                    self._queue.add((bucket.name, entry.key))
        rest.store.listeners.append(self._follow)

    async def run(self) -> None:
        await self._queue.run(self._process)

    def _follow(self, bucket: str, event: Event) -> None:
        entry, place = event.entry, (bucket, event.entry.key)
        if event.previous is not None:
            for owner in event.previous.owners:
                self._dependents.get(owner, set()).discard(place)
        if event.operation == "DELETED":
            self._alive.pop(entry.uid, None)
            for dependent in self._dependents.pop(entry.uid, ()):
                self._queue.add(dependent)
            for owner in entry.owners:
                if owner in self._alive:
                    self._queue.add(self._alive[owner])
            return
        self._add(place, entry)
        if _is_dying(entry) or any(owner not in self._alive for owner in entry.owners):
            self._queue.add(place)

    def _add(self, place: Place, entry: Entry) -> None:
        self._alive[entry.uid] = place
        for owner in entry.owners:
            self._dependents.setdefault(owner, set()).add(place)

    async def _process(self, place: Place) -> None:
        bucket, key = place
        entry = self._rest.store.get(bucket, key)
        if entry is None:
            return
        document = entry.decode()
        meta = document["metadata"]
        if "deletionTimestamp" in meta:
            finalizers = meta.get("finalizers") or ()
            if ORPHAN in finalizers:
                await self._orphan(place, entry)
            elif FOREGROUND in finalizers:
                await self._foreground(place, entry)
            return
        await self._collect(place, meta)

    async def _collect(self, place: Place, meta: Object) -> None:
        """Delete an object without living owners; drop references to dead ones from an object that has others."""
        references = meta.get("ownerReferences") or []
        dead = [r for r in references if self._is_dead(r)]
        if not dead:
            return
        if len(dead) < len(references):
            await self._drop_references(place, {r["uid"] for r in dead})
            return
        await self._delete(place, "Background", meta["uid"])

    def _is_dead(self, reference: Object) -> bool:
        """An owner of a kind that is not served here counts as alive."""
        if reference.get("uid") in self._alive:
            return False
        return self._rest.registry.by_kind(reference.get("apiVersion", ""), reference.get("kind", "")) is not None

    async def _orphan(self, place: Place, entry: Entry) -> None:
        for dependent in tuple(self._dependents.get(entry.uid, ())):
            await self._drop_references(dependent, {entry.uid})
        await self._drop_finalizer(place, ORPHAN)

    async def _foreground(self, place: Place, entry: Entry) -> None:
        blocking = False
        for dependent in tuple(self._dependents.get(entry.uid, ())):
            state = self._rest.store.get(*dependent)
            if state is None:
                continue
            meta = state.decode()["metadata"]
            blocking |= any(r["uid"] == entry.uid and r.get("blockOwnerDeletion") for r in meta["ownerReferences"])
            if "deletionTimestamp" not in meta:
                await self._delete(
                    dependent, "Foreground" if self._dependents.get(state.uid) else "Background", state.uid
                )
                blocking |= self._rest.store.get(*dependent) is not None
        remaining = [d for d in self._dependents.get(entry.uid, ()) if self._rest.store.get(*d) is not None]
        if not remaining or not blocking:
            await self._drop_finalizer(place, FOREGROUND)

    def _call(self, place: Place, verb: str) -> Call | None:
        bucket, (namespace, name) = place
        resource = self._rest.registry.by_bucket(bucket)
        return Call(SERVER, verb, resource, namespace, name, agent="generic-garbage-collector") if resource else None

    async def _delete(self, place: Place, policy: str, uid: str) -> None:
        call = self._call(place, "delete")
        if call is not None:
            await self._rest.delete(call, DeleteOptions(propagation_policy=policy, uid=uid))

    async def _drop_references(self, place: Place, uids: set[str]) -> None:
        def change(document: Object) -> Object:
            meta = document["metadata"]
            meta["ownerReferences"] = [r for r in meta.get("ownerReferences") or () if r["uid"] not in uids]
            if not meta["ownerReferences"]:
                del meta["ownerReferences"]
            return document

        call = self._call(place, "patch")
        if call is not None:
            await self._rest.change(call, change)

    async def _drop_finalizer(self, place: Place, finalizer: str) -> None:
        def change(document: Object) -> Object:
            meta = document["metadata"]
            meta["finalizers"] = [f for f in meta.get("finalizers") or () if f != finalizer]
            if not meta["finalizers"]:
                del meta["finalizers"]
            return document

        call = self._call(place, "patch")
        if call is not None:
            await self._rest.change(call, change)


def _is_dying(entry: Entry) -> bool:
    """Whether one of the two deletions with a finalizer may be under way (a cheap look, `_process` looks closely)."""
    return b'"deletionTimestamp"' in entry.raw and (FOREGROUND.encode() in entry.raw or b'"orphan"' in entry.raw)
