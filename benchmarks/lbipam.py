"""Addresses for LoadBalancer services: decisions a second in the operator, and services a second through a real API server.

    benchmarks/lbipam.py [ROUNDS]

"Alone" is the time from one Service's creation to the watch event that shows its address.

"At once" is one commit of 10,000 Services, as after a start; "one by one" settles after each, as in operation. "Through the
API" creates Services over HTTP and ends when the last one shows its address.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from measure import save, summarise

from apiservers.operator import Operator
from apiservers.process import make_server
from stentor.api import core
from stentor.api.core import SERVICES
from stentor.api.lbipam import LB_IP_POOLS, CiliumLoadBalancerIPPool, CiliumLoadBalancerIPPoolBlock
from stentor.api.lbipam import CiliumLoadBalancerIPPoolSpec as PoolSpec
from stentor.api.meta import ObjectKey, ObjectMeta
from stentor.ipam.request import Scope, parse_request
from stentor.kube.client import Client
from stentor.kube.config import load
from stentor.kube.reflector import Reflector
from stentor.operator.loadbalancer import AddressAssigner
from stentor.state import Database
from stentor.tables.bgp import configured, lb_pools
from stentor.tables.condition import judged
from stentor.tables.loadbalancer import ServiceRequest, assignments, pool_uses, service_requests

COUNT = 10_000
CREATED = 2_000
AT_ONCE = 32
SINGLE = 100
BLOCKS = (CiliumLoadBalancerIPPoolBlock(cidr="10.64.0.0/16"),)


def service(number: int) -> core.Service:
    spec = core.ServiceSpec(type="LoadBalancer", ports=(core.ServicePort(port=80),), selector={"app": str(number)})
    return core.Service(metadata=ObjectMeta(name=f"s{number}", namespace="default"), spec=spec)


def requests() -> list[ServiceRequest]:
    found = (parse_request(service(number), Scope())[0] for number in range(COUNT))
    return [request for request in found if request is not None]


def decide(*, at_once: bool) -> float:
    """Addresses a second."""
    database, pools, wanted, given = Database(), lb_pools(), service_requests(), assignments()
    assigner = AddressAssigner(database, pools, wanted, given, pool_uses(), judged())
    database.put(pools, configured(ObjectMeta(name="p"), PoolSpec(blocks=BLOCKS)))
    rows = requests()
    start = time.perf_counter()
    if at_once:
        database.put(wanted, *rows)
        assigner.settle()
    else:
        for row in rows:
            database.put(wanted, row)
            assigner.settle()
    taken = time.perf_counter() - start
    assert len({row.addresses for row in given}) == COUNT
    return COUNT / taken


async def through_the_api(directory: Path) -> tuple[float, list[float]]:
    """Services a second, from the first creation to the last address; then milliseconds of single ones."""
    server = make_server(directory, "--service-cidr", "10.96.0.0/12", "--advertise-address", "192.0.2.1")
    operator = Operator(server).start()
    try:
        async with Client(load(server.pki / "admin.kubeconfig")) as client:
            while True:
                try:
                    pool = CiliumLoadBalancerIPPool(metadata=ObjectMeta(name="p"), spec=PoolSpec(blocks=BLOCKS))
                    await client.create(LB_IP_POOLS, pool)
                    break
                except Exception:
                    await asyncio.sleep(0.1)  # until the operator has made the definition
            slots = asyncio.Semaphore(AT_ONCE)

            async def create(number: int) -> None:
                async with slots:
                    await client.create(SERVICES, service(number))

            start = time.perf_counter()
            await asyncio.gather(*(create(number) for number in range(CREATED)))
            while True:
                page = await client.list(SERVICES, "default")
                if sum(1 for each in page.items if each.status.load_balancer.ingress) >= CREATED:
                    break
                await asyncio.sleep(0.05)
            rate = CREATED / (time.perf_counter() - start)
            return rate, await alone(client)
    finally:
        operator.stop()
        server.stop()


async def alone(client: Client) -> list[float]:
    """Milliseconds of one Service after the other."""
    served: dict[str, asyncio.Event] = {}

    def sink(upserts: Sequence[core.Service], _: Sequence[ObjectKey]) -> None:
        for each in upserts:
            if each.status.load_balancer.ingress and each.metadata.name in served:
                served[each.metadata.name].set()

    reflector = Reflector(client, SERVICES, sink)
    watching = asyncio.create_task(reflector.run())
    await reflector.synced.wait()
    taken = []
    for number in range(COUNT, COUNT + SINGLE):
        event = served[f"s{number}"] = asyncio.Event()
        start = time.perf_counter()
        await client.create(SERVICES, service(number))
        await event.wait()
        taken.append(1000 * (time.perf_counter() - start))
    watching.cancel()
    return taken


def main(rounds: int) -> None:
    samples: dict[str, list[float]] = {"decided at once": [], "decided one by one": [], "through the API": []}
    milliseconds: list[float] = []
    for _ in range(rounds):
        samples["decided at once"].append(decide(at_once=True))
        samples["decided one by one"].append(decide(at_once=False))
    for _ in range(min(rounds, 3)):
        with tempfile.TemporaryDirectory() as directory:
            rate, taken = asyncio.run(through_the_api(Path(directory)))
            samples["through the API"].append(rate)
            milliseconds += taken
    for name, values in samples.items():
        print(f"{name}: {summarise(values)} addresses/s")
    p99 = sorted(milliseconds)[len(milliseconds) * 99 // 100]
    print(f"alone: median {summarise(milliseconds)} ms, p99 {p99:.3g} ms")
    save("lbipam", samples | {"alone, ms": milliseconds})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
