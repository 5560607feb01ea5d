/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Load balancing. A service's row names two sets of backends: for clients inside the cluster and for those outside.
 *
 * Sets never change: other backends are another set, written before rows are made to name it and removed after. So nobody sees
 * half of a change, and rows with equal backends share a set. Of a set's slots the first `count` may get new connections,
 * those behind are on their way out and keep what they have. Written by the agent, except what says otherwise. */
#pragma once
#include "../lib/addr.h"
#include "../lib/limits.h"
#include "nat.h"

enum lb_flag {
	LB_EXTERNAL = 1,           /* meant for clients outside */
	LB_AFFINITY = 2,
	LB_SOURCE_RANGES = 4,      /* clients outside have to be looked up in lb_sources */
	LB_SOURCE_RANGES_DENY = 8, /* those found there are refused, not admitted */
	LB_EXTERNAL_LOCAL = 16,    /* externalTrafficPolicy: Local, so the client's address is kept */
	LB_MAGLEV = 32,            /* the external set has a table in lb_maglev */
	LB_ROUTABLE = 64,          /* a cluster address that clients outside may use */
};

struct lb_key {
	struct addr addr; /* 0.0.0.0 or :: stands for any node's: node ports */
	__be16 port;
	__u8 proto, pad;
};
ASSERT_SIZE(struct lb_key, 20);

struct lb_service {
	__u32 id; /* of this row: affinity and source ranges are by it */
	__u32 flags;
	__u32 internal_set, internal_count;
	__u32 external_set, external_count;
	__u32 affinity_s;
};
ASSERT_SIZE(struct lb_service, 28);

struct lb_slot_key {
	__u32 set, slot;
};
ASSERT_SIZE(struct lb_slot_key, 8);

struct lb_backend {
	struct addr addr;
	__be16 port;
	__u8 terminating, pad;
};
ASSERT_SIZE(struct lb_backend, 20);

struct lb_member_key {
	__u32 set;
	struct addr addr;
	__be16 port;
	__u8 pad[2];
};
ASSERT_SIZE(struct lb_member_key, 24);

struct lb_source_key {
	__u32 prefixlen; /* 32 for the service, and of the address 128: IPv4 adds 96 */
	__u32 service;
	struct addr addr;
};
ASSERT_SIZE(struct lb_source_key, 24);

struct lb_maglev_key {
	__u32 set, part; /* bucket / MAGLEV_PART */
};
ASSERT_SIZE(struct lb_maglev_key, 8);

struct lb_maglev_part {
	__u16 slots[MAGLEV_PART];
};
ASSERT_SIZE(struct lb_maglev_part, 128);

struct lb_client_key {
	struct addr client; /* or the cookie of its network namespace in the first half, the second one zero */
	__u32 service;
};
ASSERT_SIZE(struct lb_client_key, 20);

struct lb_client {
	struct addr addr;
	__be16 port;
	__u16 pad;
	__u32 used; /* ticks */
};
ASSERT_SIZE(struct lb_client, 24);

struct lb_origin_key {
	__u64 socket; /* cookie */
	struct addr addr;
	__be16 port;
	__u8 pad[6];
};
ASSERT_SIZE(struct lb_origin_key, 32);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct lb_key);
	__type(value, struct lb_service);
	__uint(max_entries, LB_SERVICES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} lb_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct lb_slot_key);
	__type(value, struct lb_backend);
	__uint(max_entries, LB_BACKENDS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} lb_slots SEC(".maps");

struct { /* value: whether it is terminating */
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct lb_member_key);
	__type(value, __u32);
	__uint(max_entries, LB_BACKENDS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} lb_members SEC(".maps");

struct { /* loadBalancerSourceRanges */
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct lb_source_key);
	__type(value, __u32);
	__uint(max_entries, LB_SOURCES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} lb_sources SEC(".maps");

struct { /* look-up tables in parts, by set */
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct lb_maglev_key);
	__type(value, struct lb_maglev_part);
	__uint(max_entries, LB_MAGLEV_PARTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	PINNED;
} lb_maglev SEC(".maps");

struct { /* which backend a client had last; written by the programs */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct lb_client_key);
	__type(value, struct lb_client);
	__uint(max_entries, LB_CLIENTS_MAX);
	PINNED;
} lb_clients SEC(".maps");

struct lb_flow {
	struct addr addr; /* of the backend, or of the service */
	__be16 port;
	__u16 closed;     /* this direction has ended */
	__u32 expires;    /* ticks */
};
ASSERT_SIZE(struct lb_flow, 24);

struct { /* packets' flows: to which backend, and to which address of a service; written by the programs */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct nat_key); /* side: enum lb_side */
	__type(value, struct lb_flow);
	__uint(max_entries, LB_FLOWS_MAX);
	PINNED;
} lb_flows SEC(".maps");

struct { /* what a socket's peer was before translation; written by the programs */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct lb_origin_key);
	__type(value, struct lb_key);
	__uint(max_entries, LB_ORIGINS_MAX);
	PINNED;
} lb_origins SEC(".maps");
