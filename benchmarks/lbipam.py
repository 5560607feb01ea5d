"""Addresses for LoadBalancer services: decisions a second in the operator, and services a second through a real API server.

    benchmarks/lbipam.py [ROUNDS]

"At once" is one commit of 10,000 Services, as after a start; "one by one" settles after each, as in operation. "Through the
API" creates Services over HTTP and ends when the last one shows its address.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from measure import save, summarise

from apiservers.operator import Operator
from apiservers.process import make_server
from stentor.api import core
from stentor.api.core import SERVICES
from stentor.api.lbipam import LB_IP_POOLS, CiliumLoadBalancerIPPool, CiliumLoadBalancerIPPoolBlock
from stentor.api.lbipam import CiliumLoadBalancerIPPoolSpec as PoolSpec
from stentor.api.meta import ObjectMeta
from stentor.ipam.request import Scope, parse_request
from stentor.kube.client import Client
from stentor.kube.config import load
from stentor.operator.loadbalancer import AddressAssigner
from stentor.state import Database
from stentor.tables.bgp import configured, lb_pools
from stentor.tables.condition import judged
from stentor.tables.loadbalancer import ServiceRequest, assignments, pool_uses, service_requests

COUNT = 10_000
CREATED = 2_000
AT_ONCE = 32
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


async def through_the_api(directory: Path) -> float:
    """Services a second, from the first creation to the last address."""
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
                    return CREATED / (time.perf_counter() - start)
                await asyncio.sleep(0.05)
    finally:
        operator.stop()
        server.stop()


def main(rounds: int) -> None:
    samples: dict[str, list[float]] = {"decided at once": [], "decided one by one": [], "through the API": []}
    for _ in range(rounds):
        samples["decided at once"].append(decide(at_once=True))
        samples["decided one by one"].append(decide(at_once=False))
    for _ in range(min(rounds, 3)):
        with tempfile.TemporaryDirectory() as directory:
            samples["through the API"].append(asyncio.run(through_the_api(Path(directory))))
    for name, values in samples.items():
        print(f"{name}: {summarise(values)} addresses/s")
    save("lbipam", samples)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
