"""Identity-relevant labels, as upstream's defaults decide."""

from __future__ import annotations

import pytest

from stentor.identity.filter import LabelFilter, Pattern
from stentor.identity.label import security_labels
from stentor.net.label import Label
from stentor.tables.pod import Pod


@pytest.mark.parametrize(
    ("text", "relevant"),
    [
        ("k8s:app=web", True),
        ("k8s:app.kubernetes.io/name=web", True),
        ("k8s:io.kubernetes.pod.namespace=default", True),
        ("k8s:io.cilium.k8s.policy.cluster=c", True),
        ("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=x", True),
        ("k8s:pod-template-hash=abc", False),
        ("k8s:controller-revision-hash=abc", False),
        ("k8s:statefulset.kubernetes.io/pod-name=db-0", False),
        ("k8s:apps.kubernetes.io/pod-index=0", False),
        ("k8s:batch.kubernetes.io/controller-uid=1", False),
        ("k8s:topology.beta.kubernetes.io/zone=a", False),
        ("k8s:kubernetes.io/hostname=a", False),
        ("k8s:io.kubernetes.container.name=a", False),
        ("reserved:host", True),
    ],
)
def test_defaults(text: str, relevant: bool) -> None:
    assert LabelFilter().is_relevant(Label.parse(text)) is relevant


def test_an_including_pattern_leaves_only_what_it_names() -> None:
    chosen = LabelFilter("k8s:app")
    assert chosen.is_relevant(Label.parse("k8s:app=web"))
    assert not chosen.is_relevant(Label.parse("k8s:tier=web"))
    assert chosen.is_relevant(Label.parse("k8s:io.kubernetes.pod.namespace=default"))


def test_an_excluding_pattern_only_takes_away() -> None:
    chosen = LabelFilter("!tier")
    assert chosen.is_relevant(Label.parse("k8s:app=web"))
    assert not chosen.is_relevant(Label.parse("k8s:tier=web"))


@pytest.mark.parametrize("text", ["!", "k8s:", "k8s:(", "!*"])
def test_a_broken_pattern_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="label pattern"):
        Pattern.parse(text)


def test_a_pod_cannot_claim_what_the_cluster_says() -> None:
    forged = (
        ("app", "web"),
        ("io.cilium.k8s.policy.serviceaccount", "admin"),
        ("io.kubernetes.pod.namespace", "kube-system"),
    )
    pod = Pod(namespace="default", name="p", uid="1", labels=forged, service_account="sa")
    labels = security_labels(pod, (("team", "x"),), "c1", LabelFilter())
    assert sorted(map(str, labels)) == [
        "k8s:app=web",
        "k8s:io.cilium.k8s.namespace.labels.team=x",
        "k8s:io.cilium.k8s.policy.cluster=c1",
        "k8s:io.cilium.k8s.policy.serviceaccount=sa",
        "k8s:io.kubernetes.pod.namespace=default",
    ]
