"""A Kubernetes-compatible API server for labs and for bare Linux: one process, one event loop, SQLite below.

A request flows: `server` (HTTP) -> `authentication`, `authorization` -> `rest` (the verbs on objects; `structural`,
`validation` and `strategy` hold what a kind must look like) -> `store` (group commit, events), or -> `listing`, `watch`,
`discovery`, `openapi`, `kubelet`. `lifecycle` and `garbage` follow the events. docs/apiserver.md has the picture.
Documents stay plain JSON objects here: the server carries fields that it has never heard of.
"""
