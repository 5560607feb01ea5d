"""The same malformed octets to BIRD, FRR and our speaker: what each makes of them, read from its own table.

Each case has a session, a prefix and a marker of its own: a right announcement of the prefix, the malformed one, then the
marker. When the marker is there, the malformed message was dealt with. Ours must react as the RFCs ask; where BIRD and FRR
agree with each other but not with us, the case is among ``DIFFERENCES`` with the reason.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from malformed import CASES, EBGP_AS, IBGP_AS, KEEP, MED, WITHDRAW, Case, Sender

from peers.bench import Bench, wait_for
from peers.bird import Bird
from peers.frr import Frr
from peers.raw import RawPeer, close_all
from peers.speaker import Speaker

TARGET = "10.9.0.1"
OURS = {
    "instances": [
        {
            "name": "default",
            "localASN": IBGP_AS,
            "routerID": TARGET,
            "localPort": 179,
            "peers": [
                {"name": "external", "peerAddress": "10.9.1.0/24", "peerASN": EBGP_AS},
                {"name": "internal", "peerAddress": "10.9.2.0/24", "peerASN": IBGP_AS},
            ],
        }
    ]
}
BIRD = f"""
router id {TARGET};
protocol device {{}}
protocol direct {{ ipv4; ipv6; }}
protocol bgp {{ local {TARGET} as {IBGP_AS}; neighbor range 10.9.1.0/24 as {EBGP_AS}; passive; enforce first as on;
  ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}
protocol bgp {{ local {TARGET} as {IBGP_AS}; neighbor range 10.9.2.0/24 internal; passive; direct;
  ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}
"""
FRR = f"""
router bgp {IBGP_AS}
 bgp router-id {TARGET}
 no bgp ebgp-requires-policy
 bgp listen limit 200
 neighbor external peer-group
 neighbor external remote-as {EBGP_AS}
 neighbor external enforce-first-as
 neighbor internal peer-group
 neighbor internal remote-as {IBGP_AS}
 bgp listen range 10.9.1.0/24 peer-group external
 bgp listen range 10.9.2.0/24 peer-group internal
 address-family ipv6 unicast
  neighbor external activate
  neighbor internal activate
"""
HEAD = """# Reactions to malformed UPDATEs

Written by `tests/interop/bgp/test_rfc7606_verdict.py`, which sends the same octets to all three and reads their own tables.
*withdraw*: the routes of the message are treated as withdrawn, the session goes on. *keep*: the route is used, without the
attribute in question where that one is malformed. *reset*: NOTIFICATION with this code and subcode.

| malformed | RFC | Stentor | BIRD | FRR |
|---|---|---|---|---|
"""
# Where BIRD and FRR agree and we do not, and why.
DIFFERENCES: dict[str, str] = {}

Table = dict[str, int | None]
"""Prefixes with their MED."""


def bird_table(bird: Bird) -> Table:
    text = bird.ask("show route all table master4")
    table: Table = {}
    prefix = ""
    for line in text.splitlines():
        line = re.sub(r"^(\d{4}[ -]| )", "", line)
        if found := re.match(r"(\d\S+/\d+) ", line):
            prefix = found.group(1)
            table[prefix] = None
        elif "BGP.med:" in line:
            table[prefix] = int(line.split(":")[1])
    return table


def frr_table(frr: Frr) -> Table:
    routes = frr.json("show bgp ipv4 unicast").get("routes", {})
    return {prefix: paths[0].get("metric") for prefix, paths in routes.items()}


def our_table(speaker: Speaker) -> Table:
    return {route["prefix"]: route.get("med") for route in speaker.routes(family="ipv4")}


FSM_ERROR = 5
RETRIES = 10


class Trial:
    """A case on one connection."""

    def __init__(self, space: str, number: int, case: Case) -> None:
        address = f"10.9.{1 if case.is_external else 2}.{number + 1}"
        self._place = space, address, TARGET, EBGP_AS if case.is_external else IBGP_AS
        self.case = case
        self.prefix, self.marker = f"10.100.{number}.0/24", f"10.101.{number}.0/24"
        self.sender = Sender(socket.inet_aton(address), case.is_external, self.prefix)
        self.peer = RawPeer(*self._place)

    def establish(self) -> None:
        """FRR answers an OPEN that overtakes its state machine with an FSM error (RFC 4271 §6.6): then on a new connection."""
        for _ in range(RETRIES):
            try:
                return self.peer.establish_opened()
            except AssertionError:
                if self.peer.notification is None or self.peer.notification.code != FSM_ERROR:
                    raise
            self.peer.close()
            self.peer = RawPeer(*self._place)
            self.peer.open()
        return self.peer.establish_opened()

    def say(self) -> None:
        self.peer.send(self.sender.good(self.prefix), self.case.build(self.sender), self.sender.good(self.marker))

    def verdict(self, table: Table) -> str:
        """Empty while it is not decided."""
        self.peer.poll()
        if (notification := self.peer.notification) is not None:
            return f"reset {notification.code}/{notification.subcode}"
        if self.peer.closed:
            return "closed"
        if self.marker not in table:
            return ""
        if self.prefix not in table:
            return WITHDRAW
        return KEEP if table[self.prefix] == MED else "ignore"


def judge(space: str, cases: Sequence[Case], look: Callable[[], Table]) -> dict[str, str]:
    """Every case's verdict of the speaker in front of ``space``."""
    trials = [Trial(space, number, case) for number, case in enumerate(cases)]
    try:
        for trial in trials:
            trial.peer.open()
        for trial in trials:
            trial.establish()
        for trial in trials:
            trial.say()

