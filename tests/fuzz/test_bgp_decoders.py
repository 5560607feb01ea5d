"""The fuzz targets' properties in the default tier: made-up octets, mutated real messages, and the committed corpora."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bgp_property import check_bfd, check_message_input, check_update_input
from hypothesis import given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
CHECKS: dict[str, Callable[[bytes], None]] = {
    "bgp_update": check_update_input,
    "bgp_message": check_message_input,
    "bfd_packet": check_bfd,
}
SEEDS = {name: [file.read_bytes() for file in sorted((CORPUS / name).iterdir())] for name in CHECKS}


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """A seed with some octets changed, removed or put in."""
    data = bytearray(draw(st.sampled_from(SEEDS[name])))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 4))
        data[position : position + removed] = draw(st.binary(max_size=4))
    return bytes(data)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_the_corpus_holds(name: str) -> None:
    assert len(SEEDS[name]) >= 3
    for seed in SEEDS[name]:
        CHECKS[name](seed)


@settings(max_examples=600)
@given(mutated("bgp_update") | st.binary(max_size=200))
def test_updates(data: bytes) -> None:
    check_update_input(data)


@settings(max_examples=400)
@given(mutated("bgp_message") | st.binary(max_size=120))
def test_messages(data: bytes) -> None:
    check_message_input(data)


@given(mutated("bfd_packet") | st.binary(max_size=40))
def test_bfd_packets(data: bytes) -> None:
    check_bfd(data)
