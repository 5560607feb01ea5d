"""What all workers of a node share; made once by the runner."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import msgspec

from stentor.api.core import Service
from stentor.api.meta import ObjectKey
from stentor.kube.client import Client
from stentor.lab.images.catalogue import Catalogue
from stentor.lab.images.warm import WarmParent
from stentor.lab.runner.cni import Invoker, Network
from stentor.lab.runner.event import EventQueue
from stentor.lab.runner.machine import Machine
from stentor.lab.runner.token import TokenCache
from stentor.runtime.job import JobGroup


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """`network` tells the current CNI configuration; `services` is kept up to date by a reflector."""

    machine: Machine
    catalogue: Catalogue
    warm: WarmParent
    client: Client
    invoker: Invoker
    network: Callable[[], Network | None]
    services: dict[ObjectKey, Service]
    events: EventQueue
    tokens: TokenCache
    jobs: JobGroup
    probes: aiohttp.ClientSession
