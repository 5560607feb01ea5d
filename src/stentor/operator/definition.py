"""CustomResourceDefinitions: created at start, waited for until the API server serves them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from stentor.api import crd
from stentor.api.core import CUSTOM_RESOURCE_DEFINITIONS
from stentor.api.definition import Definition
from stentor.kube import patch
from stentor.kube.client import Client
from stentor.kube.errors import ApiError

_POLL_S = 0.05
_MOST_PAUSE_S = 5.0

log = logging.getLogger(__name__)


async def ensure_definitions(client: Client, definitions: Sequence[Definition]) -> None:
    """Apply the CRDs and return once all are established; goes on trying when the API server is out of reach or refuses."""
    for definition in definitions:
        document = crd.document(definition)
        name = document["metadata"]["name"]
        change = patch.apply_document(document, manager="cilium-operator")
        pause_s = _POLL_S
        while True:
            try:
                await client.patch(CUSTOM_RESOURCE_DEFINITIONS, name, change)
                break
            except ApiError as e:
                log.info("CRD is not written yet", extra={"crd": name, "error": e.message})
                await asyncio.sleep(pause_s)
                pause_s = min(_MOST_PAUSE_S, pause_s * 1.5)
    for definition in definitions:
        await _established(client, definition.name)


async def _established(client: Client, name: str) -> None:
    while True:
        try:
            current = await client.get(CUSTOM_RESOURCE_DEFINITIONS, name)
        except ApiError:
            current = None
        conditions = current.status.conditions if current is not None else ()
        if any(condition.type == "Established" and condition.status == "True" for condition in conditions):
            return
        await asyncio.sleep(_POLL_S)
