from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from apiservers.memory import Memory


@pytest.fixture
async def memory() -> AsyncIterator[Memory]:
    """A server's inside with the objects that every cluster has."""
    server = await Memory().start()
    yield server
    server.store.close()
