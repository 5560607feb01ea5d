"""Typed resources: what Stentor reads and writes of the Kubernetes API, as frozen structs.

Only the fields in use are declared; unknown ones are ignored on reading, so whoever changes an object that others
write too sends a patch, never the decoded struct. `Kind` ties a type to its place in the API.
"""
