/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Numeric identities as upstream's, and whom an address belongs to. */
#pragma once
#include "../maps/ipcache.h"
#include "config.h"

enum identity {
	IDENTITY_HOST = 1,
	IDENTITY_WORLD = 2,
	IDENTITY_HEALTH = 4,
	IDENTITY_REMOTE_NODE = 6,
	IDENTITY_KUBE_APISERVER = 7,
	IDENTITY_INGRESS = 8,
	IDENTITY_WORLD_IPV4 = 9,
	IDENTITY_WORLD_IPV6 = 10,
	IDENTITY_CLUSTER_MIN = 256,
};

#define LOCAL_SCOPE 0xff000000u       /* identities with these bits mean something on one node only */
#define REMOTE_NODE_SCOPE 0x02000000u

static __always_inline bool identity_is_cluster(__u32 identity)
{
	__u32 local = identity & ((1u << config.cluster_id_shift) - 1);

	return !(identity & LOCAL_SCOPE) && local >= IDENTITY_CLUSTER_MIN;
}

static __always_inline bool identity_is_node(__u32 identity)
{
	return identity == IDENTITY_REMOTE_NODE || identity == IDENTITY_KUBE_APISERVER ||
	       (identity & LOCAL_SCOPE) == REMOTE_NODE_SCOPE;
}

static __always_inline __u32 identity_of_world(const struct addr *a)
{
	return addr_is_v4(a) ? config.world_ipv4 : config.world_ipv6;
}

/* What of a sender outside the pods means the same on every node. */
static __always_inline __u32 identity_to_send(__u32 identity, const struct addr *a)
{
	return identity_is_cluster(identity) ? identity : identity_of_world(a);
}

static __always_inline struct ipcache_entry *find_in_ipcache(const struct addr *a)
{
	struct ipcache_entry *entry = bpf_map_lookup_elem(&ipcache, a);
	struct prefix_key key = { 128, *a };

	return entry ?: bpf_map_lookup_elem(&ipcache_prefixes, &key);
}

static __always_inline __u32 identity_of(const struct addr *a)
{
	struct ipcache_entry *entry = find_in_ipcache(a);

	return entry ? entry->identity : identity_of_world(a);
}
