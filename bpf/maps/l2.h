/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Addresses that this node answers for on a link, and how long it may. Written by the agent, `responses` by the programs. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"

struct l2_key {
	struct addr addr;
	__u32 ifindex;
};
ASSERT_SIZE(struct l2_key, 20);

struct l2_responder {
	__u64 lease;         /* key of l2_leases: the row is good as long as that lease is */
	__u8 mac[ETH_ALEN];  /* the link's own */
	__u16 pad;
	__u64 responses;
};
ASSERT_SIZE(struct l2_responder, 24);

struct l2_lease {
	__u64 until; /* ns of the boot clock, which runs on while the machine sleeps */
};
ASSERT_SIZE(struct l2_lease, 8);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct l2_key);
	__type(value, struct l2_responder);
	__uint(max_entries, L2_RESPONDERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} l2_responder SEC(".maps");

/* One row a lease, so that a renewal is one write, however many addresses hang on it. Who is dead does not renew: its answers
 * end before anybody else may give them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct l2_lease);
	__uint(max_entries, L2_LEASES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} l2_leases SEC(".maps");
