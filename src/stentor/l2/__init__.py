"""L2 announcements: which addresses of services this node answers for on its links (CiliumL2AnnouncementPolicy).

    policies, services, frontends, nodes, links ──► wanted announcements ──► leases ──► announcements (for the map)

`policy` reads policies at the edge, `expression` their interface names, `selection` decides what this node may announce,
`campaign` by which lease it does, `neighbour` what its neighbours are told. All of it is pure. See docs/l2-announcements.md.
"""
