/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every limit of the datapath. Map capacities are upstream's defaults; the agent overrides them when it creates the maps. */
#pragma once

#define ENDPOINTS_MAX 65536
#define IPCACHE_MAX 512000
#define NODES_MAX 16384
#define PEERS_MAX 262144
#define CLASSES_MAX 262144
#define CONNTRACK_TCP_MAX 524288
#define CONNTRACK_ANY_MAX 262144
#define NAT_MAX 524288
#define FRAGMENTS_MAX 8192
#define MASQUERADE_EXCLUSIONS_MAX 16384
#define UPLINKS_MAX 64
#define DROPS_MAX 65536
#define EVENTS_BYTES (1 << 18)
#define LB_SERVICES_MAX 65536
#define LB_BACKENDS_MAX 65536
#define LB_SOURCES_MAX 65536
#define LB_CLIENTS_MAX 65536
#define LB_ORIGINS_MAX 262144
#define LB_FLOWS_MAX 524288
#define LB_MAGLEV_PARTS_MAX 524288
#define L2_RESPONDERS_MAX 65536
#define L2_LEASES_MAX 65536

#define LINEAR_BYTES 128   /* headers are made linear once, up to here */
#define HEADERS_MAX 1024   /* no header is looked for behind this */
#define IPV6_EXTENSIONS 4  /* extension headers walked before a packet is refused, as upstream */
#define SNAT_TRIES 16      /* ports tried before a new connection is refused */
#define REJECTIONS_PER_TICK 1000 /* ICMP errors a CPU */
#define MAGLEV_PART 64     /* buckets in one row */
