"""The node runner: a small kubelet. It registers its node, runs the node's pods and answers kubelet's API."""