        def decided() -> dict[str, str]:
            table = look()
            verdicts = {trial.case.name: trial.verdict(table) for trial in trials}
            return verdicts if all(verdicts.values()) else {}

        return wait_for("every case is decided", decided, step_s=0.1)
    finally:
        close_all([trial.peer for trial in trials])


def render(verdicts: dict[str, dict[str, str]]) -> str:
    """The comparison as a page of the documentation; STENTOR_WRITE_VERDICTS=docs/bgp-errors.md writes it."""
    rows = [
        (case.name, case.clause, *(verdicts[each][case.name] for each in ("stentor", "bird", "frr"))) for case in CASES
    ]
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, dict[str, str]]]:
    """By speaker and case."""
    with Bench() as bench:
        found = {}
        for name in ("stentor", "bird", "frr"):
            space, attacker = bench.namespace(name), bench.namespace(f"{name}-raw")
            numbers = [f"10.9.{1 if case.is_external else 2}.{n + 1}/16" for n, case in enumerate(CASES)]
            bench.link(space, "raw", [f"{TARGET}/16", "2001:db8::1/64"], attacker, "dut", numbers)
            if name == "stentor":
                speaker = Speaker(bench, space, OURS)
                found[name] = judge(attacker, CASES, lambda each=speaker: our_table(each))
            elif name == "bird":
                bird = Bird(bench, space, BIRD)
                found[name] = judge(attacker, CASES, lambda each=bird: bird_table(each))
            else:
                frr = Frr(bench, space, {"zebra": "", "bgpd": FRR})
                found[name] = judge(attacker, CASES, lambda each=frr: frr_table(each))
        if target := os.environ.get("STENTOR_WRITE_VERDICTS"):
            Path(target).write_text(render(found))
        yield found


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_reacts_as_the_specification_asks(case: Case, verdicts: dict[str, dict[str, str]]) -> None:
    assert verdicts["stentor"][case.name] == case.verdict, f"RFC {case.clause}"


def test_agrees_where_bird_and_frr_agree(verdicts: dict[str, dict[str, str]]) -> None:
    alone = {
        case.name: (verdicts["stentor"][case.name], verdicts["bird"][case.name])
        for case in CASES
        if verdicts["bird"][case.name] == verdicts["frr"][case.name] != verdicts["stentor"][case.name]
    }
    assert alone.keys() == DIFFERENCES.keys(), alone
