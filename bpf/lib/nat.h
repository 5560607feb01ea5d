/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Masquerading: what leaves the cluster gets the uplink's address and a port that the node itself does not use.
 *
 * A translation is two entries, one for each direction. The one for the way back claims the port: it is made only where
 * none exists. The node's own connections from the range of ports are entered too, so both sides see each other. */
#pragma once
#include "../maps/lb.h"
#include "../maps/nat.h"
#include "clock.h"
#include "rewrite.h"

static __always_inline bool port_in_range(__be16 port)
{
	__u16 host = bpf_ntohs(port);

	return host >= config.snat_port_min && host <= config.snat_port_max;
}

static __always_inline __be16 random_port(void)
{
	__u32 count = config.snat_port_max - config.snat_port_min + 1;

	return bpf_htons(config.snat_port_min + bpf_get_prandom_u32() % count);
}

/* Does a socket of the node listen on the port, or hold just this connection? */
static __always_inline bool node_uses(struct __sk_buff *skb, const struct nat_key *in)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk = NULL;
	__u32 size;

	if (addr_is_v4(&in->dst)) {
		tuple.ipv4.saddr = in->src.w[3];
		tuple.ipv4.daddr = in->dst.w[3];
		tuple.ipv4.sport = in->sport;
		tuple.ipv4.dport = in->dport;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &in->src, sizeof(in->src));
		__builtin_memcpy(tuple.ipv6.daddr, &in->dst, sizeof(in->dst));
		tuple.ipv6.sport = in->sport;
		tuple.ipv6.dport = in->dport;
		size = sizeof(tuple.ipv6);
	}
	if (in->proto == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (in->proto == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

/* Does something answer at the port that gets packets before translations are asked? */
static __always_inline bool is_service(const struct nat_key *in)
{
	struct lb_key at = { .addr = in->dst, .port = in->dport, .proto = in->proto };

	return bpf_map_lookup_elem(&lb_services, &at);
}

static __always_inline void refresh_translation(struct nat_entry *entry, __u32 expires)
{
	if (entry->expires != expires)
		entry->expires = expires;
}

/* An answer: the translation of a service's stream lives longer by itself. */
static __always_inline void keep_at_least(struct nat_entry *entry, __u32 expires)
{
	if (is_past(entry->expires, expires))
		entry->expires = expires;
}

static __always_inline void nat_out_key(const struct flow *f, struct nat_key *key)
{
	*key = (struct nat_key){ .src = f->src, .dst = f->dst, .sport = f->sport, .dport = f->dport, .proto = f->proto, .side = NAT_OUT };
}

/* The address that a packet of this family is masqueraded with on this device; false: none. */
static __always_inline bool uplink_address(const struct __sk_buff *skb, struct addr *to)
{
	__u32 ifindex = skb->ifindex;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);

	if (!uplink)
		return false;
	*to = skb->protocol == bpf_htons(ETH_P_IP) ? uplink->v4 : uplink->v6;
	return to->w[0] || to->w[3];
}

/* The translation that this packet has to that address; NULL: none. */
static __always_inline struct nat_entry *known_translation(const struct flow *f, const struct addr *to)
{
	struct nat_entry *known;
	struct nat_key key;

	nat_out_key(f, &key);
	known = bpf_map_lookup_elem(&nat, &key);
	return known && addr_equal(&known->addr, to) ? known : NULL;
}

static __always_inline bool is_translation_to(const struct nat_entry *entry, const struct addr *to, __be16 port)
{
	return addr_equal(&entry->addr, to) && entry->port == port;
}

#define PORT_TAKEN 1

/* The way back by a port of the uplink's address, unless it is another's: made, or prolonged when it is there. */
static __always_inline bool claim_port(struct __sk_buff *skb, const struct flow *f, const struct nat_key *in, bool may_be_its, __u32 expires)
{
	struct nat_entry *known = bpf_map_lookup_elem(&nat, in);
	struct nat_entry entry = { .addr = f->src, .port = f->sport, .expires = expires };

	if (known) {
		if (!is_translation_to(known, &f->src, f->sport))
			return false;
		refresh_translation(known, expires);
		return true;
	}
	if (is_service(in) || (may_be_its && node_uses(skb, in)))
		return false;
	return !bpf_map_update_elem(&nat, in, &entry, BPF_NOEXIST);
}

/* Translates this packet to its uplink's address and a port, unless another translation has it, or the node where `may_be_its`. */
OWN_FUNCTION int take_port(struct __sk_buff *skb, __u32 port, int may_be_its, __u32 expires)
{
	struct nat_key key = { .side = NAT_IN };
	struct flow *f = this_flow();
	struct nat_entry entry = {}, *known;

	if (!f || !uplink_address(skb, &key.dst))
		return DROP_NAT_NO_MAPPING;
	key.src = f->dst;
	key.sport = f->dport;
	key.dport = port;
	key.proto = f->proto;
	if (!claim_port(skb, f, &key, may_be_its, expires))
		return PORT_TAKEN;
	entry.addr = key.dst;
	entry.port = key.dport;
	entry.expires = expires;
	nat_out_key(f, &key);
	known = bpf_map_lookup_elem(&nat, &key);
	if (known && is_translation_to(known, &entry.addr, entry.port)) {
		refresh_translation(known, expires);
		return OK;
	}
	return bpf_map_update_elem(&nat, &key, &entry, BPF_ANY) ? DROP_NAT_NO_MAPPING : OK;
}

OWN_FUNCTION int new_translation(struct __sk_buff *skb, int is_node, __u32 expires)
{
	struct flow *f = this_flow();
	int verdict;

	if (!f)
		return DROP_NAT_NO_MAPPING;
	/* SCTP's checksum covers its ports, and is too dear to compute here: it keeps its port or does not go. */
	if (f->proto == IPPROTO_SCTP || (is_node && port_in_range(f->sport))) {
		verdict = take_port(skb, f->sport, false, expires);
		if (verdict != PORT_TAKEN)
			return verdict;
		if (f->proto == IPPROTO_SCTP)
			return DROP_NAT_UNSUPPORTED_PROTOCOL;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < SNAT_TRIES; i++) {
		verdict = take_port(skb, !i && port_in_range(f->sport) ? f->sport : random_port(), true, expires);
		if (verdict != PORT_TAKEN)
			return verdict;
	}
	return DROP_NAT_NO_MAPPING;
}

/* `known`: the packet's translation to this address, if it has one, else it gets one. Of a known one the other half is looked
 * after once a tick: a full map may have let go of it, and a port that is nobody's another may have taken. */
static __always_inline int masquerade(struct __sk_buff *skb, const struct flow *f, const struct addr *to, struct nat_entry *known,
				      bool is_node, __u32 expires)
{
	struct nat_entry translation;
	int verdict;

	if (unlikely(!known || known->expires != expires)) {
		verdict = known ? take_port(skb, known->port, false, expires) : PORT_TAKEN;
		if (verdict == PORT_TAKEN)
			verdict = new_translation(skb, is_node, expires);
		if (verdict != OK)
			return verdict;
		known = known_translation(f, to);
		if (!known)
			return DROP_NAT_NO_MAPPING;
	}
	translation = *known;
	if (is_node && translation.port == f->sport)
		return OK;
	return rewrite_end(skb, SOURCE, &translation.addr, translation.port);
}

/* A pod's ICMP error about a packet that came to it by a translation. Others leave as they are. */
static __always_inline int masquerade_error(struct __sk_buff *skb, struct flow *f)
{
	struct nat_entry *known, translation;
	struct flow *quoted = quoted_flow();
	struct nat_key key;

	if (!quoted || !quoted->proto)
		return DROP_INVALID;
	nat_out_key(quoted, &key);
	known = bpf_map_lookup_elem(&nat, &key);
	if (!known)
		return OK;
	translation = *known;
	return rewrite_error(skb, SOURCE, &translation.addr, translation.port);
}

static __always_inline struct nat_entry *find_way_back(const struct flow *f)
{
	struct nat_key key = { .src = f->src, .dst = f->dst, .sport = f->sport, .dport = f->dport, .proto = f->proto, .side = NAT_IN };

	return bpf_map_lookup_elem(&nat, &key);
}

/* Gives a packet from outside back to the one who asked; f->dst tells afterwards who that is. */
static __always_inline int unmasquerade(struct __sk_buff *skb, struct flow *f)
{
	struct flow *about = f->related ? quoted_flow() : f;
	struct nat_entry *known, back;
	int verdict;

	if (!about)
		return OK;
	known = find_way_back(about);
	if (!known)
		return OK;
	back = *known;
	if (is_translation_to(&back, &f->dst, about->dport))
		return OK;
	if (f->related)
		return rewrite_error(skb, DESTINATION, &back.addr, back.port);
	keep_at_least(known, ticks() + config.ct_any);
	verdict = rewrite_end(skb, DESTINATION, &back.addr, back.port);
	f->dst = back.addr;
	f->dport = back.port;
	return verdict;
}
