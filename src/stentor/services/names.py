"""Names that users write: annotations and labels, upstream's and Kubernetes'."""

from __future__ import annotations

from typing import Final

LB_ALGORITHM: Final = "service.cilium.io/lb-algorithm"
FORWARDING_MODE: Final = "service.cilium.io/forwarding-mode"
TYPE: Final = "service.cilium.io/type"
NODE: Final = "service.cilium.io/node"
NODE_SELECTOR: Final = "service.cilium.io/node-selector"
SRC_RANGES_POLICY: Final = "service.cilium.io/src-ranges-policy"

PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
SERVICE_NAME: Final = "kubernetes.io/service-name"
HEADLESS: Final = "service.kubernetes.io/headless"
ZONE: Final = "topology.kubernetes.io/zone"
