"""Workload controllers of a lab's cluster: scheduler, Deployment, ReplicaSet, DaemonSet, EndpointSlice, node lifecycle."""
