"""A BGP speaker: pure protocol modules, thin sockets around them.

Pure (no sockets, clocks, logs): ``nlri`` ``attribute`` ``capability`` ``wire`` ``update`` (messages), ``fsm`` (a connection),
``decision`` ``policy`` ``rib`` ``outbound`` (routes), ``bfd.packet`` ``bfd.session``.
Acting: ``connection`` ``attempt`` ``neighbour`` ``instance`` ``speaker`` (TCP), ``advertisement`` (router advertisements),
``kernel`` (its routes), ``control`` (unix socket), ``bfd.process``.

Specifications: RFC 4271 BGP-4 · 4760 multiprotocol · 6793 four-octet AS · 5492 capabilities · 9072 long OPEN · 2918 and 7313
route refresh · 4724 and 8538 graceful restart · 9494 long-lived graceful restart · 1997, 8092, 4360 communities · 7606 error
handling · 7911 additional paths · 8654 extended messages · 8950 IPv4 over IPv6 next hops · 4456 loop detection of reflected
routes · 9003 shutdown text · 8326 graceful shutdown · 5082 GTSM · 2385 TCP MD5 · 6286 identifiers · 4486 cease subcodes ·
5880–5883 BFD.
"""
