/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Changing one end of a packet, with all checksums. Packet pointers are gone afterwards. */
#pragma once
#include "flow.h"

enum which_end { SOURCE, DESTINATION };

static __always_inline __u32 address_offset(bool v4, enum which_end which)
{
	if (v4)
		return which == SOURCE ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	return which == SOURCE ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);
}

/* Where an ICMP echo has its id, and others the port of this end. */
static __always_inline __u32 port_offset(__u8 proto, enum which_end which)
{
	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6)
		return offsetof(struct icmp_start, id);
	return which == SOURCE ? offsetof(struct ports, src) : offsetof(struct ports, dst);
}

/* 0: SCTP, whose checksum does not cover addresses and which keeps its ports. */
static __always_inline __u32 checksum_offset(__u8 proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return offsetof(struct icmp_start, sum);
	}
	return 0;
}

static __always_inline bool store_address(struct __sk_buff *skb, __u32 l3, enum which_end which, const struct addr *from, const struct addr *to)
{
	bool v4 = addr_is_v4(to);

	if (!v4)
		return !bpf_skb_store_bytes(skb, l3 + address_offset(false, which), to, sizeof(*to), 0);
	return !bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), from->w[3], to->w[3], 4) &&
	       !bpf_skb_store_bytes(skb, l3 + address_offset(true, which), &to->w[3], 4, 0);
}

/* `pseudo`: the checksum covers the address as part of a pseudo header (all but ICMPv4). */
static __always_inline bool fix_address_checksum(struct __sk_buff *skb, __u32 at, __u64 flags, const struct addr *from, const struct addr *to)
{
	__s64 difference = bpf_csum_diff((void *)from, sizeof(*from), (void *)to, sizeof(*to), 0);

	return difference >= 0 && !bpf_l4_csum_replace(skb, at, 0, difference, flags);
}

static __always_inline int rewrite_flow(struct __sk_buff *skb, const struct flow *f, enum which_end which, const struct addr *to, __be16 port)
{
	const struct addr *from = which == SOURCE ? &f->src : &f->dst;
	__be16 old_port = which == SOURCE ? f->sport : f->dport;
	__u32 sum = checksum_offset(f->proto);
	/* A sum of zero would say that there is none: nobody takes such a datagram over IPv6 (RFC 8200 section 8.1). */
	__u64 mangled = f->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (!store_address(skb, ETH_HLEN, which, from, to))
		return DROP_WRITE_ERROR;
	if (f->fragment == LATER_FRAGMENT || !sum)
		return OK;
	if (f->proto != IPPROTO_ICMP && !fix_address_checksum(skb, f->l4 + sum, BPF_F_PSEUDO_HDR | mangled, from, to))
		return DROP_WRITE_ERROR;
	if (old_port == port)
		return OK;
	if (bpf_l4_csum_replace(skb, f->l4 + sum, old_port, port, mangled | sizeof(port)) ||
	    bpf_skb_store_bytes(skb, f->l4 + port_offset(f->proto, which), &port, sizeof(port), 0))
		return DROP_WRITE_ERROR;
	return OK;
}

OWN_FUNCTION int rewrite_end_words(struct __sk_buff *skb, __u32 which, __u64 first, __u64 second, __u32 port)
{
	struct addr to = addr_from_words(first, second);
	struct flow *f = this_flow();

	if (!f)
		return DROP_INVALID;
	return which == SOURCE ? rewrite_flow(skb, f, SOURCE, &to, port) : rewrite_flow(skb, f, DESTINATION, &to, port);
}

/* One end of this packet. Its flow stays as it is. */
static __always_inline int rewrite_end(struct __sk_buff *skb, enum which_end which, const struct addr *to, __be16 port)
{
	return rewrite_end_words(skb, which, first_words(to), last_words(to), port);
}

/* An ICMP error: its own end, and that of the packet that it quotes, which is there on the other side. A router's error too
 * comes from where the packets come that it is about: nothing on the receiver's way need lead to the router, and reverse path
 * filters would refuse it. The flows of both are changed too. The quoted packet's own L4 checksum stays as it was: nobody looks
 * at it, and often it is cut off. */
static __always_inline int rewrite_quoting(struct __sk_buff *skb, struct flow *f, struct flow *quoted, enum which_end which,
					   const struct addr *to, __be16 port)
{
	struct addr *from = which == SOURCE ? &f->src : &f->dst;
	struct addr *inner_from = which == SOURCE ? &quoted->src : &quoted->dst;
	__be16 *old_port = which == SOURCE ? &quoted->sport : &quoted->dport, was = *old_port;
	enum which_end inner = which == SOURCE ? DESTINATION : SOURCE;
	__u32 sum = f->l4 + offsetof(struct icmp_start, sum), inner_l3 = f->l4 + sizeof(struct icmp_start);

	if (!store_address(skb, ETH_HLEN, which, from, to))
		return DROP_WRITE_ERROR;
	if (f->proto == IPPROTO_ICMPV6 && !fix_address_checksum(skb, sum, BPF_F_PSEUDO_HDR, from, to))
		return DROP_WRITE_ERROR;
	*from = *to;
	if (!store_address(skb, inner_l3, inner, inner_from, to))
		return DROP_WRITE_ERROR;
	/* IPv4: the quoted header's own checksum makes up for its address. IPv6 has none. */
	if (f->proto == IPPROTO_ICMPV6 && !fix_address_checksum(skb, sum, 0, inner_from, to))
		return DROP_WRITE_ERROR;
	*inner_from = *to;
	*old_port = port;
	if (was == port)
		return OK;
	if (bpf_l4_csum_replace(skb, sum, was, port, sizeof(port)) ||
	    bpf_skb_store_bytes(skb, quoted->l4 + port_offset(quoted->proto, inner), &port, sizeof(port), 0))
		return DROP_WRITE_ERROR;
	return OK;
}

OWN_FUNCTION int rewrite_error_words(struct __sk_buff *skb, __u32 which, __u64 first, __u64 second, __u32 port)
{
	struct addr to = addr_from_words(first, second);
	struct flow *f = this_flow(), *quoted = quoted_flow();

	return f && quoted ? rewrite_quoting(skb, f, quoted, which, &to, port) : DROP_INVALID;
}

static __always_inline int rewrite_error(struct __sk_buff *skb, enum which_end which, const struct addr *to, __be16 port)
{
	return rewrite_error_words(skb, which, first_words(to), last_words(to), port);
}
