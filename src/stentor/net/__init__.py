"""Values without I/O: addresses, prefixes, labels, identities."""
