"""What the agent makes of the underlay it finds."""

from __future__ import annotations

import pytest

from stentor.agent.device import Underlay
from stentor.net.address import Addr

V6, V4, FURTHER = (Addr.parse(text) for text in ("2001:db8::1", "192.0.2.1", "198.51.100.1"))


@pytest.mark.parametrize(
    ("families", "own", "expected"),
    [((4, 6), (V6, V4, FURTHER), V4), ((4,), (V4,), V4), ((6,), (V6,), None), ((6, 4), (V6, V4), None)],
)
def test_programs_wrap_where_the_tunnel_is_over_ipv4(
    families: tuple[int, ...], own: tuple[Addr, ...], expected: Addr | None
) -> None:
    """The first IPv4 address, as in other nodes' ipcache."""
    assert Underlay((), 1500, families).tunnel_source(own) == expected


@pytest.mark.parametrize(("families", "mtu"), [((4, 6), 1450), ((6,), 1430)])
def test_pods_mtu_leaves_room_for_the_wrapping(families: tuple[int, ...], mtu: int) -> None:
    assert Underlay((), 1500, families).route_mtu == mtu
