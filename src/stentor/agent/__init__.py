"""The agent, one a node: sources fill tables, derivations decide, reconcilers drive the kernel. `wiring` shows the picture."""
