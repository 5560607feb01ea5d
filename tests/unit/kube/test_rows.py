"""Objects to rows: what one bad field hides, and what it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.api.cilium import CiliumIdentity
from stentor.api.meta import ObjectMeta
from stentor.api.pod import PodSummary
from stentor.kube.rows import UNUSED_SINCE, identity_object, identity_row, pod_row
from stentor.net.label import Label
from stentor.tables.identity import IdentityRow


def identity(mark: str) -> CiliumIdentity:
    meta = ObjectMeta(name="300", annotations={UNUSED_SINCE: mark})
    return CiliumIdentity(metadata=meta, security_labels={"k8s:app": "web"})


@pytest.mark.parametrize(
    ("mark", "expected"),
    [("1000.5", 1000.5), ("", None), ("soon", None), ("nan", None), ("inf", None), ("1e999", None)],
)
def test_a_mark_that_is_no_time_does_not_hide_the_identity(mark: str, expected: float | None) -> None:
    assert identity_row(identity(mark)) == IdentityRow(300, (Label("k8s", "app", "web"),), unused_since=expected)


@given(st.text(max_size=20))
def test_any_mark_leaves_number_and_labels(mark: str) -> None:
    row = identity_row(identity(mark))
    assert (row.id, row.labels) == (300, (Label("k8s", "app", "web"),))
    assert identity_row(identity_object(row)) == row


def test_a_mirror_pod_has_the_uid_of_its_static_pod_too() -> None:
    mirror = ObjectMeta(namespace="d", name="p", uid="api", annotations={"kubernetes.io/config.mirror": "hash"})
    assert pod_row(PodSummary(metadata=mirror)).uids == ("hash", "api")
    assert pod_row(PodSummary(metadata=ObjectMeta(namespace="d", name="p", uid="api"))).uids == ("api",)
