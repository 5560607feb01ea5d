"""Cluster DNS: Kubernetes' DNS specification 1.1 over UDP and TCP, and forwarding of everything else. See docs/dns.md."""
