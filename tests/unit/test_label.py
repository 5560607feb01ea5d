"""Label texts, and the numbers of identities."""

from __future__ import annotations

import pytest

from stentor.net.identity import Reserved, cluster_range, cluster_shift
from stentor.net.label import Label, canonical


@pytest.mark.parametrize(
    ("text", "label", "shown"),
    [
        ("k8s:app=web", Label("k8s", "app", "web"), "k8s:app=web"),
        ("reserved:host", Label("reserved", "host"), "reserved:host"),
        ("cidr:10.0.0.0/8", Label("cidr", "10.0.0.0/8"), "cidr:10.0.0.0/8"),
        ("app=web", Label("unspec", "app", "web"), "unspec:app=web"),
        ("k8s:url=http://a", Label("k8s", "url", "http://a"), "k8s:url=http://a"),
        ("k8s:empty=", Label("k8s", "empty"), "k8s:empty="),
    ],
)
def test_label_text(text: str, label: Label, shown: str) -> None:
    assert Label.parse(text) == label
    assert str(label) == shown


def test_a_label_needs_a_key() -> None:
    with pytest.raises(ValueError, match="has no key"):
        Label.parse("k8s:=x")


def test_equal_sets_are_equal_tuples() -> None:
    a, b = Label("k8s", "a"), Label("k8s", "b")
    assert canonical([b, a, b]) == canonical([a, b])


def test_identity_ranges_follow_the_cluster_id() -> None:
    assert cluster_range(0) == range(256, 65536)
    assert cluster_range(3)[0] == 3 << 16 | 256
    assert cluster_range(500, cluster_shift(511))[-1] == (501 << 15) - 1


def test_reserved_labels_are_upstreams() -> None:
    assert Reserved.KUBE_APISERVER.label == "reserved:kube-apiserver"
