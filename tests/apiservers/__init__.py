"""API servers for tests: in this process, and as a process of its own with kubectl beside it."""
