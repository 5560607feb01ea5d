/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who has an address and behind which node. Written by the agent.
 * Two maps: single addresses in a hash (27 ns at any size), shorter prefixes in a trie that is asked after it. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"

enum ipcache_flag {
	IPCACHE_REMOTE_CLUSTER = 1,
	IPCACHE_SKIP_TUNNEL = 2, /* a node's own address: connections to it go direct, replies to what came by overlay return so */
	IPCACHE_TUNNEL = 4,      /* `tunnel` is set: behind the overlay */
	IPCACHE_NO_NODE_PORT = 8, /* a node's address at which node ports are not served */
};

struct ipcache_entry {
	__u32 identity;
	__u16 flags;
	__u8 encrypt_key, pad;
	struct addr tunnel;
};
ASSERT_SIZE(struct ipcache_entry, 24);

struct prefix_key {
	__u32 prefixlen; /* of 128: IPv4 adds 96 */
	struct addr addr;
};
ASSERT_SIZE(struct prefix_key, 20);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct ipcache_entry);
	__uint(max_entries, IPCACHE_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} ipcache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_key);
	__type(value, struct ipcache_entry);
	__uint(max_entries, IPCACHE_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} ipcache_prefixes SEC(".maps");
