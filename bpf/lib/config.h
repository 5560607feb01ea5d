/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the loader writes before it loads an object. The section is frozen, so branches that are off cost nothing. */
#pragma once
#include "kernel.h"

struct config {
	__u32 overlay_ifindex;
	__u32 world_ipv4;       /* identity of what the ipcache does not know, by family: 9 and 10, or 2 in a single stack */
	__u32 world_ipv6;
	__u32 cluster_id_shift; /* identity >> shift is the cluster's id: 16, or 15 with 511 clusters */
	__u32 ct_tcp;           /* lifetimes in ticks, see conntrack.h */
	__u32 ct_tcp_syn;
	__u32 ct_tcp_fin;
	__u32 ct_any;
	__u16 snat_port_min;    /* host order, inclusive */
	__u16 snat_port_max;
	__be16 tunnel_port;
	__u8 masquerade_ipv4;
	__u8 masquerade_ipv6;
	__u8 coarse_clock;      /* the kernel has bpf_ktime_get_coarse_ns (5.11) */
	__u8 test;              /* under PROG_TEST_RUN tunnel keys and redirect targets travel in cb and mark */
	__u8 protect_node_ports; /* nobody on the host may bind one */
	__u8 host_sockets_only;  /* pods' packets are balanced on their way, not at the socket */
	__u16 node_port_min;    /* host order, inclusive */
	__u16 node_port_max;
	__u64 host_netns;       /* cookie of the network namespace of the node itself */
	__u32 maglev_size;      /* buckets of a look-up table */
	__u8 l2_announcements;  /* answer for announced addresses */
	__u8 reject_no_backend; /* by an ICMP error, not in silence */
	__u8 pad2[2];
	__be32 overlay_source;  /* own address in the underlay; 0: the VXLAN device wraps and unwraps everything */
	__u32 pad3;
};
ASSERT_SIZE(struct config, 72);

volatile const struct config config SEC(".rodata") = {};
