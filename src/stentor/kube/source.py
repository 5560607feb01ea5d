"""Sources: reflectors that fill tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from stentor.api.meta import Kind, ObjectKey, Resource
from stentor.kube.client import Client
from stentor.kube.reflector import Reflector
from stentor.state import Database, Table

T = TypeVar("T", bound=Resource)
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

log = logging.getLogger(__name__)


def table_source(
    client: Client,
    kind: Kind[T],
    database: Database,
    table: Table[K, R],
    *,
    row_of: Callable[[T], R | None],
    key_of: Callable[[ObjectKey], K],
    keep: Callable[[K], bool] = lambda _: False,
    namespace: str = "",
    label_selector: str = "",
    field_selector: str = "",
) -> Reflector[T]:
    """A reflector that keeps `table` at what the API has.

    `row_of` returns None for objects that have no row; a ValueError from it leaves the object's earlier row in place and is
    logged with the object's name. `keep` is asked once an object is gone, and says whether its row stays.
    """
    name = f"kube/{kind}"
    table.expect(name)

    def sink(upserts: Sequence[T], gone: Sequence[ObjectKey]) -> None:
        with database.write() as txn:
            for key in map(key_of, gone):
                if not keep(key):
                    txn.delete(table, key)
            for obj in upserts:
                try:
                    row = row_of(obj)
                except ValueError as e:
                    log.warning("Ignored an object", extra={"kind": kind.kind, "object": str(obj.key), "error": str(e)})
                    continue
                if row is None:
                    txn.delete(table, key_of(obj.key))
                else:
                    txn.put(table, row)

    return Reflector(
        client,
        kind,
        sink,
        namespace=namespace,
        label_selector=label_selector,
        field_selector=field_selector,
        on_synced=lambda: table.synced(name),
    )
