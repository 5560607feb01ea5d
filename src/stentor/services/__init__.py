"""Services without kube-proxy: pure derivations from Services and EndpointSlices to load-balancing entries.

    services, endpoint_slices, host_ports, local_nodes ──► frontends (claims of services) ──► lb_entries (for the maps)

`parse` turns API objects into rows at the edge, `selection` chooses backends, `frontend` expands services into frontends,
`claim` settles who gets an address and port. `maglev` makes look-up tables. See docs/services.md.
"""
