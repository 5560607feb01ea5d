/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where a packet goes that may go: into a pod of this node, or into the overlay. */
#pragma once
#include "../maps/endpoints.h"
#include "../maps/ipcache.h"
#include "config.h"
#include "packet.h"
#include "verdict.h"
#include "vxlan.h"

/* Under PROG_TEST_RUN nobody sees where a redirect goes, but the context comes back. */
static __always_inline void show_target(struct __sk_buff *skb, __u32 ifindex)
{
	if (config.test)
		skb->mark = ifindex;
}

static __always_inline int deliver_locally(struct __sk_buff *skb, const struct endpoint *to)
{
	__u32 ifindex = to->ifindex;
	__u8 mac[ETH_ALEN];
	struct ethhdr *eth;

	__builtin_memcpy(mac, to->mac, ETH_ALEN);
	eth = header_at(skb, 0, sizeof(*eth));
	if (!eth)
		return DROP_INVALID;
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN); /* for bridges and virtual machines inside a pod */
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	show_target(skb, ifindex);
	return bpf_redirect_peer(ifindex, 0);
}

/* Wrapped here and out by the uplink, with a route and neighbour as of now. OK: that is for the VXLAN device to do. */
static __always_inline int leave_wrapped(struct __sk_buff *skb, const struct flow *f, __be32 node, __u32 identity, bool is_routed)
{
	struct bpf_fib_lookup way = { .family = AF_INET, .ifindex = LOOPBACK, .ipv4_dst = node };
	struct bpf_redir_neigh next = { .nh_family = AF_INET };
	long found = BPF_FIB_LKUP_RET_SUCCESS;
	struct contents inner;
	int verdict;

	way.tot_len = wrapped_length(skb, f);
	if (!way.tot_len)
		return OK;
	if (!config.test) /* what comes out must not depend on the routes of the one who tests */
		found = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH && is_routed) /* it would wait for the neighbour as a packet of its old route, and get lost */
		return OK;
	if ((found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) || way.family != AF_INET)
		return OK;
	inner = contents_of(skb);
	if (!make_room(skb))
		return OK;
	verdict = write_wrapping(skb, node, identity, inner);
	if (verdict != OK)
		return verdict;
	next.ipv4_nh = way.ipv4_dst;
	show_target(skb, config.overlay_ifindex);
	return bpf_redirect_neigh(way.ifindex, &next, sizeof(next), 0);
}

/* Wrapped by the VXLAN device. */
OWN_FUNCTION int leave_by_device(struct __sk_buff *skb, __u64 node_first, __u64 node_last, __u32 identity)
{
	struct bpf_tunnel_key key = { .tunnel_id = identity, .tunnel_ttl = OUTER_TTL };
	struct addr node = addr_from_words(node_first, node_last);
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (addr_is_v4(&node)) {
		key.remote_ipv4 = bpf_ntohl(node.w[3]); /* host order, unlike remote_ipv6 */
	} else {
		__builtin_memcpy(key.remote_ipv6, &node, sizeof(node));
		flags = BPF_F_TUNINFO_IPV6;
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return DROP_WRITE_ERROR;
	show_target(skb, config.overlay_ifindex);
	if (config.test) {
		skb->cb[0] = identity;
		skb->cb[1] = node.w[0];
		skb->cb[2] = node.w[1];
		skb->cb[3] = node.w[2];
		skb->cb[4] = node.w[3];
	}
	return bpf_redirect(config.overlay_ifindex, 0);
}

/* `is_routed`: by the stack, to another device. */
static __always_inline int encapsulate(struct __sk_buff *skb, const struct flow *f, const struct ipcache_entry *to, __u32 identity,
				       bool is_routed)
{
	int verdict;

	if (config.overlay_source && addr_is_v4(&to->tunnel)) {
		verdict = leave_wrapped(skb, f, to->tunnel.w[3], identity, is_routed);
		if (likely(verdict != OK))
			return verdict;
	}
	return leave_by_device(skb, first_words(&to->tunnel), last_words(&to->tunnel), identity);
}
