"""Protobuf bodies: what the wire form means, and that no bytes break the decoder."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.apiserver.errors import ApiError, BadRequest
from stentor.apiserver.protobuf import MAGIC, decode


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value & (1 << 64) - 1)


def part(field: int, *content: bytes | str) -> bytes:
    body = b"".join(c.encode() if isinstance(c, str) else c for c in content)
    return varint(field << 3 | 2) + varint(len(body)) + body


def envelope(api_version: str, kind: str, *content: bytes) -> bytes:
    return MAGIC + part(1, part(1, api_version), part(2, kind)) + part(2, *content)


META = part(1, part(1, "x"))
DECODED: list[tuple[str, bytes, dict[str, Any]]] = [
    (
        "maps of text and of bytes",
        envelope("v1", "ConfigMap", META, part(2, part(1, "a"), part(2, "b")), part(3, part(1, "c"), part(2, b"\x00\xff"))),
        {"metadata": {"name": "x"}, "data": {"a": "b"}, "binaryData": {"c": "AP8="}},
    ),
    (
        "int-or-string, and a required zero",
        envelope(
            "v1", "Service", META,
            part(
                2,
                part(1, number(3, 0), part(4, number(1, 0), number(2, 8080))),
                part(1, number(3, 80), part(4, number(1, 1), part(3, "http"))),
            ),
        ),
        {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 0, "targetPort": 8080}, {"port": 80, "targetPort": "http"}]}},
    ),
    (
        "embedded structs: a volume's source",
        envelope("v1", "Pod", META, part(2, part(1, part(1, "v"), part(2, part(19, part(1, part(1, "cm"))))))),
        {"metadata": {"name": "x"}, "spec": {"volumes": [{"name": "v", "configMap": {"name": "cm"}}]}},
    ),
    (
        "pointers keep their zero, other zeros go",
        envelope("apps/v1", "Deployment", META, part(2, number(1, 0), number(5, 0))),
        {"metadata": {"name": "x"}, "spec": {"replicas": 0}},
    ),
    (
        "times",
        envelope("coordination.k8s.io/v1", "Lease", META, part(2, part(3, number(1, 1_700_000_000), number(2, 5_000)))),
        {"metadata": {"name": "x"}, "spec": {"acquireTime": "2023-11-14T22:13:20.000005Z"}},
    ),
    ("negative numbers", envelope("apps/v1", "Deployment", part(2, number(1, -1))), {"spec": {"replicas": -1}}),
    (
        "delete options",
        envelope("v1", "DeleteOptions", number(1, 0), part(4, "Foreground")),
        {"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"},
    ),
    (
        "unknown fields are skipped",
        envelope("v1", "ConfigMap", META, part(99, "?"), number(98, 7)),
        {"metadata": {"name": "x"}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), [d[1:] for d in DECODED], ids=[d[0] for d in DECODED])
def test_decode(body: bytes, expected: dict[str, Any]) -> None:
    document = decode(body)
    assert {k: v for k, v in document.items() if k not in ("apiVersion", "kind")} == expected


BAD = {
    "no magic": b"abc",
    "nothing but magic": MAGIC,
    "truncated": envelope("v1", "ConfigMap", META)[:-2],
    "unknown kind": envelope("v1", "Nonsense", META),
    "unknown group": envelope("example.com/v1", "ConfigMap", META),
    "text that is no UTF-8": envelope("v1", "ConfigMap", part(1, part(1, b"\xff\xfe"))),
    "number where text belongs": envelope("v1", "ConfigMap", part(1, number(1, 5))),
    "text where a number belongs": envelope("apps/v1", "Deployment", part(2, part(1, "five"))),
    "endless varint": MAGIC + b"\xff" * 20,
    "unknown wire type": MAGIC + b"\x0b",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_malformed(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(body)


KINDS = [
    ("v1", "Pod"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("batch/v1", "CronJob"),
]


@given(kind=st.sampled_from(KINDS), body=st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(kind: tuple[str, str], body: bytes) -> None:
    try:
        assert decode(envelope(*kind, body))["kind"] == kind[1]
    except ApiError as error:
        assert error.code == 400


def test_deep_nesting_is_refused() -> None:
    """CustomResourceDefinition schemas and the like could recurse; a stack overflow is no answer."""
    body = b""
    for _ in range(500):
        body = part(1, body)
    try:
        decode(envelope("v1", "Pod", body))
    except BadRequest:
        return
