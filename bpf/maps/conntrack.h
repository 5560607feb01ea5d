/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One entry a connection and node, for both directions and both ends. Written by the programs; the agent removes what has
 * expired. TCP has a map of its own, so that a flood of datagrams evicts no stream. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"

struct ct_key {
	struct addr a WIDE, b WIDE; /* (a, a_port) is the lesser end, see conntrack.h */
	__be16 a_port, b_port;
	__u8 proto, pad[3];
};
ASSERT_SIZE(struct ct_key, 40);

enum ct_flag {
	CT_A_IS_CLIENT = 1,
	CT_REPLIED = 2,
	CT_CLIENT_CLOSED = 4,
	CT_SERVER_CLOSED = 8,
	/* By the client's last packet: */
	CT_VIA_OVERLAY = 16, /* it is behind the overlay: replies return that way */
	CT_BALANCED = 32,    /* it spoke to a service: replies get its address, see balance.h */
};

struct ct_entry {
	__u32 expires;         /* ticks */
	__u32 client_identity;
	__u32 flags;
	__u32 devices; /* of the ends on this node, see authorise.h */
};
ASSERT_SIZE(struct ct_entry, 16);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct ct_key);
	__type(value, struct ct_entry);
	__uint(max_entries, CONNTRACK_TCP_MAX);
	PINNED;
} conntrack_tcp SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct ct_key);
	__type(value, struct ct_entry);
	__uint(max_entries, CONNTRACK_ANY_MAX);
	PINNED;
} conntrack_any SEC(".maps");
