"""Answers from a hosts(5) file."""

from __future__ import annotations

import pytest

from stentor.dns.hosts import Hosts
from stentor.dns.zone import Kind, Outcome

HOSTS = Hosts(
    "127.0.0.1 localhost\n"
    "192.0.2.1\tTor1 gateway.example. # router\n"
    "2001:db8::1 tor1\n"
    "\n# 192.0.2.9 nobody\n"
    "192.0.2.300 wrong\n"
    "192.0.2.7\n"
)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("localhost", Kind.A, ["127.0.0.1"]),
        ("tOr1", Kind.A, ["192.0.2.1"]),
        ("tor1", Kind.AAAA, ["2001:db8::1"]),
        ("tor1", Kind.TXT, []),
        ("tor1", None, []),
        ("gateway.example", Kind.A, ["192.0.2.1"]),
        ("gateway.example", Kind.AAAA, []),
        ("1.2.0.192.in-addr.arpa", Kind.PTR, ["Tor1.", "gateway.example."]),
        ("1.2.0.192.in-addr.arpa", Kind.A, []),
    ],
)
def test_known_names(name: str, kind: Kind | None, expected: list[str]) -> None:
    found = HOSTS.answer(name, kind)
    assert found.outcome is Outcome.ANSWER
    assert [each.data for each in found.records] == expected
    assert all(each.name == name for each in found.records)


@pytest.mark.parametrize(
    "name", ["", "nobody", "wrong", "a.tor1", "example", "7.2.0.192.in-addr.arpa", "9.2.0.192.in-addr.arpa"]
)
def test_others_are_asked_for_elsewhere(name: str) -> None:
    assert HOSTS.answer(name, Kind.A).outcome is Outcome.ELSEWHERE
