"""Addresses and prefixes against the standard library's."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.net.address import Addr, Prefix

ips = st.ip_addresses()
networks = st.one_of(
    st.builds(lambda ip, n: ipaddress.ip_network((ip, n), strict=False), st.ip_addresses(v=4), st.integers(0, 32)),
    # Shorter IPv6 prefixes may hold the mapped range itself, which people never write.
    st.builds(
        lambda ip, n: ipaddress.ip_network((int(ip) | 1 << 125, n), strict=False),
        st.ip_addresses(v=6),
        st.integers(3, 128),
    ),
)


def canonical(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 address that is mapped into IPv6 is the IPv4 address by definition."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


@given(ips)
def test_text_and_bytes_round_trip(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    addr = Addr.parse(str(ip))
    ip = canonical(ip)
    assert str(addr) == str(ip)
    assert addr.packed == ip.packed
    assert Addr.from_bytes16(addr.packed16) == addr
    assert addr.family == ip.version


@given(networks)
def test_prefix_agrees_with_the_standard_library(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    prefix = Prefix.parse(str(network))
    assert str(prefix) == str(network)
    assert (prefix.family, prefix.length) == (network.version, network.prefixlen)
    assert str(prefix.last) == str(network.broadcast_address)
    assert prefix.size == network.num_addresses


@given(networks, ips)
def test_covers_agrees_with_the_standard_library(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, ip: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    plain = canonical(ip)
    expected = plain in network if plain.version == network.version else False
    assert Prefix.parse(str(network)).covers(Addr.of(ip)) == expected


@pytest.mark.parametrize("text", ["10.0.0.256", "fd00::g", "", "10.0.0.1/33", "10.0.0.1/24"])
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Prefix.parse(text, strict=True)
