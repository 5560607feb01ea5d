"""A Kubernetes-compatible API server for labs and for bare Linux: one process, one event loop, SQLite below.

A request flows: `server` (HTTP) -> `authentication`, `authorization` -> `rest` (verbs) -> `strategy` (per-kind rules,
with `default`, `rule`, `structural`) -> `store` (group commit) -> `cache` (buckets, watchers) -> `wire` (JSON, Table).
Documents stay plain JSON objects here: the server carries fields that it has never heard of.
"""
