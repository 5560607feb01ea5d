"""Real routing daemons in namespaces of their own, for tests and benchmarks."""
