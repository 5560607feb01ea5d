/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Pods of this node by address, a row a family. Written by the agent. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"

struct endpoint {
	__u32 ifindex;  /* host end of the pod's veth */
	__u32 identity;
	__u32 policy;   /* policy set; 0: not there yet, everything is dropped */
	__u16 id;       /* endpoint id: metrics and events */
	__u8 mac[6];    /* of both ends of the veth */
	__u32 flags;    /* none yet */
};
ASSERT_SIZE(struct endpoint, 24);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct endpoint);
	__uint(max_entries, ENDPOINTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} endpoints SEC(".maps");
