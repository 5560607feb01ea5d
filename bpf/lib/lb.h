/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a service to one of its backends: what sockets and packets have in common. */
#pragma once
#include "../maps/lb.h"
#include "clock.h"
#include "identity.h"

struct lb_set {
	__u32 id, count;
};

static __always_inline struct lb_set internal_set(const struct lb_service *service)
{
	return (struct lb_set){ service->internal_set, service->internal_count };
}

static __always_inline struct lb_set external_set(const struct lb_service *service)
{
	return (struct lb_set){ service->external_set, service->external_count };
}

static __always_inline struct addr any_address(const struct addr *like)
{
	struct addr any = {};

	any.w[2] = addr_is_v4(like) ? V4_MARK : 0;
	return any;
}

static __always_inline bool in_node_port_range(__be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= config.node_port_min && number <= config.node_port_max;
}

static __always_inline bool is_loopback(const struct addr *a)
{
	if (addr_is_v4(a))
		return (a->w[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->w[0] && !a->w[1] && !a->w[2] && a->w[3] == bpf_htonl(1);
}

/* What a pod sees as its own address when a service leads it to itself: 169.254.42.1 and fe80::1, as upstream. */
static __always_inline struct addr service_loopback(const struct addr *like)
{
	if (addr_is_v4(like))
		return addr_from_v4(bpf_htonl(0xa9fe2a01));
	return (struct addr){ { bpf_htonl(0xfe800000), 0, 0, bpf_htonl(1) } };
}

/* This node's address or another one's. */
static __always_inline bool has_node_ports(const struct addr *a)
{
	struct ipcache_entry *known = find_in_ipcache(a);

	return known && (known->identity == IDENTITY_HOST || identity_is_node(known->identity)) &&
	       !(known->flags & IPCACHE_NO_NODE_PORT);
}

/* The service at an address and port; a node port is one at every node's address. */
static __always_inline struct lb_service *find_service(const struct lb_key *at, bool may_be_loopback)
{
	struct lb_service *exact = bpf_map_lookup_elem(&lb_services, at);
	struct lb_key anywhere = *at;

	if (is_unspecified(&at->addr)) /* what a stack takes for its own loopback */
		return may_be_loopback ? exact : NULL;
	if (exact || !in_node_port_range(at->port))
		return exact;
	if (!(may_be_loopback && is_loopback(&at->addr)) && !has_node_ports(&at->addr))
		return NULL;
	anywhere.addr = any_address(&at->addr);
	return bpf_map_lookup_elem(&lb_services, &anywhere);
}

static __always_inline struct lb_backend *find_slot(struct lb_set set, __u32 slot)
{
	struct lb_slot_key key = { set.id, slot };

	return bpf_map_lookup_elem(&lb_slots, &key);
}

static __always_inline bool is_member(__u32 set, const struct addr *addr, __be16 port)
{
	struct lb_member_key key = { .set = set, .addr = *addr, .port = port };

	return bpf_map_lookup_elem(&lb_members, &key) != NULL;
}

static __always_inline __u32 ticks_of(__u32 seconds)
{
	return (seconds * 1000000000ULL >> TICK_SHIFT) + 1;
}

/* The backend that the client had last, while it is a backend and its time has not run out. */
static __always_inline bool recall_backend(const struct lb_service *service, struct lb_set set,
					   const struct lb_client_key *who, struct lb_backend *chosen)
{
	struct lb_client *last = bpf_map_lookup_elem(&lb_clients, who);
	__u32 now = ticks();

	if (!last || is_past(last->used + ticks_of(service->affinity_s), now) || !is_member(set.id, &last->addr, last->port))
		return false;
	if (last->used != now)
		last->used = now;
	chosen->addr = last->addr;
	chosen->port = last->port;
	return true;
}

static __always_inline void remember_backend(const struct lb_client_key *who, const struct lb_backend *chosen)
{
	struct lb_client fresh = { .addr = chosen->addr, .port = chosen->port, .used = ticks() };

	bpf_map_update_elem(&lb_clients, who, &fresh, BPF_ANY);
}
