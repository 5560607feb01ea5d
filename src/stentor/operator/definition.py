"""CustomResourceDefinitions: created at start, waited for until the API server serves them."""

from __future__ import annotations

import asyncio
import logging

from stentor.api import crd
from stentor.api.core import CUSTOM_RESOURCE_DEFINITIONS
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import Retryable

_POLL_S = 0.05

log = logging.getLogger(__name__)


async def ensure_definitions(client: Client) -> None:
    """Apply every CRD and return once all are established; goes on trying while the API server is out of reach."""
    for definition in crd.DEFINITIONS:
        document = crd.document(definition)
        name = document["metadata"]["name"]
        change = patch.apply_document(document, manager="cilium-operator")
        while True:
            try:
                await client.patch(CUSTOM_RESOURCE_DEFINITIONS, name, change)
                break
            except Retryable as e:
                log.info("API server is not ready yet", extra={"error": e.message})
                await asyncio.sleep(max(_POLL_S, e.retry_after_s))
    for definition in crd.DEFINITIONS:
        await _established(client, f"{definition.kind.plural}.{definition.kind.group}")


async def _established(client: Client, name: str) -> None:
    while True:
        try:
            current = await client.get(CUSTOM_RESOURCE_DEFINITIONS, name)
        except Retryable:
            current = None
        conditions = current.status.conditions if current is not None else ()
        if any(condition.type == "Established" and condition.status == "True" for condition in conditions):
            return
        await asyncio.sleep(_POLL_S)
