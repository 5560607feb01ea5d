/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who sent a packet that came through the overlay. The underlay authenticates nothing; what can be checked is checked:
 * the outer source is a node we know, the identity is one that may travel, and the ipcache does not contradict it. */
#pragma once
#include "../maps/nodes.h"
#include "flow.h"
#include "identity.h"

static __always_inline int read_tunnel_key(struct __sk_buff *skb, __u32 *identity, struct addr *outer)
{
	struct bpf_tunnel_key key = {};

	if (config.test) { /* there is no tunnel under PROG_TEST_RUN */
		*identity = skb->cb[0];
		*outer = (struct addr){ { skb->cb[1], skb->cb[2], skb->cb[3], skb->cb[4] } };
		return OK;
	}
	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		*outer = addr_from_v4(bpf_htonl(key.remote_ipv4));
	else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(outer, key.remote_ipv6, sizeof(*outer));
	else
		return DROP_NO_TUNNEL_KEY;
	*identity = key.tunnel_id;
	return OK;
}

static __always_inline int check_sender(struct flow *f, __u32 sent)
{
	struct ipcache_entry *known = find_in_ipcache(&f->src);
	__u32 expected = known ? known->identity : 0;

	if (identity_is_cluster(expected) && !(known->flags & IPCACHE_TUNNEL)) /* our own pods do not live behind the overlay */
		return DROP_INVALID_SOURCE;
	if (sent == IDENTITY_HOST) { /* the sender's own; to us it is another node */
		f->src_id = expected ?: IDENTITY_REMOTE_NODE;
		return identity_is_node(f->src_id) ? OK : DROP_INVALID_IDENTITY;
	}
	f->src_id = sent;
	if (sent == IDENTITY_WORLD || sent == IDENTITY_WORLD_IPV4 || sent == IDENTITY_WORLD_IPV6 ||
	    sent == IDENTITY_HEALTH || sent == IDENTITY_INGRESS)
		return expected == IDENTITY_HOST || identity_is_cluster(expected) ? DROP_INVALID_IDENTITY : OK;
	if (!identity_is_cluster(sent))
		return DROP_INVALID_IDENTITY;
	if (expected == IDENTITY_HOST || identity_is_node(expected))
		return DROP_INVALID_IDENTITY;
	if (identity_is_cluster(expected) && expected >> config.cluster_id_shift != sent >> config.cluster_id_shift)
		return DROP_INVALID_IDENTITY;
	return OK;
}

/* Fills the flow's source identity. */
static __always_inline int identify_sender(struct __sk_buff *skb, struct flow *f)
{
	struct addr outer = {};
	__u32 identity = 0;
	int verdict = read_tunnel_key(skb, &identity, &outer);

	if (verdict != OK)
		return verdict;
	if (!bpf_map_lookup_elem(&nodes, &outer))
		return DROP_UNKNOWN_SENDER;
	return check_sender(f, identity);
}
