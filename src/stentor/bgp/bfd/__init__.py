"""Bidirectional Forwarding Detection (RFC 5880, 5881, 5882, 5883) in a process of its own.

    speaker ── client ──unix socket── process ──UDP 3784 / 4784── neighbour
                                       │ one ``session`` a neighbour (pure), fed by timers and packets

Asynchronous mode, single hop and multihop, IPv4, IPv6 and link-local; no echo, no authentication, no demand of our own (a
neighbour's demand is honoured). The process outlives the speaker, so that every packet carries the C bit: BFD and graceful
restart work together (RFC 5882 §4.3).

Pure: ``packet`` ``session`` ``message``. Acting: ``port`` (UDP sockets), ``member``, ``process`` (timers, clients),
``command``, ``client``.
"""
