/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What was forwarded and what was dropped, and an event for each drop. Written by the programs, read by the agent. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"

struct count {
	__u64 packets, bytes;
};
ASSERT_SIZE(struct count, 16);

struct drop_key {
	__u16 endpoint; /* 0: none of this node's */
	__u8 reason, direction;
};
ASSERT_SIZE(struct drop_key, 4);

enum event_kind { EVENT_DROP = 1 };

struct event {
	__u64 time_ns; /* monotonic clock */
	__u32 ifindex, length;
	__u32 src_identity, dst_identity;
	struct addr src, dst;
	__be16 sport, dport;
	__u16 endpoint;
	__u8 proto, icmp_type;
	__u8 kind, reason, direction, pad[5];
};
ASSERT_SIZE(struct event, 72);

struct { /* index: enum direction */
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct count);
	__uint(max_entries, 3);
	PINNED;
} forwarded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct drop_key);
	__type(value, struct count);
	__uint(max_entries, DROPS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_BYTES);
	PINNED;
} events SEC(".maps");
