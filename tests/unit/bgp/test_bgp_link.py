"""The link keeps a real speaker, without peers, at what the tables say: over changes, its restarts and our own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from stentor.bgp.config import Peer
from stentor.bgp.control import Control
from stentor.bgp.errors import Unreachable
from stentor.bgp.nlri import Family, format_prefix
from stentor.bgp.resource.link import OWNER, Link, ask, stream
from stentor.bgp.resource.plan import Entry, Grant, InstancePlan, Origin, PeerPlan, Plan, PlanRow, Problem
from stentor.bgp.resource.route import BGPRoute
from stentor.bgp.resource.table import BGPTables, make_tables
from stentor.bgp.speaker import Speaker
from stentor.net.address import Prefix
from stentor.state import Database

# 192.0.2.1 is nobody's: connections to it stay in the making.
PEER = PeerPlan(config=Peer("tor", "192.0.2.1"), grants=(("ipv4", (Grant("web[0]"),)),))


def plan(name: str = "main", **fields: object) -> Plan:
    entry = Entry(name="web[0]", origin=Origin.SERVICE)
    instance = InstancePlan(name=name, local_asn=65001, router_id="1.1.1.1", peers=(PEER,), entries=(entry,))
    return Plan(instances=(instance,), **fields)  # type: ignore[arg-type]


class World:
    """Tables, and a speaker that can be started anew."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "bgp.sock"
        self.database = Database()
        self.tables: BGPTables = make_tables(self.database)
        self.speaker: Speaker
        self._control: Control

    async def start(self) -> None:
        self.speaker = Speaker(asyncio.get_running_loop(), state_dir=None, bfd_path=None)
        self._control = Control(self.speaker, self.path)
        await self._control.start()

    def stop(self) -> None:
        self._control.close()
        self.speaker.leave()

    def put_plan(self, found: Plan) -> None:
        self.database.put(self.tables.plans, PlanRow(found))

    def put_routes(self, *texts: str, entries: tuple[str, ...] = ("web[0]",)) -> None:
        rows = [BGPRoute(instance="main", prefix=Prefix.parse(text), entries=entries) for text in texts]
        self.database.put(self.tables.routes, *rows)

    def routes(self) -> dict[str, tuple[str, ...]]:
        """What the speaker originates for us, with tags."""
        instance = self.speaker.instances.get("main")
        owned = instance.owners.get(OWNER, {}) if instance is not None else {}
        return {
            format_prefix(family, prefix): path.tags
            for family in Family
            if family in owned
            for prefix, path in owned[family].routes.items()
        }


@asynccontextmanager
async def linked(world: World) -> AsyncIterator[Link]:
    link = Link(str(world.path), world.tables)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.005)


def run(tmp_path: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def tell() -> None:
        world = World(tmp_path)
        await world.start()
        try:
            await story(world)
        finally:
            world.stop()

    asyncio.run(tell())


def test_everything_is_stated_and_then_changes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.put_plan(plan())
        world.put_routes("198.18.0.1/32", "2001:db8::1/128")
        async with linked(world) as link:
            await until(lambda: len(world.routes()) == 2)
            assert [each.config.name for each in world.speaker.instances["main"].neighbours.values()] == ["tor"]
            assert {policy.name for policy in world.speaker.config.policies} == {"main/tor/ipv4", "main/tor/ipv6"}
            neighbour = world.speaker.instances["main"].neighbours["tor"]
            world.put_routes("198.18.0.2/32", entries=("a", "b"))
            await until(lambda: world.routes().get("198.18.0.2/32") == ("a", "b"))
            world.database.delete(world.tables.routes, ("main", Prefix.parse("198.18.0.1/32")))
            await until(lambda: set(world.routes()) == {"198.18.0.2/32", "2001:db8::1/128"})
            assert world.speaker.instances["main"].neighbours["tor"] is neighbour
            assert set(link.since) == {("main", "198.18.0.2/32"), ("main", "2001:db8::1/128")}
            assert link.fault == ""

    run(tmp_path, story)


def process(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "stentor.bgp.command", "--socket", str(path), "--state-dir", str(path.parent)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


async def originated(path: Path) -> set[str]:
    """Prefixes of the speaker's own, empty while there is none."""
    with suppress(Unreachable):
        answers = await ask(str(path), {"request": "routes"})
        return {route["prefix"] for answer in answers for route in answer.get("routes", ())}
    return set()


def test_a_killed_speaker_is_told_everything_by_the_same_link(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        world.put_plan(plan())
        world.put_routes("198.18.0.1/32")
        async with linked(world) as link:
            for _ in range(2):
                speaker = process(world.path)
                try:
                    async with asyncio.timeout(20):
                        while await originated(world.path) != {"198.18.0.1/32"}:
                            await asyncio.sleep(0.01)
                    since = dict(link.since)
                    assert set(since) == {("main", "198.18.0.1/32")}
                finally:
                    speaker.kill()
                    speaker.wait()
                await until(lambda: not link.is_connected)
            assert link.since == since

    asyncio.run(story())


def test_what_an_earlier_agent_left_stays_or_goes_as_the_tables_say(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.put_plan(plan())
        world.put_routes("198.18.0.1/32", "198.18.0.2/32")
        async with linked(world):
            await until(lambda: len(world.routes()) == 2)
        kept = world.speaker.instances["main"]
        world.database.delete(world.tables.routes, ("main", Prefix.parse("198.18.0.2/32")))
        assert len(world.routes()) == 2
        async with linked(world):
            await until(lambda: set(world.routes()) == {"198.18.0.1/32"})
        assert world.speaker.instances["main"] is kept

    run(tmp_path, story)


def test_draining_and_an_empty_plan(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.put_plan(plan())
        async with linked(world):
            await until(lambda: "main" in world.speaker.instances)
            world.put_plan(plan(is_drained=True))
            await until(lambda: world.speaker.instances["main"].is_draining)
            world.put_plan(plan())
            await until(lambda: not world.speaker.instances["main"].is_draining)
            world.put_plan(Plan())
            await until(lambda: not world.speaker.instances)

    run(tmp_path, story)


def test_problems_of_a_plan_are_counted(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with linked(world) as link:
            problems = (Problem("A a", "f", "wrong", "main"), Problem("B b", "f", "waits", "main", is_waiting=True))
            world.put_plan(plan(problems=problems))
            await until(lambda: link.errors)
            assert link.errors == {"main": 1}

    run(tmp_path, story)


def test_a_watcher_that_hangs_up_is_forgotten(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        events = stream(str(world.path), {"request": "watch"}, tick_s=0.01)
        assert await anext(events) == {}
        assert len(world.speaker.watchers) == 1
        await events.aclose()  # type: ignore[attr-defined]
        await until(lambda: not world.speaker.watchers)

    run(tmp_path, story)


def test_nobody_there(tmp_path: Path) -> None:
    async def story() -> None:
        missing: list[float] = []
        link = Link(str(tmp_path / "nothing"), make_tables(Database()), missing.append)
        task = asyncio.create_task(link.run())
        await until(lambda: len(missing) > 2)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert missing == sorted(missing)
        assert link.fault.startswith("no speaker at")
        with pytest.raises(Unreachable):
            await ask(str(tmp_path / "nothing"), {"request": "peers"})

    asyncio.run(story())
