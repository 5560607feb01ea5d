"""Go's expressions for interface names: what they match, and what is refused. Expectations are those of Go's regexp."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.l2.expression import compile_expression


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("eth0", ("eth0", "veth01"), ("eth1",)),
        ("^eth[0-9]+$", ("eth0", "eth12"), ("veth0", "eth", "eth0.5")),
        ("^(?:eth|ens)[[:digit:]]", ("eth0", "ens3"), ("enp3s0",)),
        (r"^en[^[:alpha:]p]\d", ("en33",), ("ens3", "enp3")),
        (r"^eth\d\z", ("eth1",), ("eth1a",)),
        ("(?i)^ETH", ("eth0",), ("xeth",)),
        ("^(?P<kind>bond)(?<n>[0-9])", ("bond0",), ("bond",)),
        (r"^\Qeth0.100\E$", ("eth0.100",), ("eth0x100",)),
        (r"^eth0\.100$", ("eth0.100",), ("eth0x100",)),
        (r"^\x65th\x{30}", ("eth0",), ("eth1",)),
        ("^e{1,2}t", ("et", "eet"), ("eeet",)),
        ("^a{,2}", ("a{,2}",), ("aa",)),
        ("^[]a]", ("]", "a"), ("b",)),
        ("^[a&&b]", ("&", "a", "b"), ("c",)),
        ("^a+?b*?$", ("a", "ab"), ("b",)),
        ("", ("anything",), ()),
    ],
)
def test_what_matches(text: str, matching: tuple[str, ...], others: tuple[str, ...]) -> None:
    pattern = compile_expression(text)
    assert [name for name in (*matching, *others) if pattern.search(name)] == list(matching)


@pytest.mark.parametrize(
    "text",
    ["(", ")", "[a", "eth(?=0)", "eth(?!0)", "(?<=e)th", "(?<!e)th", r"(e)\1", "(?P=e)", "a**", "a++", "a{2}+", "*a",
     "[[:nope:]]", r"\pL", r"\p{Greek}", r"\Z", "\\", "(?U)a", "(?#c)", "a(?i)b", "[z-a]", "(?(1)a|b)", r"\x{110000}"],
)  # fmt: skip
def test_what_is_refused_names_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"^['\"]") as refusal:
        compile_expression(text)
    assert repr(text) in str(refusal.value)


@given(st.text(max_size=20))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        compile_expression(text).search("eth0")


@given(st.text(alphabet="abe0.[]()*+?{}^$|\\-", max_size=12))
def test_quoted_text_matches_itself(text: str) -> None:
    if "\\E" not in text:
        assert compile_expression(rf"^\Q{text}\E$").search(text)
