"""Machines of one process for tests of the node runner: namespaces of their own, an API server, a runner."""
