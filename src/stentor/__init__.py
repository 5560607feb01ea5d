"""Stentor: Cilium-compatible networking, an eBPF datapath steered by an asyncio control plane."""

__version__ = "0.1.0"
