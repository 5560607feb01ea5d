/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports of a datagram's first fragment, for the later ones. Written by the programs only. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"

struct fragment_key {
	struct addr src WIDE, dst WIDE;
	__be32 id; /* IPv4: 16 bits of it */
	__u8 proto, pad[3]; /* IPv6: 0, later fragments need not know it (RFC 8200 4.5) */
};
ASSERT_SIZE(struct fragment_key, 40);

struct fragment {
	__be16 sport, dport;
	__u8 icmp_type, proto, pad[2];
};
ASSERT_SIZE(struct fragment, 8);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, FRAGMENTS_MAX);
	PINNED;
} fragments SEC(".maps");
