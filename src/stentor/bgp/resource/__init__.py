"""BGP as Kubernetes resources: from what users write and what the node knows to the speaker's configuration and routes.

 CiliumBGPPeeringPolicy ─┐
                         ├► plan ─► speaker configuration, one export policy a peer and family
 CiliumBGPNodeConfig … ──┘    │
                              ▼ entries
 services, frontends, kernel ─► contributions ─► routes with the names of their entries as tags

An export policy lets through what carries the tag of one of its entries and sets their attributes. So a service that comes or
goes is one change of a route, and a change of attributes is one of a policy: neither touches a session.
"""
