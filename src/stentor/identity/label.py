"""Security labels of pods: what a pod, its namespace, service account and cluster say about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stentor.identity.filter import LabelFilter
from stentor.net.label import NAMESPACE_LABELS, POD_NAMESPACE, POLICY_CLUSTER, POLICY_SERVICE_ACCOUNT, Label, Labels
from stentor.state import Derivation, Input, Table
from stentor.tables.pod import KubeLabels, Namespace, Pod, PodKey, PodLabels, WantedLabels

# A pod's own labels must not be able to claim what only the cluster says.
_CLAIMS = (POD_NAMESPACE, NAMESPACE_LABELS, "io.cilium.k8s.policy")


def security_labels(pod: Pod, namespace: KubeLabels, cluster: str, label_filter: LabelFilter) -> Labels:
    """The labels that make a pod's identity. `namespace` are the labels of its namespace."""
    own = (Label("k8s", key, value) for key, value in pod.labels if not key.startswith(_CLAIMS))
    inherited = (Label("k8s", f"{NAMESPACE_LABELS}.{key}", value) for key, value in namespace)
    given = (
        Label("k8s", POD_NAMESPACE, pod.namespace),
        Label("k8s", POLICY_CLUSTER, cluster),
        Label("k8s", POLICY_SERVICE_ACCOUNT, pod.service_account),
    )
    return label_filter.relevant((*own, *inherited, *given))


def derive_pod_labels(
    pods: Table[PodKey, Pod],
    namespaces: Table[str, Namespace],
    output: Table[PodKey, PodLabels],
    *,
    cluster: str,
    label_filter: LabelFilter,
) -> Derivation[PodKey, PodKey, PodLabels]:
    """Pods and namespaces → security labels of every pod that has a network of its own and has not ended."""

    def compute(key: PodKey) -> Iterable[PodLabels]:
        pod = pods.get(key)
        namespace = namespaces.get(key[0])
        if pod is None or pod.host_network or pod.is_finished or namespace is None:
            return ()
        return (PodLabels(*key, security_labels(pod, namespace.labels, cluster, label_filter), pod.uids),)

    def members(namespace: Namespace) -> Iterator[PodKey]:
        return (pod.key for pod in pods.by("namespace", namespace.name))

    inputs = (Input(pods, lambda pod: (pod.key,)), Input(namespaces, members))
    return Derivation("pod-labels", output, compute, inputs)


def derive_wanted_labels(
    pod_labels: Table[PodKey, PodLabels], output: Table[Labels, WantedLabels]
) -> Derivation[Labels, Labels, WantedLabels]:
    """Security labels of pods → the label sets in use."""

    def compute(labels: Labels) -> Iterable[WantedLabels]:
        return (WantedLabels(labels),) if pod_labels.by("labels", labels) else ()

    return Derivation("wanted-labels", output, compute, (Input(pod_labels, lambda row: (row.labels,)),))
