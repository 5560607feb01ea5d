/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Masquerading: translations (written by the programs, expired ones removed by the agent), the addresses to translate to and
 * the destinations that see pods' own addresses (both written by the agent). */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"
#include "ipcache.h"

/* A packet as it meets the uplink. OUT: as its sender made it; IN: as the outside answers it. */
enum nat_side { NAT_OUT = 1, NAT_IN = 2 };

struct nat_key {
	struct addr src WIDE, dst WIDE;
	__be16 sport, dport;
	__u8 proto, side, pad[2];
};
ASSERT_SIZE(struct nat_key, 40);

struct nat_entry {
	struct addr addr; /* OUT: the new source; IN: the new destination */
	__be16 port;
	__u16 pad;
	__u32 expires;    /* ticks; a pod's entry lives at least as long as its connection */
};
ASSERT_SIZE(struct nat_entry, 24);

struct uplink {
	struct addr v4, v6; /* zero: do not masquerade this family here */
};
ASSERT_SIZE(struct uplink, 32);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct nat_key);
	__type(value, struct nat_entry);
	__uint(max_entries, NAT_MAX);
	PINNED;
} nat SEC(".maps");

struct { /* key: ifindex */
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct uplink);
	__uint(max_entries, UPLINKS_MAX);
	PINNED;
} uplinks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_key);
	__type(value, __u32);
	__uint(max_entries, MASQUERADE_EXCLUSIONS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} masquerade_exclusions SEC(".maps");
