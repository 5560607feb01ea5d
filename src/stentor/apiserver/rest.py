"""The verbs on objects: create, get, update, patch, delete. Everything between reading a state and queueing its
successor happens without giving up the event loop, so that no write can slip between."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from stentor.apiserver import crd, deletion, ownership, patch
from stentor.apiserver.admission import admit_pod
from stentor.apiserver.allocation import Allocator
from stentor.apiserver.deletion import Verdict
from stentor.apiserver.errors import (
    BadRequest,
    Cause,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    UnsupportedMediaType,
    already_exists,
    conflict,
    invalid,
    not_found,
)  # fmt: skip
from stentor.apiserver.meta import generate_name, keep_immutable, now, validate_meta
from stentor.apiserver.registry import Registry
from stentor.apiserver.request import Call, DeleteOptions, parse_bool
from stentor.apiserver.resource import Resource
from stentor.apiserver.store import Entry, Event, Key, Operation, Store
from stentor.apiserver.strategic import strategic_merge
from stentor.apiserver.strategy import strategy_of
from stentor.apiserver.structural import prune, set_defaults
from stentor.apiserver.validation import validate
from stentor.apiserver.wire import decode_any, decode_body, encode, storage_api_version, to_version

Object = dict[str, Any]
Change = Callable[[Object], Object]

_SERVICES = "/services"
_TYPE_ERROR = "FieldValueTypeInvalid"
_NAME_RETRIES = 8


class Rest:
    """Reads and writes objects of every served resource."""

    def __init__(self, store: Store, registry: Registry, allocator: Allocator) -> None:
        self.store = store
        self.registry = registry
        self.allocator = allocator
        store.listeners.append(self._follow)

    def load(self) -> None:
        """Take over what the store holds: definitions and service allocations."""
        for entry in self.store.bucket(crd.BUCKET).select(""):
            self._serve(entry.decode())
        for entry in self.store.bucket(_SERVICES).select(""):
            self.allocator.claim(entry.key, entry.decode().get("spec", {}))

    def _follow(self, bucket: str, event: Event) -> None:
        if bucket == crd.BUCKET:
            definition = event.entry.decode()
            if event.operation == "DELETED":
                self.registry.set_custom(event.entry.name, [])
            else:
                self._serve(definition)
        elif bucket == _SERVICES and event.operation == "DELETED":
            self.allocator.release(event.entry.key, event.entry.decode().get("spec", {}))

    def _serve(self, definition: Object) -> None:
        resources = crd.build_custom(definition, self.registry.custom_definitions)
        self.registry.set_custom(definition["metadata"]["name"], resources)

    # -- reading

    def get(self, call: Call) -> Entry:
        return self.find(call.resource, (call.namespace, call.name))

    def find(self, resource: Resource, key: Key) -> Entry:
        entry = self.store.get(resource.bucket, key)
        if entry is None:
            raise not_found(resource, key[1])
        return entry

    # -- creating

    async def create(self, call: Call, document: Object) -> Entry:
        """Store a new object. Raises ApiError."""
        self._check_type(call, document)
        self._decode(call, document)
        meta = document.setdefault("metadata", {})
        self._place(call, meta)
        self._choose_name(call, meta)
        self._check_namespace(call, meta.get("name", ""))
        self._complete_new(call, document)
        self._track(call, None, document)
        return await self._write(call, "ADDED", (call.namespace, meta["name"]), document, dry_run=call.dry_run)

    def _choose_name(self, call: Call, meta: Object) -> None:
        """A name that is free, made from generateName when none is given."""
        bucket = call.resource.bucket
        name, prefix = meta.get("name"), meta.get("generateName")
        if not name and isinstance(prefix, str) and prefix:
            names = (generate_name(prefix) for _ in range(_NAME_RETRIES))
            meta["name"] = next((n for n in names if self.store.head(bucket, (call.namespace, n)) is None), None)
        elif isinstance(name, str) and self.store.head(bucket, (call.namespace, name)) is not None:
            raise already_exists(call.resource, name)

    def _complete_new(self, call: Call, document: Object) -> None:
        """Everything that a new object gets from the server, and its validation."""
        resource = call.resource
        strategy = strategy_of(resource.bucket, custom=resource.custom)
        meta = document["metadata"]
        stamp = now()
        for field in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
            meta.pop(field, None)
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=stamp)
        if strategy.has_generation:
            meta["generation"] = 1
        if resource.subresource("status") is not None:
            document.pop("status", None)
        self._set_schema_defaults(resource, document)
        self._check_shape(call, document)
        if resource.bucket == "/pods":
            admit_pod(document, self.store)
        if meta.get("name"):
            strategy.prepare_create(document)
        strategy.set_defaults(document)
        self._check(call, document, validate_meta(meta, strategy.check_name))
        self._allocate(call, document, None)
        self._check(call, document, strategy.validate(document))
        self._claim(call, document, None)
        if resource.bucket == crd.BUCKET:
            crd.set_crd_status(document, self.registry.resources(), stamp)

    @staticmethod
    def _set_schema_defaults(resource: Resource, document: Object) -> None:
        if not resource.custom and resource.schema.declares("spec"):
            document.setdefault("spec", {})  # no pointer in Go: always there
        set_defaults(document, resource.schema)

    def _check_type(self, call: Call, document: Object) -> None:
        """kind and apiVersion of a body belong to the path."""
        resource = call.resource
        kind, api_version = document.get("kind"), document.get("apiVersion")
        if not kind or not api_version:
            raise BadRequest("Object 'Kind' is missing" if not kind else "Object 'apiVersion' is missing")
        if api_version != resource.api_version:
            raise BadRequest(
                f"the API version in the data ({api_version}) does not match the expected API version ({resource.api_version})"
            )
        if kind != resource.kind:
            raise BadRequest(f"the kind in the data ({kind}) does not match the expected kind ({resource.kind})")

    def _decode(self, call: Call, document: Object) -> None:
        """Drop what the schema does not know; complain as fieldValidation says."""
        resource = call.resource
        unknown = prune(document, resource.schema, nulls=not resource.custom)
        meta = document.get("metadata")
        if resource.custom and isinstance(meta, dict):
            for key in [k for k, v in meta.items() if v is None]:
                del meta[key]
        if not unknown or call.validation == "Ignore":
            return
        problems = [f'unknown field "{path}"' for path in unknown]
        if call.validation == "Strict":
            raise BadRequest(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
                f"strict decoding error: {', '.join(problems)}"
            )
        call.warnings.extend(problems)

    def _place(self, call: Call, meta: Object) -> None:
        if not isinstance(meta, dict):
            raise self._wrong_type(call, "metadata", "object")
        given = meta.get("namespace") or ""
        if call.resource.namespaced:
            if given and given != call.namespace:
                raise BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            if not call.namespace:
                raise BadRequest("an empty namespace may not be set during creation")
            meta["namespace"] = call.namespace
        else:
            meta.pop("namespace", None)
        if call.name and meta.setdefault("name", call.name) != call.name:
            raise BadRequest(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({call.name})"
            )

    def _check_namespace(self, call: Call, name: str) -> None:
        """The namespace of a new object exists and is not on its way out."""
        if not call.resource.namespaced:
            return
        entry = self.store.head("/namespaces", ("", call.namespace))
        if entry is None:
            raise NotFound(f'namespaces "{call.namespace}" not found', {"name": call.namespace, "kind": "namespaces"})
        if b'"deletionTimestamp"' in entry.raw and "deletionTimestamp" in entry.decode()["metadata"]:
            why = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            causes = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {call.namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            details = {"name": name, "group": call.resource.group, "kind": call.resource.plural, "causes": causes}
            raise Forbidden(f'{call.resource.qualified} "{name}" is forbidden: {why}', details)

    def _wrong_type(self, call: Call, path: str, expected: str) -> BadRequest:
        kind, version = call.resource.kind, call.resource.version
        return BadRequest(
            f'{kind} in version "{version}" cannot be handled as a {kind}: json: cannot unmarshal into Go struct field '
            f"{kind}.{path} of type {expected}"
        )

    def _check_shape(self, call: Call, document: Object) -> None:
        """The document against its schema. Types of built-in fields are a matter of decoding: 400, not 422."""
        custom = call.resource.custom
        causes = validate(document, call.resource.schema)
        for cause in causes:
            if cause.reason == _TYPE_ERROR and (not custom or cause.field.startswith("metadata")):
                expected = cause.message.rpartition("must be of type ")[2].partition(":")[0]
                raise self._wrong_type(call, cause.field, expected)
        if not custom:
            causes = [c for c in causes if not (c.reason == "FieldValueRequired" and c.field.startswith("status"))]
        self._check(call, document, causes)

    def _check(self, call: Call, document: Object, causes: list[Cause]) -> None:
        if causes:
            meta = document["metadata"]
            name = meta.get("name") or meta.get("generateName") or ""
            raise Invalid(call.resource.group, call.resource.kind, name, causes)

    def _allocate(self, call: Call, document: Object, old: Object | None) -> None:
        if call.resource.bucket != _SERVICES:
            return
        owner = (call.namespace, document["metadata"].get("name", ""))
        causes = self.allocator.allocate(owner, document["spec"], old["spec"] if old else None)
        self._check(call, document, causes)

    def _claim(self, call: Call, document: Object, old: Object | None) -> None:
        """What was allocated is the object's, now that nothing speaks against its being written."""
        if call.resource.bucket != _SERVICES or call.dry_run:
            return
        owner = (call.namespace, document["metadata"]["name"])
        if old is not None:
            self.allocator.release(owner, old["spec"])
        self.allocator.claim(owner, document["spec"])

    def _writer(self, call: Call, *, applies: bool = False) -> ownership.Writer:
        subresource = call.subresource.name if call.subresource else ""
        return ownership.Writer(
            call.manager,
            "Apply" if applies else "Update",
            call.resource.api_version,
            subresource if subresource != "finalize" else "",
        )

    def _track(self, call: Call, old: Object | None, new: Object) -> None:
        has_status = call.resource.subresource("status") is not None
        ownership.track_update(old, new, call.resource.schema, self._writer(call), now(), has_status=has_status)

    async def _write(self, call: Call, operation: Operation, key: Key, document: Object, *, dry_run: bool) -> Entry:
        """Queue and await the commit; the answer is what was written."""
        resource = call.resource
        document = to_version(document, resource, storage_api_version(resource))
        stored = self.registry.by_bucket(resource.bucket)
        if resource.custom and stored is not None and stored is not resource:
            prune(document, stored.schema, nulls=False)  # what only an older version knows is forgotten
        if dry_run:
            return Entry(0, key, encode(document))
        entry, done = self.store.write(resource.bucket, operation, key, document)
        try:
            await done
        except Exception as fault:
            raise Internal(f"the write could not be committed: {fault}") from fault
        return entry

    # -- updating

    async def update(self, call: Call, document: Object) -> Entry:
        """PUT."""
        self._check_type(call, document)

        def replace(live: Object) -> Object:
            if call.resource.custom and not (document.get("metadata") or {}).get("resourceVersion"):
                causes = [invalid("metadata.resourceVersion", 0, "must be specified for an update")]
                raise Invalid(call.resource.group, call.resource.kind, call.name, causes)
            return document

        return await self.change(call, replace)

    async def patch(self, call: Call, body: bytes) -> tuple[Entry, bool]:
        """PATCH: (the object, whether it is new)."""
        media = call.content_type.partition(";")[0].strip()
        if media == "application/apply-patch+yaml":
            return await self._apply(call, decode_body(body, media))
        if media == "application/json-patch+json":
            operations = decode_any(body, media)
            return await self.change(call, lambda live: patch.json_patch(live, operations)), False
        document = decode_body(body, media)
        if media == "application/merge-patch+json":
            return await self.change(call, lambda live: patch.merge_patch(live, document)), False
        if media == "application/strategic-merge-patch+json" and not call.resource.custom:
            return await self.change(call, lambda live: strategic_merge(live, document, call.resource.schema)), False
        known = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]
        known += [] if call.resource.custom else ["application/strategic-merge-patch+json"]
        raise UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {', '.join(known)}"
        )

    async def _apply(self, call: Call, config: Object) -> tuple[Entry, bool]:
        if not call.query.get("fieldManager"):
            message = "is required for apply patch"
            raise BadRequest(f'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: {message}')
        self._check_type(call, config)
        self._decode(call, config)
        meta = config.setdefault("metadata", {})
        self._place(call, meta)
        force = parse_bool(call.query.get("force", ""))
        has_status = call.resource.subresource("status") is not None

        def merge(live: Object | None) -> Object:
            writer = self._writer(call, applies=True)
            return ownership.apply(
                live, config, call.resource.schema, writer, now(), force=force, has_status=has_status
            )

        if self.store.head(call.resource.bucket, (call.namespace, call.name)) is not None:
            return await self.change(call, merge, applies=True), False
        if call.subresource is not None:
            raise not_found(call.resource, call.name)
        self._check_namespace(call, call.name)
        document = merge(None)
        document.update(apiVersion=call.resource.api_version, kind=call.resource.kind)
        self._complete_new(call, document)
        return await self._write(call, "ADDED", (call.namespace, call.name), document, dry_run=call.dry_run), True

    async def change(self, call: Call, change: Change, *, applies: bool = False) -> Entry:
        """Replace an object by what `change` makes of a copy of it. Raises ApiError."""
        resource, key = call.resource, (call.namespace, call.name)
        head = self.store.head(resource.bucket, key)
        if head is None:
            raise not_found(resource, call.name)
        old = to_version(head.decode(), resource, resource.api_version)
        new = change(to_version(head.decode(), resource, resource.api_version))
        if not isinstance(new, dict):
            raise BadRequest("the patched object is not an object")
        self._check_type(call, new)
        if not applies:
            self._decode(call, new)
        self._prepare_update(call, new, old)
        if not applies:
            self._track(call, old, new)
        if self._is_same(new, old):
            return head
        if "deletionTimestamp" in new["metadata"] and not deletion.is_held(new, resource):
            return await self._write(call, "DELETED", key, new, dry_run=call.dry_run)
        return await self._write(call, "MODIFIED", key, new, dry_run=call.dry_run)

    def _prepare_update(self, call: Call, new: Object, old: Object) -> None:
        resource = call.resource
        strategy = strategy_of(resource.bucket, custom=resource.custom)
        self._check_preconditions(call, new, old)
        self._keep_unwritable(call, new, old)
        self._set_schema_defaults(resource, new)
        self._check_shape(call, new)
        causes = keep_immutable(new, old)
        if call.subresource is None:
            strategy.prepare_update(new, old)
        strategy.set_defaults(new)
        if call.subresource is None:
            self._allocate(call, new, old)
        causes += validate_meta(new["metadata"], strategy.check_name)
        if call.subresource is None:
            causes = causes or strategy.validate(new) + strategy.validate_update(new, old)
        self._check(call, new, causes)
        self._claim(call, new, old)
        if strategy.has_generation and self._spec_changed(resource, new, old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if resource.bucket == crd.BUCKET:
            crd.set_crd_status(new, self.registry.resources(), now())

    def _check_preconditions(self, call: Call, new: Object, old: Object) -> None:
        meta = new.setdefault("metadata", {})
        if not isinstance(meta, dict):
            raise self._wrong_type(call, "metadata", "object")
        if meta.get("name", call.name) != call.name:
            raise BadRequest(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({call.name})"
            )
        if (meta.get("namespace") or call.namespace) != call.namespace:
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
        version, live = meta.get("resourceVersion"), old["metadata"]["resourceVersion"]
        if version and version != live:
            raise conflict(call.resource, call.name)
        meta["resourceVersion"] = live
        uid = meta.get("uid")
        if uid and uid != old["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            raise conflict(call.resource, call.name, why)

    def _keep_unwritable(self, call: Call, new: Object, old: Object) -> None:
        """A path writes the status, or all but the status."""
        resource = call.resource
        if call.subresource is not None and call.subresource.name == "status":
            kept = [k for k in old if k not in ("metadata", "status")]
            for field in [k for k in new if k not in ("metadata", "status")]:
                del new[field]
            new.update({k: old[k] for k in kept})
            if resource.custom:
                managed = new["metadata"].get("managedFields")
                new["metadata"] = {**old["metadata"], **({"managedFields": managed} if managed else {})}
            elif "ownerReferences" in old["metadata"]:
                new["metadata"]["ownerReferences"] = old["metadata"]["ownerReferences"]
        elif resource.subresource("status") is not None and call.subresource is None:
            if "status" in old:
                new["status"] = old["status"]
            else:
                new.pop("status", None)

    @staticmethod
    def _spec_changed(resource: Resource, new: Object, old: Object) -> bool:
        if not resource.custom:
            fields = [k for k in {*new, *old} if k not in ("metadata", "status", "apiVersion", "kind")]
            return any(new.get(f) != old.get(f) for f in fields)
        ignored = ("metadata", "apiVersion", "kind", *(("status",) if resource.subresource("status") else ()))
        return any(new.get(f) != old.get(f) for f in {*new, *old} if f not in ignored)

    @staticmethod
    def _is_same(new: Object, old: Object) -> bool:
        """Whether nothing changed but the times in managedFields."""

        def owners(document: Object) -> list[Object]:
            return [{k: v for k, v in e.items() if k != "time"} for e in document["metadata"].get("managedFields", ())]

        def rest(document: Object) -> Object:
            return {**document, "metadata": {k: v for k, v in document["metadata"].items() if k != "managedFields"}}

        return owners(new) == owners(old) and rest(new) == rest(old)

    # -- deleting

    async def delete(self, call: Call, options: DeleteOptions) -> tuple[Entry, bool]:
        """(the object's last state, whether it is gone). Raises ApiError."""
        resource, key = call.resource, (call.namespace, call.name)
        head = self.store.head(resource.bucket, key)
        if head is None:
            raise not_found(resource, call.name)
        document = head.decode()
        why = deletion.find_conflict(document, options)
        if why:
            raise conflict(resource, call.name, why)
        verdict = deletion.prepare(document, resource, options)
        dry_run = options.dry_run or call.dry_run
        if verdict is Verdict.GONE:
            return await self._write(call, "DELETED", key, document, dry_run=dry_run), True
        if verdict is Verdict.UNCHANGED:
            return head, False
        return await self._write(call, "MODIFIED", key, document, dry_run=dry_run), False

    async def delete_collection(self, call: Call, options: DeleteOptions) -> list[Entry]:
        """Delete what the selector accepts; the objects deleted or marked."""
        selector = call.selector()
        out = []
        for entry in self.store.bucket(call.resource.bucket).select(call.namespace):
            if not selector.accepts(entry.labels, entry.field):
                continue
            single = Call(
                call.user, "delete", call.resource, entry.namespace, entry.name, query=call.query, agent=call.agent
            )
            try:
                out.append((await self.delete(single, options))[0])
            except NotFound:
                continue
        return out
