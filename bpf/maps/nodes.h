/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Outer source addresses from which the overlay takes packets. Written by the agent. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"

struct node {
	__u32 identity;
	__u16 id, pad;
};
ASSERT_SIZE(struct node, 8);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct node);
	__uint(max_entries, NODES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} nodes SEC(".maps");
